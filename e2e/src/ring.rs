//! Whether the peers' own accounts add up to exactly one ring.

use std::collections::{BTreeMap, BTreeSet};

use peernet_proto::v1::{PeerInfo, PeerState, StatusResponse};
use thiserror::Error;

/// One peer's account.
#[derive(Clone, Debug)]
pub struct View {
    /// The pod asked.
    pub name: String,
    /// What it says of itself.
    pub status: StatusResponse,
    /// The peers it knows.
    pub members: Vec<PeerInfo>,
}

/// Why the accounts are not those of one ring.
#[derive(Debug, Error, PartialEq, Eq)]
#[allow(missing_docs, reason = "the messages are the documentation")]
pub enum NotOneRing {
    #[error("{who} is in the network {found:?}")]
    OtherNetwork { who: String, found: String },
    #[error("accounts of {found:?} instead of {wanted:?}")]
    OtherPeers {
        found: Vec<String>,
        wanted: Vec<String>,
    },
    #[error("{who} says it is {claimed:?}")]
    Impostor { who: String, claimed: String },
    #[error("{who} is not ready: {reason}")]
    NotReady { who: String, reason: String },
    #[error("{who} sees the active members {seen:?} instead of {wanted:?}")]
    OtherMembers {
        who: String,
        seen: Vec<String>,
        wanted: Vec<String>,
    },
    #[error("{who} has {found:?} as {neighbour}, but {wanted:?} follows from the positions")]
    Neighbour {
        who: String,
        neighbour: &'static str,
        found: String,
        wanted: String,
    },
}

/// Checks that exactly the peers `names` are there, that each of them is ready and sees exactly all of them as active,
/// and that their successors are one cycle through all, in the order of their positions, with predecessors to match.
///
/// # Errors
/// The first thing that does not fit.
pub fn one_ring(network_id: &str, names: &[String], views: &[View]) -> Result<(), NotOneRing> {
    let sorted = |names: Vec<String>| {
        names
            .into_iter()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    };
    let wanted: Vec<String> = sorted(names.to_vec());
    let mut found: Vec<_> = views.iter().map(|v| v.name.clone()).collect();
    found.sort();
    if found != wanted {
        return Err(NotOneRing::OtherPeers { found, wanted });
    }
    let mut ring = BTreeMap::new();
    for View {
        name,
        status,
        members,
    } in views
    {
        let who = || name.clone();
        if status.network_id != network_id {
            return Err(NotOneRing::OtherNetwork {
                who: who(),
                found: status.network_id.clone(),
            });
        }
        let me = status.self_.clone().unwrap_or_default();
        if me.name != *name {
            return Err(NotOneRing::Impostor {
                who: who(),
                claimed: me.name,
            });
        }
        if !status.ready {
            return Err(NotOneRing::NotReady {
                who: who(),
                reason: status.reason.clone(),
            });
        }
        let active = members.iter().filter(|m| m.state() == PeerState::Active);
        let mut seen: Vec<_> = active.map(|m| m.name.clone()).collect();
        seen.sort();
        if seen != wanted {
            return Err(NotOneRing::OtherMembers {
                who: who(),
                seen,
                wanted,
            });
        }
        ring.insert((me.position, me.id.clone()), (name, status));
    }
    let order: Vec<_> = ring
        .iter()
        .map(|((_, id), (name, status))| (id, *name, *status))
        .collect();
    for (i, (id, _, status)) in order.iter().enumerate() {
        let (next, next_name, next_status) = order[(i + 1) % order.len()];
        let wrong = |who: &str, neighbour, found: &str, wanted: &str| {
            let (who, found, wanted) = (who.into(), found.into(), wanted.into());
            Err(NotOneRing::Neighbour {
                who,
                neighbour,
                found,
                wanted,
            })
        };
        let successor = status.successors.first().map_or("", String::as_str);
        if successor != next {
            return wrong(order[i].1, "successor", successor, next);
        }
        if next_status.predecessor != **id {
            return wrong(next_name, "predecessor", &next_status.predecessor, id);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: u64) -> Vec<String> {
        (0..count).map(|n| format!("demo-{n}")).collect()
    }

    /// A perfect ring, in which peer n stands at position 10 (n + 1).
    fn views(count: u64) -> Vec<View> {
        let peer = |n: u64| PeerInfo {
            id: format!("id{n}"),
            name: format!("demo-{n}"),
            position: 10 * (n + 1),
            state: PeerState::Active.into(),
            ..PeerInfo::default()
        };
        let status = |n: u64| StatusResponse {
            network_id: "net".into(),
            self_: Some(peer(n)),
            ready: true,
            successors: vec![
                format!("id{}", (n + 1) % count),
                format!("id{}", (n + 2) % count),
            ],
            predecessor: format!("id{}", (n + count - 1) % count),
            ..StatusResponse::default()
        };
        let view = |n: u64| View {
            name: format!("demo-{n}"),
            status: status(n),
            members: (0..count).map(peer).collect(),
        };
        (0..count).map(view).collect()
    }

    fn broken(change: impl FnOnce(&mut Vec<View>)) -> NotOneRing {
        let mut views = views(5);
        change(&mut views);
        one_ring("net", &names(5), &views).unwrap_err()
    }

    #[test]
    fn a_ring_is_one() {
        for count in 1..7 {
            assert_eq!(
                one_ring("net", &names(count), &views(count)),
                Ok(()),
                "{count}"
            );
        }
    }

    #[test]
    fn two_rings_are_not() {
        let split = broken(|views| {
            for (n, next) in [(0, "id1"), (1, "id0"), (2, "id3"), (3, "id4"), (4, "id2")] {
                views[n].status.successors = vec![next.into()];
            }
        });
        assert!(
            matches!(
                split,
                NotOneRing::Neighbour {
                    neighbour: "successor",
                    ..
                }
            ),
            "{split}"
        );
        let other = broken(|views| views[3].status.network_id = "other".into());
        assert!(matches!(other, NotOneRing::OtherNetwork { .. }), "{other}");
    }

    #[test]
    fn a_ring_that_skips_a_peer_is_not_one() {
        let skipped = broken(|views| views[1].status.successors = vec!["id3".into()]);
        assert!(matches!(skipped, NotOneRing::Neighbour { .. }), "{skipped}");
        let unnoticed = broken(|views| views[2].status.predecessor = "id0".into());
        assert!(matches!(
            unnoticed,
            NotOneRing::Neighbour {
                neighbour: "predecessor",
                ..
            }
        ));
    }

    #[test]
    fn all_have_to_see_the_same_and_be_ready() {
        let blind = broken(|views| {
            views[4].members.pop();
        });
        assert!(matches!(blind, NotOneRing::OtherMembers { .. }), "{blind}");
        let suspect = broken(|views| views[0].members[3].set_state(PeerState::Suspect));
        assert!(
            matches!(suspect, NotOneRing::OtherMembers { .. }),
            "{suspect}"
        );
        let behind = broken(|views| views[2].status.ready = false);
        assert!(matches!(behind, NotOneRing::NotReady { .. }), "{behind}");
        let missing = broken(|views| {
            views.pop();
        });
        assert!(
            matches!(missing, NotOneRing::OtherPeers { .. }),
            "{missing}"
        );
    }
}
