//! The space of files that are gone comes back, and no file loses a chunk that it has in common with one that is gone.

use futures::future::join_all;

use crate::network::{Network, Peer, bytes, until};

const MIB: usize = 1024 * 1024;

async fn held(peer: &Peer) -> u64 {
    peer.status().await.unwrap().chunks_held
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_gives_its_space_back_unless_others_have_it_too() {
    let network = Network::start(3).await;
    let [a, b, c] = [0, 1, 2].map(|n| &network.peers[n]);
    let data = bytes(5 * MIB + 3, 1);
    a.put("one", &data).await.unwrap();
    b.put("two", &data).await.unwrap();
    // Everybody writes and deletes the same contents under names of their own at once.
    let churn = [a, b, c].into_iter().cycle().take(6).enumerate();
    join_all(churn.map(async |(n, peer)| {
        let name = format!("churn/{n}");
        for _ in 0..6 {
            peer.put(&name, &data).await.unwrap();
            assert!(peer.get(&name, 0, None).await.unwrap() == data, "{name}");
            peer.delete(&name).await.unwrap();
        }
    }))
    .await;
    a.delete("one").await.unwrap();
    // A file of its own content shows that collection has come round.
    a.put("marker", &bytes(2 * MIB, 2)).await.unwrap();
    a.delete("marker").await.unwrap();
    until("only the file that is left has chunks", async || {
        held(a).await == 6 && held(b).await == 6 && held(c).await == 6
    })
    .await;
    assert!(c.get("two", 0, None).await.unwrap() == data);
    b.delete("two").await.unwrap();
    until("nothing is left", async || {
        held(a).await == 0 && held(b).await == 0 && held(c).await == 0
    })
    .await;
}
