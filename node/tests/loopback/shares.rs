//! Files that stay with a peer: found by asking, in the zone first; fetched, and then shared by one more.

use peernet_proto::v1;
use peernet_proto::v1::fetch_share_request::Wanted;
use peernet_proto::v1::fetch_share_response::Part;
use peernet_proto::v1::share_request;
use peernet_proto::v1::shares_client::SharesClient;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::network::{Network, Peer, bytes, until};

const MIB: usize = 1024 * 1024;
const NAME: &str = "films/Blue Sky.mkv";

pub(crate) fn shares(peer: &Peer) -> SharesClient<Channel> {
    SharesClient::new(peer.channel())
}

pub(crate) async fn share(peer: &Peer, name: &str, data: &[u8]) -> Result<v1::SharedInfo, Status> {
    let header = v1::ShareHeader {
        name: name.into(),
        content_type: "video/x-test".into(),
        size: Some(data.len() as u64),
        tags: vec!["Drama".into()],
    };
    let mut parts = vec![v1::ShareRequest {
        part: Some(share_request::Part::Header(header)),
    }];
    parts.extend(data.chunks(300_000).map(|part| v1::ShareRequest {
        part: Some(share_request::Part::Data(part.to_vec().into())),
    }));
    let shared = shares(peer).share(tokio_stream::iter(parts)).await?;
    Ok(shared.into_inner().file.expect("what was shared"))
}

pub(crate) async fn fetch(peer: &Peer, name: &str, everywhere: bool) -> Result<Vec<u8>, Status> {
    let request = v1::FetchShareRequest {
        wanted: Some(Wanted::Name(name.into())),
        everywhere,
    };
    let mut parts = shares(peer).fetch(request).await?.into_inner();
    let mut data = Vec::new();
    while let Some(part) = parts.message().await? {
        match part.part {
            Some(Part::Data(bytes)) => data.extend_from_slice(&bytes),
            Some(Part::File(file)) => assert_eq!(file.name, name),
            None => panic!("an empty part"),
        }
    }
    Ok(data)
}

/// Fetches it, and looks again for what was not found: who does not get to answer within a second is not.
async fn fetched(peer: &Peer, name: &str, everywhere: bool) -> Vec<u8> {
    let mut data = None;
    until(&format!("'{name}' is fetched"), async || {
        match fetch(peer, name, everywhere).await {
            Ok(all) => data = Some(all),
            Err(status) => println!("{name}: {status}"),
        }
        data.is_some()
    })
    .await;
    data.expect("it was fetched")
}

/// Names of the peers that are found to share something, and the cost.
async fn find(
    peer: &Peer,
    text: &str,
    everywhere: bool,
    method: v1::SearchMethod,
) -> (Vec<String>, v1::SearchCost) {
    let request = v1::FindSharesRequest {
        text: text.into(),
        method: method.into(),
        everywhere,
        ..Default::default()
    };
    let found = shares(peer).find(request).await.expect("an answer");
    let v1::FindSharesResponse { hits, cost } = found.into_inner();
    let mut peers: Vec<String> = hits.into_iter().map(|h| h.peer).collect();
    peers.sort();
    (peers, cost.expect("a cost"))
}

async fn flood(peer: &Peer, everywhere: bool) -> Vec<String> {
    find(peer, "sky DRAMA", everywhere, v1::SearchMethod::Flood)
        .await
        .0
}

