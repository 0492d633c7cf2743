//! Giving up what only lost peers held, when a majority of a slot's replicas is gone for good. Asked for by annotation,
//! decided by `peernet-core`'s `recover`, and what may be lost is written to the status before it is done.

use peernet_core::key::Slot;
use peernet_core::recover::{Loss, Recovery, Refused, identities, recover};
use peernet_crd::RecoveryStatus;

use crate::observed::Observed;

/// Slots named one by one in the status; it stays small.
const NAMED: usize = 8;

/// What to do about a recovery that was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recover {
    /// What the status is to say.
    pub status: Option<RecoveryStatus>,
    /// What every living peer is to be told now.
    pub tell: Option<Recovery>,
    /// A sentence on how it ended, if it did just now, and whether it was carried out.
    pub outcome: Option<(bool, String)>,
    /// The annotation is answered: remove it, if it still has this value.
    pub forget: Option<String>,
}

/// Decides the next step.
pub(crate) fn decide(observed: &Observed) -> Option<Recover> {
    let network = &observed.network;
    let asked = network.asked.recover.as_ref()?;
    let known = network.status.recovery.as_ref();
    let begun = known.filter(|r| r.peers == *asked && !r.finished);
    let refuse = |why: String| Recover {
        status: known.cloned(),
        tell: None,
        outcome: Some((false, format!("nothing is given up: {why}"))),
        forget: Some(asked.clone()),
    };
    let names = asked.split(',').map(str::trim);
    let gone = match identities(names, &observed.members, begun.is_some()) {
        Ok(gone) => gone,
        Err(refused) => return Some(refuse(refused.to_string())),
    };
    let replication = observed.replication();
    Some(
        match recover(&gone, &observed.members, &observed.reports, replication) {
            Ok((recovery, loss)) => match begun {
                // What is being given up is in the status; now it may be done, and done again for whoever did not hear.
                Some(begun) => Recover {
                    status: Some(begun.clone()),
                    tell: Some(recovery),
                    outcome: None,
                    forget: None,
                },
                None => Recover {
                    status: Some(status(asked, &loss)),
                    tell: None,
                    outcome: None,
                    forget: None,
                },
            },
            Err(Refused::NothingStuck) if begun.is_some() => {
                let done = begun.cloned().map(|begun| RecoveryStatus {
                    finished: true,
                    ..begun
                });
                let sentence = done.as_ref().map(|d| d.message.clone()).unwrap_or_default();
                Recover {
                    status: done,
                    tell: None,
                    outcome: Some((true, sentence)),
                    forget: Some(asked.clone()),
                }
            }
            // Members that are only just silent are soon known to be down, or answer again.
            Err(Refused::Silent(_)) if begun.is_some() => Recover {
                status: begun.cloned(),
                tell: None,
                outcome: None,
                forget: None,
            },
            Err(refused) => refuse(refused.to_string()),
        },
    )
}

fn status(asked: &str, loss: &Loss) -> RecoveryStatus {
    let Loss { whole, partial } = loss;
    let message = format!(
        "{asked} given up: {} may have lost what only they held{}; {} lost everything{}",
        slots(partial.len()),
        some(partial),
        slots(whole.len()),
        some(whole)
    );
    let count = |slots: &[Slot]| i32::try_from(slots.len()).unwrap_or(i32::MAX);
    RecoveryStatus {
        peers: asked.to_owned(),
        slots_lost: count(whole),
        slots_partial: count(partial),
        finished: false,
        message,
    }
}

fn slots(count: usize) -> String {
    if count == 1 {
        "1 slot".into()
    } else {
        format!("{count} slots")
    }
}

fn some(slots: &[Slot]) -> String {
    if slots.is_empty() {
        return String::new();
    }
    let named: Vec<String> = slots.iter().take(NAMED).map(Slot::to_string).collect();
    let more = if slots.len() > NAMED { ", …" } else { "" };
    format!(" ({}{more})", named.join(", "))
}
