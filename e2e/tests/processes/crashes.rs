//! Processes that end without a word, one by one and together, and ends that are in order.

use std::collections::BTreeMap;
use std::time::SystemTime;

use anyhow::{Result, ensure};
use peernet_e2e::processes::trial::{PEERS, Trial, trial};
use peernet_e2e::processes::volume::{self, Copies};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_may_be_killed_one_by_one_two_at_once_and_all_at_once() {
    trial("kill -9", crate::PATIENT, async |trial| {
        trial
            .rounds(async || {
                crash(trial, "one crash", &trial.some_peers::<1>()).await?;
                crash(trial, "two crashes at once", &trial.some_peers::<2>()).await?;
                crash(
                    trial,
                    "a crash of all at once",
                    &trial.some_peers::<PEERS>(),
                )
                .await
            })
            .await
    })
    .await;
}

/// Kills these peers; those that are left serve what they can, and when all are back, all is.
async fn crash(trial: &Trial, fault: &str, peers: &[usize]) -> Result<()> {
    for n in peers {
        trial.ring.kill(*n)?;
    }
    // With one gone, every slot has a majority; with two, only some.
    if peers.len() == 1 {
        trial.served(fault).await?;
    }
    for n in peers {
        trial.ring.launch(*n)?;
    }
    trial.served(&format!("{fault}, and a restart")).await?;
    trial.ring.one_ring().await?;
    trial.healed(fault).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_moves_no_chunk() {
    trial("rolling restart", crate::PATIENT, async |trial| {
        trial
            .rounds(async || {
                trial.healed("nothing").await?;
                let before = all_chunks(trial)?;
                for n in 0..PEERS {
                    trial.ring.terminate(n).await?;
                    trial.ring.launch(n)?;
                    trial.ring.one_ring().await?;
                }
                trial.healed("a rolling restart").await?;
                nothing_moved(&before, &all_chunks(trial)?)
            })
            .await
    })
    .await;
}

fn all_chunks(trial: &Trial) -> Result<Vec<Copies>> {
    let volumes = (0..PEERS).map(|n| volume::chunks(&trial.ring.volume(n)));
    volumes.collect()
}

/// Of the chunks that were there before, every copy is the same file, and none has a copy more. Others may have been
/// written meanwhile.
fn nothing_moved(before: &[Copies], after: &[Copies]) -> Result<()> {
    let name = |path: &std::path::Path| path.file_name().map(ToOwned::to_owned);
    let mut known = BTreeMap::new();
    for (n, copies) in before.iter().enumerate() {
        for (path, copy) in copies {
            known.entry(name(path)).or_insert_with(Vec::new).push(n);
            ensure!(
                after[n].get(path) == Some(copy),
                "{} was written again",
                path.display()
            );
        }
    }
    for (n, copies) in after.iter().enumerate() {
        for path in copies.keys() {
            let holders = known.get(&name(path));
            ensure!(
                holders.is_none_or(|holders| holders.contains(&n)),
                "{} has come to p-{n}",
                path.display()
            );
        }
    }
    let chunks: usize = before.iter().map(Copies::len).sum();
    ensure!(chunks > 0, "there was nothing to move");
    eprintln!("  {chunks} copies stayed where they were");
    Ok(())
}

#[test]
fn a_chunk_that_moved_or_was_written_again_is_noticed() {
    let copies = |files: &[(&str, u64)]| -> Copies {
        let copy = |(file, inode): &(&str, u64)| (file.into(), (*inode, SystemTime::UNIX_EPOCH));
        files.iter().map(copy).collect()
    };
    let before = [copies(&[("a/x", 1)]), copies(&[("b/x", 1)]), copies(&[])];
    assert!(nothing_moved(&before, &before).is_ok());
    let more = [before[0].clone(), before[1].clone(), copies(&[("c/y", 9)])];
    assert!(nothing_moved(&before, &more).is_ok());
    let moved = [before[0].clone(), before[1].clone(), copies(&[("c/x", 5)])];
    assert!(nothing_moved(&before, &moved).is_err());
    let again = [copies(&[("a/x", 2)]), before[1].clone(), copies(&[])];
    assert!(nothing_moved(&before, &again).is_err());
    let gone = [copies(&[]), before[1].clone(), copies(&[])];
    assert!(nothing_moved(&before, &gone).is_err());
}