async fn who(peer: &Peer, name: &str, everywhere: bool) -> Result<v1::WhoResponse, Status> {
    let request = v1::WhoRequest {
        name: name.into(),
        everywhere,
    };
    Ok(shares(peer).who(request).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_file_is_found_in_its_zone_fetched_and_outlives_its_first_peer() {
    let mut network = Network::start_in(&["a", "a", "a", "b"]).await;
    let film = bytes(2 * MIB + 77, 1);
    let info = share(&network.peers[0], NAME, &film).await.unwrap();
    assert_eq!(info.size, film.len() as u64);

    // Found within the zone, by both ways, and by nobody elsewhere who does not ask for it.
    until("it is found by flooding", async || {
        let method = v1::SearchMethod::Flood;
        let (peers, cost) = find(&network.peers[1], "sky drama", false, method).await;
        println!("{cost:?}");
        // Three links, both ways. Who does not get to answer within a second is silent.
        peers == ["p-0"] && (cost.peers, cost.silent) == (3, 0) && cost.messages <= 6
    })
    .await;
    until("it is found by walking", async || {
        let method = v1::SearchMethod::Walk;
        find(&network.peers[2], "BLUE", false, method).await.0 == ["p-0"]
    })
    .await;
    let (peers, cost) = find(&network.peers[3], "sky", false, v1::SearchMethod::Flood).await;
    assert_eq!((peers.len(), cost.peers, cost.messages), (0, 1, 0));
    let abroad = fetch(&network.peers[3], NAME, false).await.unwrap_err();
    assert_eq!(abroad.code(), Code::NotFound);
    assert!(abroad.message().contains("--everywhere"), "{abroad}");
    until("it is found from the other zone", async || {
        flood(&network.peers[3], true).await == ["p-0"]
    })
    .await;
    // It is shared, not stored.
    let stored = network.peers[1].get(NAME, 0, None).await.unwrap_err();
    assert_eq!(stored.code(), Code::NotFound);

    // Who fetches it has it.
    assert!(fetched(&network.peers[1], NAME, false).await == film);
    until("the fetcher shares it", async || {
        flood(&network.peers[2], false).await == ["p-0", "p-1"]
    })
    .await;
    until("both are on record", async || {
        let Ok(who) = who(&network.peers[2], NAME, false).await else {
            return false;
        };
        assert!(who.stored_content.is_none());
        who.shared.len() == 2 && who.providers.len() == 1 && who.providers[0].peers.len() == 2
    })
    .await;

    // The first one dies; nobody has noticed yet.
    network.peers[0].kill();
    assert!(fetched(&network.peers[2], NAME, false).await == film);
    assert!(fetched(&network.peers[3], NAME, true).await == film);
    until("it is shared in the other zone too", async || {
        flood(&network.peers[3], false).await == ["p-3"]
    })
    .await;

    // What a peer shares survives its restart, until it is unshared.
    network.launch(0);
    network.ready(0).await;
    until("it is offered again", async || {
        flood(&network.peers[1], false).await == ["p-0", "p-1", "p-2"]
    })
    .await;
    let name = v1::UnshareRequest {
        name: NAME.into(),
        ..Default::default()
    };
    shares(&network.peers[0])
        .unshare(name.clone())
        .await
        .unwrap();
    let again = shares(&network.peers[0]).unshare(name).await.unwrap_err();
    assert_eq!(again.code(), Code::NotFound);
    until("it is offered by the others only", async || {
        flood(&network.peers[0], false).await == ["p-1", "p-2"]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn small_shares_and_nonsense() {
    let network = Network::start_in(&["a", "a"]).await;
    let [one, two] = &network.peers[..] else {
        panic!("two peers");
    };
    for (name, len) in [("empty", 0), ("small", 1_000), ("edge", 32 * 1024 + 1)] {
        let data = bytes(len, 5);
        share(one, name, &data).await.unwrap();
        assert!(fetched(two, name, false).await == data, "{name}");
    }
    // A file stored with the same bytes has the same name for its content.
    let stored = one.put("stored", &bytes(1_000, 5)).await.unwrap();
    until("both are on record", async || {
        let found = who(two, "stored", false).await.unwrap();
        assert_eq!(found.stored_content.as_ref(), Some(&stored.etag));
        (found.providers.iter()).any(|found| found.peers == ["p-0", "p-1"])
    })
    .await;
    for bad in ["", "a\nb", &"x".repeat(1_025)] {
        let code = share(one, bad, b"x").await.unwrap_err().code();
        assert_eq!(code, Code::InvalidArgument);
    }
    let request = v1::FindSharesRequest::default();
    let blank = shares(one).find(request).await.unwrap_err();
    assert_eq!(blank.code(), Code::InvalidArgument);
    assert_eq!(
        who(one, "nowhere", true).await.unwrap_err().code(),
        Code::NotFound
    );
    let short = v1::ShareHeader {
        name: "short".into(),
        size: Some(10),
        ..Default::default()
    };
    let part = v1::ShareRequest {
        part: Some(share_request::Part::Header(short)),
    };
    let cut = shares(one).share(tokio_stream::iter([part])).await;
    assert_eq!(cut.unwrap_err().code(), Code::InvalidArgument);
    let listed = shares(one).list(v1::ListSharesRequest {}).await.unwrap();
    assert_eq!(listed.into_inner().files.len(), 3);
}

/// What a peer says of that name.
async fn listed(peer: &Peer, name: &str) -> Option<v1::SharedInfo> {
    let listed = shares(peer).list(v1::ListSharesRequest {}).await.ok()?;
    let mut files = listed.into_inner().files.into_iter();
    files.find(|file| file.name == name)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_whose_manifest_is_lost_says_so_and_heals_from_others() {
    let mut network = Network::start_with(3, &["--chunk-size", "65536"]).await;
    // More chunks than the root of a manifest has room for, one after the other the same.
    let film = [bytes(64 * 1024, 4).repeat(1_024), bytes(1_000, 5)].concat();
    share(&network.peers[0], NAME, &film).await.unwrap();
    assert!(fetched(&network.peers[1], NAME, true).await == film);
    network.peers[0].kill();
    network.peers[1].kill();
    // All but its two pieces.
    let chunks = crate::swarm::chunks(&network.peers[0].data).into_iter();
    let nodes = chunks.filter(|path| {
        let len = path.metadata().expect("a chunk").len();
        len != 64 * 1024 && len != 1_000
    });
    let nodes: Vec<_> = nodes.collect();
    assert!(!nodes.is_empty());
    nodes
        .iter()
        .for_each(|node| std::fs::remove_file(node).unwrap());

    network.launch(0);
    until("it says that the manifest is lost", async || {
        let Some(info) = listed(&network.peers[0], NAME).await else {
            return false;
        };
        assert_eq!(info.state(), v1::SharedState::Lost);
        assert!(info.advice.contains("share the file again"), "{info:?}");
        true
    })
    .await;
    network.launch(1);
    until("it has healed", async || {
        let info = listed(&network.peers[0], NAME).await;
        info.is_some_and(|info| {
            info.state() == v1::SharedState::Unspecified && info.advice.is_empty()
        })
    })
    .await;
    network.peers[1].kill();
    assert!(fetched(&network.peers[2], NAME, true).await == film);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_trickle_hold_up_no_fetch() {
    let network = Network::start_in(&["a", "a"]).await;
    let [one, two] = &network.peers[..] else {
        panic!("two peers");
    };
    let film = bytes(2 * MIB, 3);
    share(one, NAME, &film).await.unwrap();
    // As many as are taken in at once, each of which has sent some and goes on no more.
    let (mut trickling, mut calls) = (Vec::new(), Vec::new());
    for n in 0..8 {
        let (say, said) = tokio::sync::mpsc::channel(2);
        let header = v1::ShareHeader {
            name: format!("half/{n}"),
            ..Default::default()
        };
        for part in [
            share_request::Part::Header(header),
            share_request::Part::Data(vec![7; 1_000].into()),
        ] {
            let part = Some(part);
            say.send(v1::ShareRequest { part }).await.unwrap();
        }
        let mut client = shares(two);
        let parts = tokio_stream::wrappers::ReceiverStream::new(said);
        calls.push(tokio::spawn(async move { client.share(parts).await }));
        trickling.push(say);
    }
    for say in &trickling {
        until("what was said is heard", async || say.capacity() == 2).await;
    }
    assert!(fetched(two, NAME, false).await == film);
    assert!(calls.iter().all(|call| !call.is_finished()), "they go on");
    drop(trickling);
    for call in calls {
        assert!(call.await.unwrap().is_ok(), "what had come is shared");
    }
}
