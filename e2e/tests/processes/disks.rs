//! Disks that fill up, and that allow no more writes. These need root, to mount a small file system.

use std::fs;

use anyhow::{Result, ensure};
use peernet_e2e::patience::eventually;
use peernet_e2e::processes::HEALING;
use peernet_e2e::processes::trial::{Trial, trial};
use peernet_e2e::processes::volume::{self, SmallDisk};

/// Bytes left free that no client may use: half of the reserve, 5% of the disk.
const BELOW_RESERVE: u64 = 3 << 19;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_and_a_read_only_disk_stop_one_peer_at_most() {
    // Mounted before the ring is, and for longer.
    let disk = SmallDisk::mount(128).expect("room for an image");
    let Some(disk) = disk else {
        return;
    };
    trial("bad disks", crate::PATIENT, async |trial| {
        let [n] = trial.some_peers();
        trial.ring.terminate(n).await?;
        volume::copy(&trial.ring.volume(n), &disk.root().join("volume"))?;
        trial.ring.put_on(n, disk.root().join("volume"))?;
        trial.ring.launch(n)?;
        trial.ring.one_ring().await?;
        trial.healed("a small disk").await?;
        trial
            .rounds(async || {
                little_room(trial, n, &disk).await?;
                no_room(trial, n, &disk).await?;
                read_only(trial, n, &disk).await
            })
            .await
    })
    .await;
}

/// Clients' data is refused there and goes elsewhere, the peer stays.
async fn little_room(trial: &Trial, n: usize, disk: &SmallDisk) -> Result<()> {
    let filler = disk.fill(BELOW_RESERVE)?;
    let peer = trial.ring.peer(n);
    let full = || async {
        ensure!(peer.status().await?.disk_full, "it has not noticed");
        Ok(())
    };
    eventually("the peer says that its disk is full", HEALING, full).await?;
    trial.served("a disk with little room").await?;
    fs::remove_file(filler)?;
    trial.healed("a disk that was full").await
}

/// Not a byte is left: the peer serves on or stops, but takes nothing back.
async fn no_room(trial: &Trial, n: usize, disk: &SmallDisk) -> Result<()> {
    let filler = disk.fill(0)?;
    trial.served("a disk without room").await?;
    trial.load.went_on("a disk without room")?;
    fs::remove_file(filler)?;
    if trial.ring.has_ended(n)? {
        eprintln!("  the peer on the full disk had stopped");
        trial.ring.launch(n)?;
    }
    trial.ring.one_ring().await?;
    trial.healed("a disk that was full to the last byte").await
}

/// The peer stops by itself, since it can keep no promise; the others carry on.
async fn read_only(trial: &Trial, n: usize, disk: &SmallDisk) -> Result<()> {
    disk.break_down()?;
    trial.ring.ended_saying(n, "volume failed").await?;
    trial.served("a disk that became read-only").await?;
    trial.load.went_on("a disk that became read-only")?;
    disk.repair()?;
    trial.ring.launch(n)?;
    trial.ring.one_ring().await?;
    trial.healed("a disk that was read-only").await
}
