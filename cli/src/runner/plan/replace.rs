//! Replacing a peer whose volume is gone for good, by the operator's rules: its identity is retired, its volume is
//! removed once the others have proved that nothing depends on it, and its number begins anew.

use peernet_core::config::Replication;
use peernet_core::leave::Verdict;
use peernet_core::member::{Liveness, PeerId};
use peernet_core::recover::replaceable;

use super::{Action, Decided, Observed, Replacement, Volume};

/// What was accepted and written down.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replacing {
    /// Whose volume is gone.
    pub ordinal: u32,
    /// The identity that is retired.
    pub peer: PeerId,
    /// The old volume is removed; what is there now is new.
    pub wiped: bool,
}

/// The member that the peer of that number is (or was last), if it may be replaced; else why not.
pub fn accept(decided: &Decided, observed: &Observed, name: &str) -> Result<Replacing, String> {
    let no_such = || format!("no peer of this network is called {name}");
    let ordinal = decided.ordinal(name).ok_or_else(no_such)?;
    if !decided.founded || ordinal >= decided.wanted {
        return Err(no_such());
    }
    let peer = observed.peers.get(ordinal as usize);
    if peer.is_some_and(|p| p.volume.is_some()) {
        return Err(format!(
            "{name} is alive and answers; only a peer whose volume is gone for good is replaced"
        ));
    }
    let named = observed.members.values().filter(|m| m.name == name);
    let dead = named.max_by_key(|m| (m.liveness != Liveness::Left, m.incarnation));
    let dead = dead.ok_or_else(|| format!("the ring knows no peer called {name}"))?;
    Ok(Replacing {
        ordinal,
        peer: dead.id,
        wiped: false,
    })
}

/// The next step of the replacement under way, and how far it is.
pub(super) fn replace(
    decided: &Decided,
    observed: &Observed,
) -> (Option<Action>, Option<Replacement>) {
    let Some(replacing) = &decided.replacing else {
        return (None, None);
    };
    let Replacing {
        ordinal,
        peer: dead,
        wiped,
    } = replacing;
    let name = decided.peer_name(*ordinal);
    if *ordinal >= decided.wanted {
        // It leaves like any other, and its process ends on the same proof.
        let replacement = Replacement {
            name,
            sentence: "it is not replaced: it is not wanted any more".to_owned(),
            over: true,
            dropped: true,
        };
        return (Some(Action::EndReplacement), Some(replacement));
    }
    let member = observed.members.get(dead);
    let retired = member.is_none_or(|m| m.liveness == Liveness::Left);
    let runs = observed
        .peers
        .get(*ordinal as usize)
        .and_then(|p| p.volume.as_ref());
    let runs = match runs {
        Some(Volume::Peer {
            id,
            left: false,
            running: true,
            ..
        }) => Some(id),
        _ => None,
    };
    let successor = runs.filter(|id| *id != dead);
    let (action, sentence) = if *wiped || successor.is_some() {
        match successor {
            Some(_) if retired => (
                Some(Action::EndReplacement),
                "it runs as a new peer; what it was before has been retired".to_owned(),
            ),
            _ => (None, "it joins as a new peer".to_owned()),
        }
    } else if runs == Some(dead) && !retired {
        (
            Some(Action::EndReplacement),
            "it is back with its volume, and stays".to_owned(),
        )
    } else if member.is_some_and(|m| m.is_present()) {
        (
            None,
            "waiting for the ring to see that it is down".to_owned(),
        )
    } else {
        let replication = decided.replication;
        match replaceable(
            *dead,
            &name,
            &observed.members,
            &observed.reports,
            replication,
            false,
        ) {
            Verdict::Proved => (
                Some(Action::Wipe(*ordinal)),
                "all it held is proved to be held elsewhere".to_owned(),
            ),
            Verdict::Stay {
                slots_left,
                blocker,
                ..
            } => {
                let blocker = super::leave::named(blocker, observed);
                (
                    None,
                    format!("{slots_left} slots still depend on it: {blocker}"),
                )
            }
        }
    };
    let over = action == Some(Action::EndReplacement);
    let replacement = Replacement {
        name,
        sentence,
        over,
        dropped: false,
    };
    (action, Some(replacement))
}

/// So far as the manifest says.
pub fn replication(factor: i32, write: i32) -> Replication {
    Replication {
        factor: factor.unsigned_abs(),
        write: write.unsigned_abs(),
    }
}
