//! The keyword index of real processes: what was put is found through any peer, and again after a death.

use std::time::Instant;

use peernet_proto::v1::search_client::SearchClient;
use peernet_proto::v1::{
    DeleteRequest, FindRequest, FindResponse, ListRequest, PutHeader, PutRequest, put_request,
};
use tonic::{Code, Status};

use crate::network::{Network, Peer, until};

async fn find(peer: &Peer, request: FindRequest) -> Result<FindResponse, Status> {
    let found = SearchClient::new(peer.channel()).find(request).await?;
    Ok(found.into_inner())
}

fn words(query: &str) -> FindRequest {
    FindRequest {
        query: query.into(),
        ..Default::default()
    }
}

/// The names that begin so.
async fn listed(peer: &Peer, prefix: &str) -> Result<Vec<String>, Status> {
    let request = ListRequest {
        prefix: prefix.into(),
        ..ListRequest::default()
    };
    let page = peer.files().list(request).await?.into_inner();
    Ok(page.files.into_iter().map(|file| file.name).collect())
}

async fn until_found(peer: &Peer, request: FindRequest, expected: &[&str]) {
    until(&format!("{request:?} finds {expected:?}"), async || {
        let Ok(found) = find(peer, request.clone()).await else {
            return false;
        };
        let mut names: Vec<&str> = found.files.iter().map(|f| f.name.as_str()).collect();
        names.sort_unstable();
        names == expected
    })
    .await;
}

async fn put(peer: &Peer, name: &str, content_type: &str, tags: &[&str]) -> Result<(), Status> {
    let header = PutHeader {
        name: name.into(),
        content_type: content_type.into(),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        ..Default::default()
    };
    let parts = [
        put_request::Part::Header(header),
        put_request::Part::Data("content".into()),
    ];
    let parts = parts.map(|part| PutRequest { part: Some(part) });
    let stored = peer.files().put(tokio_stream::iter(parts)).await?;
    let file = stored.into_inner().file.expect("what was stored");
    assert_eq!(file.tags, tags);
    Ok(())
}

#[tokio::test]
async fn what_was_put_is_found_through_any_peer_and_after_a_death() {
    let mut network = Network::start(4).await;
    let [beach, town] = ["holiday/Beach 1.JPG", "holiday/Zürich.png"];
    put(&network.peers[0], beach, "image/jpeg", &["Summer Trip"])
        .await
        .unwrap();
    put(&network.peers[1], town, "image/png", &[])
        .await
        .unwrap();
    put(&network.peers[2], "work/notes", "text/plain", &["summer"])
        .await
        .unwrap();
    let tagged = |tag: &str| FindRequest {
        tags: vec![tag.into()],
        ..Default::default()
    };
    let typed = |query: &str, content_type: &str| FindRequest {
        content_type: content_type.into(),
        ..words(query)
    };
    for peer in &network.peers {
        // Acknowledged is listed, at once.
        assert_eq!(listed(peer, "holiday/").await.unwrap(), [beach, town]);
        until_found(peer, words("HOLIDAY"), &[beach, town]).await;
        until_found(peer, words("zürich"), &[town]).await;
        until_found(peer, words("holiday bea"), &[beach]).await;
        until_found(peer, words("summer"), &[beach, "work/notes"]).await;
        until_found(peer, tagged("summer trip"), &[beach]).await;
        until_found(peer, typed("", "image"), &[beach, town]).await;
        until_found(peer, typed("holiday", "image/png"), &[town]).await;
    }
    let one = FindRequest {
        limit: 1,
        ..words("holiday")
    };
    let first = find(&network.peers[3], one.clone()).await.unwrap();
    let second = FindRequest {
        after: first.next.clone(),
        ..one
    };
    let second = find(&network.peers[3], second).await.unwrap();
    assert_ne!(first.files, second.files);
    assert!(first.files.len() == 1 && second.files.len() == 1 && second.next.is_empty());
    for peer in &network.peers {
        // One part of the index at two of its three replicas, each asked once: a question and an answer, but for the peer
        // itself. Who does not get to answer for a while is asked again, or the third is, so a search may cost more.
        until("a search asks the fewest", async || {
            let found = find(peer, words("holiday")).await.unwrap();
            let cost = found.cost.expect("a cost");
            println!("{cost:?}");
            assert_eq!(cost.shards, 1);
            cost.messages <= 2 + 2
        })
        .await;
    }

    let death = Instant::now();
    network.peers[1].kill();
    for peer in [0, 2, 3].map(|n| &network.peers[n]) {
        until("all names are listed again", async || {
            listed(peer, "holiday/")
                .await
                .is_ok_and(|names| names == [beach, town])
        })
        .await;
        until_found(peer, words("holiday"), &[beach, town]).await;
    }
    println!("all was found again {:?} after the death", death.elapsed());
    let delete = DeleteRequest {
        name: beach.into(),
        when: None,
    };
    until("the file is deleted", async || {
        let mut files = network.peers[2].files();
        let deleted = files.delete(delete.clone()).await;
        // An attempt of which nobody knows how it ended may have been the one.
        deleted.map_or_else(|e| e.code() == Code::NotFound, |_| true)
    })
    .await;
    until_found(&network.peers[3], words("holiday"), &[town]).await;
    until_found(&network.peers[0], words("summer"), &["work/notes"]).await;
}

#[tokio::test]
async fn what_cannot_be_searched_for_is_refused() {
    let network = Network::start(2).await;
    let peer = &network.peers[0];
    let refused = [
        words(""),
        words("the of"),
        words(&"x".repeat(1_025)),
        FindRequest {
            limit: 1_001,
            ..words("x")
        },
        FindRequest {
            after: "here".into(),
            ..words("x")
        },
    ];
    for request in refused {
        let error = find(peer, request.clone()).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{request:?}");
    }
    let error = put(peer, "x", "", &["a,b"]).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    // The network's own names are not for clients.
    let listed = peer.get("\u{1}index/x", 0, None).await.unwrap_err();
    assert_eq!(listed.code(), Code::InvalidArgument);
}
