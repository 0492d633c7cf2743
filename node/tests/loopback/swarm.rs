//! A shared file on its way to several peers at once: the first one goes, a fetcher restarts, somebody lies.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use futures::future::join_all;
use peernet_proto::v1;
use peernet_proto::v1::follow_response::Part;
use peernet_proto::v1::swarm_client::SwarmClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tonic::{Code, Status, Streaming};

use crate::network::{NETWORK, Network, Peer, bytes, until};
use crate::shares::{fetch, share, shares};

const CHUNK: usize = 64 * 1024;
const PIECES: usize = 40;
const NAME: &str = "film";
const FLAGS: [&str; 2] = ["--chunk-size", "65536"];

/// Chunks of shared files on its volume, in the same order everywhere.
pub(crate) fn chunks(volume: &Path) -> Vec<PathBuf> {
    files_below(volume.join("shared/chunks"))
}

fn files_below(folder: PathBuf) -> Vec<PathBuf> {
    let (mut folders, mut files) = (vec![folder], BTreeSet::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => folders.push(path),
                false => drop(files.insert(path)),
            }
        }
    }
    files.into_iter().collect()
}

/// Takes files away, and can put them back.
struct Hidden(Vec<PathBuf>);

impl Hidden {
    fn hide(files: &[PathBuf]) -> Self {
        for file in files {
            fs::rename(file, away(file)).expect("hidden");
        }
        Hidden(files.to_vec())
    }

    fn restore(self) {
        for file in self.0 {
            fs::rename(away(&file), file).expect("restored");
        }
    }
}

fn away(file: &Path) -> PathBuf {
    file.with_extension("away")
}

/// Looks for it until it is found: who does not get to answer within a second is not.
async fn open(peer: &Peer) -> Streaming<v1::FetchShareResponse> {
    let request = v1::FetchShareRequest {
        wanted: Some(v1::fetch_share_request::Wanted::Name(NAME.into())),
        everywhere: true,
    };
    let mut parts = None;
    until("the film is found", async || {
        parts = shares(peer).fetch(request.clone()).await.ok();
        parts.is_some()
    })
    .await;
    parts.expect("it was found").into_inner()
}

/// Begins to fetch, and lets go: the peer goes on by itself.
async fn begin(peer: &Peer) {
    let first = open(peer).await.message().await;
    assert!(first.expect("an answer").is_some());
}

/// What it says of the film; `None`: it has nothing of it.
async fn listed(peer: &Peer) -> Option<v1::SharedInfo> {
    let listed = shares(peer).list(v1::ListSharesRequest {}).await.ok()?;
    let mut files = listed.into_inner().files.into_iter();
    files.find(|file| file.name == NAME)
}

/// How many bytes it lacks; `None`: it has nothing of it.
async fn missing(peer: &Peer) -> Option<u64> {
    Some(listed(peer).await?.missing.unwrap_or(0))
}

/// How many bytes of it came from others.
async fn received(peer: &Peer) -> u64 {
    let file = listed(peer).await.expect("the film is there");
    file.received.unwrap_or(0)
}

