//! Volumes that rot, are lost, and come back from the past.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use peernet_e2e::patience::eventually;
use peernet_e2e::processes::trial::{PEERS, Trial, trial};
use peernet_e2e::processes::{HEALING, volume};
use peernet_proto::v1::admin_client::AdminClient;
use peernet_proto::v1::{DrainOrder, DrainRequest, IdentifyRequest};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_that_rotted_or_vanished_is_replaced_from_the_others() {
    trial("bad chunks", crate::PATIENT, async |trial| {
        trial
            .rounds(async || {
                trial.healed("nothing").await?;
                let [(rotten, bad), (_, gone)] = some_kept_chunks(trial).await?;
                let length = fs::metadata(&bad)?.len();
                let (place, bit) = {
                    let mut random = trial.random.lock().expect("nobody panics with it");
                    (random.u64(..length), random.u8(..8))
                };
                volume::flip_bit(&bad, place, bit)?;
                fs::remove_file(&gone)?;
                trial
                    .healed("a bit that flipped and a file that vanished")
                    .await?;
                let name = bad.file_name().context("a chunk's file has a name")?;
                let set_aside = trial.ring.volume(rotten).join("bad").join(name);
                ensure!(set_aside.exists(), "the rotten copy was not set aside");
                for file in [&bad, &gone] {
                    let named = file.file_name().and_then(|n| n.to_str());
                    let hash = blake3::hash(&fs::read(file)?).to_hex();
                    ensure!(
                        named == Some(hash.as_str()),
                        "{} is not whole",
                        file.display()
                    );
                }
                fs::remove_file(set_aside)?;
                Ok(())
            })
            .await
    })
    .await;
}

/// The files of two chunks that belong to files that stay, at two of the peers that hold any.
async fn some_kept_chunks(trial: &Trial) -> Result<[(usize, PathBuf); 2]> {
    let mut found = Vec::new();
    for n in trial.some_peers::<PEERS>() {
        found.extend(some_kept_chunk(trial, n).await?.map(|file| (n, file)));
    }
    found.truncate(2);
    let found = found.try_into().ok();
    found.context("fewer than two peers hold chunks")
}

async fn some_kept_chunk(trial: &Trial, n: usize) -> Result<Option<PathBuf>> {
    let mut held = Vec::new();
    let peer = trial.ring.peer(n);
    for file in &trial.files.files {
        let chunks = peer.explain(&file.name).await?.chunks;
        let here = chunks
            .into_iter()
            .filter(|c| c.holders.contains(&peer.name));
        held.extend(here.map(|c| c.hash));
    }
    let files = volume::chunks(&trial.ring.volume(n))?.into_keys();
    let mut kept: Vec<_> = files
        .filter(|f| {
            f.file_name()
                .and_then(|n| n.to_str())
                .is_some_and(|n| held.iter().any(|h| h == n))
        })
        .collect();
    let mut random = trial.random.lock().expect("nobody panics with it");
    random.shuffle(&mut kept);
    Ok(kept.pop())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_volume_is_replaced_and_an_old_one_brings_nothing_back() {
    trial("lost and old volumes", crate::IMPATIENT, async |trial| {
        trial
            .rounds(async || {
                let [victim] = trial.some_peers();
                let before = trial.ring.volume(victim);
                trial.ring.terminate(victim).await?;
                let old = trial
                    .ring
                    .folder()
                    .join(format!("old-{}", fastrand::u32(..)));
                volume::copy(&before, &old)?;

                rotten_database(trial, victim).await?;
                fs::remove_dir_all(&before)?;
                trial.ring.launch(victim)?;
                trial.ring.one_ring().await?;
                trial.served("a lost volume").await?;
                trial.healed("a lost volume").await?;

                // The load has deleted and overwritten much meanwhile, of which the old volume knows nothing.
                trial.ring.terminate(victim).await?;
                trial.ring.put_on(victim, old)?;
                trial.ring.launch(victim)?;
                trial.ring.one_ring().await?;
                let peer = trial.ring.peer(victim);
                let asked = || vec![peer.clone()];
                trial
                    .served_by("an old volume, asking who is on it", asked)
                    .await?;
                trial.healed("an old volume").await
            })
            .await
    })
    .await;
}

/// A peer whose database has rotted refuses to start, and says what to do.
async fn rotten_database(trial: &Trial, n: usize) -> Result<()> {
    let database = trial.ring.volume(n).join("meta.redb");
    // Everywhere: a bit of the first byte of each page, which is in use where the page is. Its last ones may be left over
    // from what it held before, and nobody would miss them. The first page is the header, which has copies.
    for page in 1..fs::metadata(&database)?.len() / 4096 {
        volume::flip_bit(&database, page * 4096, 3)?;
    }
    trial.ring.launch(n)?;
    trial.ring.ended_saying(n, "meta.redb").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_from_before_its_peer_left_stays_out() {
    trial("a volume of one who left", crate::PATIENT, async |trial| {
        let [leaver] = trial.some_peers();
        trial.ring.terminate(leaver).await?;
        let old = trial.ring.folder().join("old");
        volume::copy(&trial.ring.volume(leaver), &old)?;
        trial.ring.launch(leaver)?;
        trial.ring.one_ring().await?;
        let id = leave(trial, leaver).await?;
        trial.healed("a leave").await?;

        trial.ring.put_on(leaver, old)?;
        trial.ring.launch(leaver)?;
        // It believes that it is a member, hears that it has left, and takes that for the truth, for ever.
        eventually("the old volume hears that it has left", HEALING, || {
            left(trial, leaver)
        })
        .await?;
        ensure!(
            identify(trial, leaver).await?.peer_id == id,
            "it is somebody else"
        );
        trial.ring.terminate(leaver).await?;
        trial.healed("an old volume of one who left").await?;

        // The next start is a new life, which knows only what the others tell it.
        trial.ring.launch(leaver)?;
        trial.ring.one_ring().await?;
        ensure!(
            identify(trial, leaver).await?.peer_id != id,
            "the departed is back"
        );
        trial.healed("a new life on an old volume").await
    })
    .await;
}

/// Lets a peer leave as an operator does, and ends it. Returns who it was.
async fn leave(trial: &Trial, n: usize) -> Result<String> {
    let id = identify(trial, n).await?.peer_id;
    let order = DrainOrder {
        peer_id: id.clone(),
        epoch: 1,
        leaving: true,
    };
    for peer in trial.ring.serving() {
        let orders = vec![order.clone()];
        let mut admin = AdminClient::new(peer.connect().await?);
        admin.drain(DrainRequest { orders }).await?;
    }
    eventually("the leaver has left", HEALING, || left(trial, n)).await?;
    trial.ring.terminate(n).await?;
    Ok(id)
}

async fn left(trial: &Trial, n: usize) -> Result<()> {
    ensure!(identify(trial, n).await?.left, "it has not left");
    Ok(())
}

async fn identify(trial: &Trial, n: usize) -> Result<peernet_proto::v1::IdentifyResponse> {
    let mut admin = AdminClient::new(trial.ring.peer(n).connect().await?);
    Ok(admin
        .identify(IdentifyRequest::default())
        .await?
        .into_inner())
}