/// How many pieces of a content it says that it has.
async fn offered(peer: &Peer, content: &[u8]) -> Result<u32, Status> {
    let question = v1::FollowRequest {
        network_id: NETWORK.into(),
        content: content.to_vec().into(),
    };
    let follow = SwarmClient::new(peer.channel()).follow(question).await?;
    let first = follow.into_inner().message().await?.expect("a map");
    let Some(Part::All(map)) = first.part else {
        panic!("{first:?}");
    };
    assert_eq!(map.len(), PIECES / 8);
    Ok(map.iter().map(|byte| byte.count_ones()).sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_provider_cannot_read_it_offers_no_more() {
    let network = Network::start_with(2, &FLAGS).await;
    let film = bytes(PIECES * CHUNK, 7);
    let [first, second] = &network.peers[..] else {
        panic!("two peers");
    };
    let info = share(first, NAME, &film).await.unwrap();
    let content: peernet_core::key::Key = info.content.parse().unwrap();
    let files = chunks(&first.data);
    fs::remove_file(&files[0]).unwrap();
    fs::write(&files[1], "rotten").unwrap();
    begin(second).await;
    until("both are withdrawn", async || {
        offered(first, &content.0).await.unwrap() == PIECES as u32 - 2
    })
    .await;
    share(first, NAME, &film).await.unwrap();
    assert!(fetch(second, NAME, true).await.unwrap() == film);
}

#[tokio::test(flavor = "multi_thread")]
async fn fetchers_give_each_other_what_they_have_when_the_first_is_gone() {
    let mut network = Network::start_with(3, &FLAGS).await;
    let film = bytes(PIECES * CHUNK, 3);
    let info = share(&network.peers[0], NAME, &film).await.unwrap();
    let all = chunks(&network.peers[0].data);
    assert_eq!(all.len(), PIECES);
    let (one, other) = all.split_at(PIECES / 2);
    let half = (PIECES / 2 * CHUNK) as u64;

    // The first fetcher gets one half, and is down while the second gets the other.
    let hidden = Hidden::hide(other);
    begin(&network.peers[1]).await;
    until("the first has one half", async || {
        missing(&network.peers[1]).await == Some(half)
    })
    .await;
    // It has no more than that, and says which.
    let content: peernet_core::key::Key = info.content.parse().unwrap();
    assert_eq!(
        offered(&network.peers[1], &content.0).await.unwrap(),
        PIECES as u32 / 2
    );
    for (content, code) in [
        (&[0; 32][..], Code::NotFound),
        (&[0; 31], Code::InvalidArgument),
    ] {
        let refused = offered(&network.peers[1], content).await.unwrap_err();
        assert_eq!(refused.code(), code);
    }
    network.peers[1].kill();
    hidden.restore();
    // What it could not read it has withdrawn.
    share(&network.peers[0], NAME, &film).await.unwrap();
    let _hidden = Hidden::hide(one);
    begin(&network.peers[2]).await;
    until("the second has the other half", async || {
        missing(&network.peers[2]).await == Some(half)
    })
    .await;

    // Every piece is out: the first provider goes, the first fetcher comes back and goes on by itself.
    network.peers[0].kill();
    network.launch(1);
    until("the first is there again, with its half", async || {
        missing(&network.peers[1]).await.is_some_and(|m| m <= half)
    })
    .await;
    for peer in &network.peers[1..] {
        until("it is here whole", async || missing(peer).await == Some(0)).await;
        assert!(fetch(peer, NAME, true).await.unwrap() == film);
    }
    assert!(network.peers[1].log().contains("goes on to be fetched"));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_fetch_at_once_and_all_get_the_same() {
    let network = Network::start_with(4, &FLAGS).await;
    let film = bytes(PIECES * 4 * CHUNK + 7, 4);
    share(&network.peers[0], NAME, &film).await.unwrap();
    // Twice each: who comes second waits for the same bytes.
    let peers = network.peers[1..].iter();
    let fetches = peers.flat_map(|peer| [read(peer), read(peer)]);
    for fetched in join_all(fetches).await {
        assert!(fetched == film);
    }
    for peer in &network.peers {
        until("all have it whole", async || missing(peer).await == Some(0)).await;
        // Each piece is there once.
        assert_eq!(chunks(&peer.data).len(), PIECES * 4 + 1);
    }
    assert_eq!(received(&network.peers[0]).await, 0);
    for peer in &network.peers[1..] {
        let (came, len) = (received(peer).await, film.len() as u64);
        assert!((len..2 * len).contains(&came), "{came} of {len}");
    }
}

async fn read(peer: &Peer) -> Vec<u8> {
    let mut parts = open(peer).await;
    let mut data = Vec::new();
    while let Some(part) = parts.message().await.expect("a part") {
        if let Some(v1::fetch_share_response::Part::Data(bytes)) = part.part {
            data.extend_from_slice(&bytes);
        }
    }
    data
}

/// In the file every few hundred bytes, so that it can be told from all else that peers say.
const MARK: &[u8] = b"-- what was shared --";
const LIE: &[u8] = b"-- what was not so --";

/// Passes on what is said to and by a peer, but for its pieces, in which it replaces something.
async fn lie(listener: TcpListener, to: SocketAddr) {
    let mut calls = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        calls.spawn(async move {
            let peer = TcpStream::connect(to).await.expect("the peer");
            let (mut hear, mut say) = client.into_split();
            let (mut from, mut into) = peer.into_split();
            let there = tokio::io::copy(&mut hear, &mut into);
            let back = async {
                let mut part = vec![0; CHUNK];
                loop {
                    let len = from.read(&mut part).await?;
                    if len == 0 {
                        return Ok::<u64, std::io::Error>(0);
                    }
                    replace(&mut part[..len]);
                    say.write_all(&part[..len]).await?;
                }
            };
            // Whoever hangs up ends it.
            let _ = tokio::try_join!(there, back);
        });
    }
}

fn replace(part: &mut [u8]) {
    let found = |part: &[u8]| part.windows(MARK.len()).position(|w| w == MARK);
    let mut from = 0;
    while let Some(at) = found(&part[from..]) {
        part[from + at..from + at + MARK.len()].copy_from_slice(LIE);
        from += at + MARK.len();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_liar_is_found_out_and_not_asked_again() {
    let mut network = Network::idle(&["a"; 3]);
    // The second one is known by the address of who replaces its words.
    let known = network.peers[1].grpc;
    let listener = TcpListener::bind(known).await.expect("a port");
    network.peers[1].grpc = SocketAddr::from(([127, 0, 0, 2], known.port()));
    let liar = tokio::spawn(lie(listener, network.peers[1].grpc));
    for n in 0..3 {
        let mut place = vec!["--network-id", NETWORK, "--zone", "a"];
        place.extend(FLAGS);
        match n {
            0 => place.push("--found"),
            1 => place.extend(["--advertise-host", "127.0.0.1"]),
            _ => {}
        }
        network.launch_with(n, &place);
    }
    network.all_ready().await;
    let mut film = bytes(PIECES * CHUNK, 5);
    film.chunks_mut(512)
        .for_each(|part| part[..MARK.len()].copy_from_slice(MARK));
    for peer in &network.peers[..2] {
        share(peer, NAME, &film).await.unwrap();
    }
    // Some of it only the liar says it has, until it was found out.
    let hidden = Hidden::hide(&chunks(&network.peers[0].data)[..PIECES / 4]);
    begin(&network.peers[2]).await;
    let lies = |peer: &Peer| peer.log().matches("sent wrong bytes").count();
    until("it is found out", async || lies(&network.peers[2]) > 0).await;
    hidden.restore();
    // What it could not read it has withdrawn.
    share(&network.peers[0], NAME, &film).await.unwrap();
    assert!(fetch(&network.peers[2], NAME, true).await.unwrap() == film);
    assert_eq!(lies(&network.peers[2]), 1, "it is not asked again");
    let came = received(&network.peers[2]).await;
    assert!(came > film.len() as u64, "what was wrong came as well");
    liar.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefetched_file_is_read_where_it_is() {
    let network = Network::start_with(4, &FLAGS).await;
    let film = bytes(PIECES * CHUNK, 6);
    network.peers[0].put(NAME, &film).await.unwrap();
    network.peers[0].put("small", b"small").await.unwrap();
    let prefetch = async |name: &str, peers| {
        let name = name.to_owned();
        let request = v1::PrefetchRequest { name, peers };
        shares(&network.peers[1]).prefetch(request).await
    };
    for (name, peers, code) in [
        (NAME, 0, Code::InvalidArgument),
        (NAME, 5, Code::InvalidArgument),
        ("small", 4, Code::InvalidArgument),
        ("nothing", 4, Code::NotFound),
    ] {
        let refused = prefetch(name, peers).await.unwrap_err();
        assert_eq!(refused.code(), code, "{name} on {peers}: {refused}");
    }
    let mut told = prefetch(NAME, 4).await.unwrap().into_inner();
    let mut last = v1::PrefetchResponse::default();
    while let Some(next) = told.message().await.unwrap() {
        last = next;
    }
    let done = last
        .peers
        .iter()
        .filter(|p| p.missing == 0 && p.failure.is_none());
    assert_eq!(done.count(), 4, "{last:?}");
    // Without the ring's copies it can be read all the same.
    let hidden: Vec<Hidden> = network
        .peers
        .iter()
        .map(|peer| Hidden::hide(&files_below(peer.data.join("chunks"))))
        .collect();
    // A peer that has just joined may hold none.
    assert!(hidden.iter().map(|hidden| hidden.0.len()).sum::<usize>() >= PIECES);
    for peer in &network.peers {
        assert!(peer.get(NAME, 0, None).await.unwrap() == film);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_user_shares_keeps_its_name_when_a_fetch_of_that_name_ends() {
    let network = Network::start_with(2, &FLAGS).await;
    let [first, second] = &network.peers[..] else {
        panic!("two peers");
    };
    let film = bytes(PIECES * CHUNK, 8);
    let theirs = share(first, NAME, &film).await.unwrap();
    let all = chunks(&first.data);
    let hidden = Hidden::hide(&all[PIECES / 2..]);
    begin(second).await;
    let half = (PIECES / 2 * CHUNK) as u64;
    until("one half is here", async || {
        missing(second).await == Some(half)
    })
    .await;
    let mine = bytes(3 * CHUNK, 9);
    share(second, NAME, &mine).await.unwrap();
    // Who gives up the fetch by its old name does not mean the share.
    let give_up = v1::UnshareRequest {
        name: NAME.into(),
        unfinished: true,
    };
    let refused = shares(second).unshare(give_up).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
    hidden.restore();
    share(first, NAME, &film).await.unwrap();
    until("the film is here under another name", async || {
        let listed = shares(second).list(v1::ListSharesRequest {}).await.unwrap();
        let mut files = listed.into_inner().files.into_iter();
        files.any(|file| file.name == theirs.content && file.missing.is_none())
    })
    .await;
    assert!(fetch(second, NAME, true).await.unwrap() == mine);
    // A small one comes at once, and takes no name either.
    let small = share(first, "small", b"theirs").await.unwrap();
    share(second, "small", b"mine").await.unwrap();
    let wanted = v1::fetch_share_request::Wanted::Content(small.content);
    let request = v1::FetchShareRequest {
        wanted: Some(wanted),
        everywhere: true,
    };
    until("the small one is fetched", async || {
        shares(second).fetch(request.clone()).await.is_ok()
    })
    .await;
    assert!(fetch(second, "small", true).await.unwrap() == b"mine");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefetch_goes_on_without_its_client_and_ends_with_its_name() {
    let network = Network::start_with(3, &FLAGS).await;
    let peer = &network.peers[1];
    let film = bytes(10 * PIECES * CHUNK, 10);
    network.peers[0].put(NAME, &film).await.unwrap();
    let request = v1::PrefetchRequest {
        name: NAME.into(),
        peers: 1,
    };
    let mut told = shares(peer).prefetch(request).await.unwrap().into_inner();
    let first = told.message().await.unwrap().expect("how far it is");
    drop(told);
    println!("left alone with {} bytes missing", first.peers[0].missing);
    until("all of it is here", async || missing(peer).await == Some(0)).await;
    assert!(fetch(peer, NAME, true).await.unwrap() == film);
    let name = v1::UnshareRequest {
        name: NAME.into(),
        ..Default::default()
    };
    shares(peer).unshare(name).await.unwrap();
    until("nothing is left of it", async || {
        chunks(&peer.data).is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefetch_reaches_a_peer_that_was_away_when_its_client_left() {
    let mut network = Network::start_with(3, &FLAGS).await;
    let film = bytes(PIECES * CHUNK, 11);
    network.peers[0].put(NAME, &film).await.unwrap();
    network.peers[2].kill();
    let request = v1::PrefetchRequest {
        name: NAME.into(),
        peers: 3,
    };
    let begun = shares(&network.peers[1]).prefetch(request).await;
    let mut told = begun.unwrap().into_inner();
    let first = told.message().await.unwrap().expect("how far it is");
    assert_eq!(first.peers.len(), 3, "{first:?}");
    drop(told);
    until("the asked peer has it", async || {
        missing(&network.peers[1]).await == Some(0)
    })
    .await;
    network.launch(2);
    network.ready(2).await;
    until("so has the one that was away", async || {
        missing(&network.peers[2]).await == Some(0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefetch_asked_for_again_brings_no_more_copies() {
    let mut network = Network::start_with(4, &FLAGS).await;
    let film = bytes(PIECES * CHUNK, 12);
    network.peers[0].put(NAME, &film).await.unwrap();
    for _ in 0..6 {
        // Whoever did not get to run for a while is not invited.
        network.all_ready().await;
        let request = v1::PrefetchRequest {
            name: NAME.into(),
            peers: 2,
        };
        let begun = shares(&network.peers[1]).prefetch(request).await;
        let mut told = begun.unwrap().into_inner();
        let mut last = v1::PrefetchResponse::default();
        while let Some(next) = told.message().await.unwrap() {
            last = next;
        }
        let done = last.peers.iter().filter(|peer| peer.missing == 0);
        assert_eq!(done.count(), 2, "{last:?}");
    }
    let mut have = 0;
    for peer in &network.peers {
        have += u32::from(listed(peer).await.is_some());
    }
    assert_eq!(have, 2);
}
