//! One sentence on the network's health, what it tolerates and what to type next. Pure.

use serde::Serialize;

use super::picture::{Copies, Peer, Picture, State};
use crate::output::counted;

/// What is said above and below the table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Verdict {
    /// One sentence, beginning with `OK:` or `DEGRADED:`.
    pub(crate) verdict: String,
    /// Something is not as it should be.
    pub(crate) degraded: bool,
    /// How many more peers may fail, any ones, with every file still readable and writable; nothing when unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) may_fail: Option<u32>,
    /// The same in words.
    pub(crate) tolerance: String,
    /// Things to know about single peers or the view, a sentence each.
    pub(crate) notes: Vec<String>,
    /// What to type next.
    pub(crate) next: String,
}

impl Verdict {
    /// Judges the picture.
    pub(crate) fn on(picture: &Picture) -> Self {
        let faults = faults(picture);
        let degraded = !faults.is_empty();
        let verdict = if degraded {
            format!("DEGRADED: {}", [faults, data(picture)].concat().join("; "))
        } else {
            format!(
                "OK: {}",
                [vec![roll(picture)], data(picture), moves(picture)]
                    .concat()
                    .join("; ")
            )
        };
        let may_fail = picture
            .copies
            .map(|c| c.fewest.saturating_sub(c.majority()));
        Verdict {
            verdict,
            degraded,
            may_fail,
            tolerance: tolerance(picture, may_fail),
            notes: notes(picture),
            next: next(picture, degraded),
        }
    }
}

fn number(picture: &Picture, of: impl Fn(&Peer) -> bool) -> usize {
    picture.peers.iter().filter(|p| of(p)).count()
}

/// `5 peers in 3 zones`.
fn roll(picture: &Picture) -> String {
    let mut zones: Vec<&str> = picture.peers.iter().map(|p| p.zone.as_str()).collect();
    zones.sort_unstable();
    zones.dedup();
    format!(
        "{} in {}",
        counted(picture.peers.len() as u64, "peer"),
        counted(zones.len() as u64, "zone")
    )
}

/// What is wrong, the gravest first.
fn faults(picture: &Picture) -> Vec<String> {
    let all = picture.peers.len();
    let mut faults = Vec::new();
    let mut fault = |n: usize, what: &str| {
        if n > 0 {
            faults.push(format!("{n} of {} {what}", counted(all as u64, "peer")));
        }
    };
    fault(
        number(picture, |p| matches!(p.state, State::Down | State::Silent)),
        "down",
    );
    fault(
        number(picture, |p| p.state == State::Suspect),
        "not answering",
    );
    fault(
        number(picture, |p| p.state == State::CatchingUp),
        "catching up",
    );
    fault(
        number(picture, |p| p.figures.as_ref().is_some_and(|f| f.disk_full)),
        "out of disk space",
    );
    if faults.is_empty() && picture.copies.is_some_and(|c| c.slots_short > 0) {
        let short = if number(picture, |p| p.state == State::Joining) > 0 {
            "peers are joining"
        } else {
            "copies are missing"
        };
        faults.push(short.to_owned());
    }
    faults
}

/// What that means for the data.
fn data(picture: &Picture) -> Vec<String> {
    let Some(Copies {
        factor,
        slots,
        slots_short,
        slots_stuck,
        slots_busy: _,
        fewest: _,
    }) = picture.copies
    else {
        return vec!["the number of copies is unknown".to_owned()];
    };
    let catching_up = number(picture, |p| p.state == State::CatchingUp) > 0;
    match (slots_stuck, slots_short) {
        (0, 0) if catching_up => vec!["all data readable".to_owned()],
        (0, 0) if factor == 1 => vec!["all data has its one copy".to_owned()],
        (0, 0) => vec![format!("all data has {factor} copies")],
        (0, short) => vec![format!(
            "all data readable, {short} of {slots} slots under-replicated"
        )],
        (stuck, short) => vec![
            format!("{stuck} of {slots} slots have too few copies to be read and written"),
            format!("{short} under-replicated"),
        ],
    }
}

/// What is under way although all is well.
fn moves(picture: &Picture) -> Vec<String> {
    let mut moves = Vec::new();
    for (state, what) in [(State::Joining, "joining"), (State::Leaving, "leaving")] {
        let n = number(picture, |p| p.state == state);
        if n > 0 {
            moves.push(format!("{n} {what}"));
        }
    }
    if let Some(Copies {
        slots,
        slots_busy: busy @ 1..,
        ..
    }) = picture.copies
    {
        moves.push(format!("{busy} of {slots} slots are moving"));
    }
    moves
}

fn tolerance(picture: &Picture, may_fail: Option<u32>) -> String {
    let scope = if picture.only_asked {
        " (judged by the slots that the asked peer holds)"
    } else {
        ""
    };
    match (picture.copies, may_fail) {
        (Some(c), _) if c.slots_stuck > 0 => {
            "Some files cannot be read or written until a peer that is down returns; only if it never will: peernet \
             recover --accept-loss."
                .to_owned()
        }
        (Some(c), Some(0)) if c.fewest > 1 => {
            format!(
                "No more peer may fail: one more would stop some files, though no data would be lost{scope}."
            )
        }
        (_, Some(0)) => format!("No peer may fail: some data has a single copy{scope}."),
        (_, Some(n)) => format!(
            "{} may fail at once with every file still readable and writable{scope}.",
            counted_more(n)
        ),
        (_, None) => {
            "How many peers may fail is unknown: no peer told which slots it holds.".to_owned()
        }
    }
}

fn counted_more(n: u32) -> String {
    if n == 1 {
        "1 more peer".to_owned()
    } else {
        format!("{n} more peers")
    }
}

fn notes(picture: &Picture) -> Vec<String> {
    let mut notes: Vec<String> = Vec::new();
    if picture.only_asked {
        notes.push(format!(
            "The other peers cannot be reached from here (as with kubectl port-forward): their states are what {} knows, \
             their figures are not known.",
            picture.asked
        ));
    }
    notes.extend(
        picture
            .peers
            .iter()
            .filter(|p| !p.reason.is_empty())
            .map(|p| format!("{}: {}", p.name, p.reason)),
    );
    let late = number(picture, |p| {
        p.figures.as_ref().is_some_and(|f| f.syncs_late)
    });
    if late > 0 {
        notes.push(format!(
            "{late} of {} acknowledge writes up to about a second before they are synced (durability: written).",
            counted(picture.peers.len() as u64, "peer")
        ));
    }
    notes
}

/// What helps, in the words of where the peers run.
fn next(picture: &Picture, degraded: bool) -> String {
    let local = picture
        .peers
        .iter()
        .all(|p| p.address.starts_with("127.") || p.address.starts_with("localhost:"));
    let network = picture
        .asked
        .rsplit_once('-')
        .map_or(picture.asked.as_str(), |(stem, _)| stem);
    match (degraded, local) {
        (false, _) => "peernet put FILE".to_owned(),
        (true, true) => "peernet status   (`peernet up` restarts a peer that ended; its log is in the run's directory)".to_owned(),
        (true, false) => format!("kubectl get pods -l app.kubernetes.io/instance={network} -o wide"),
    }
}

#[cfg(test)]
mod tests {
    use peernet_proto::v1::Durability;

    use super::super::picture::tests::healthy;
    use super::*;

    fn verdict(change: impl FnOnce(&mut super::super::survey::Survey)) -> Verdict {
        let mut survey = healthy(5);
        change(&mut survey);
        Verdict::on(&Picture::of(survey))
    }

    #[test]
    fn five_healthy_peers_are_ok() {
        let verdict = verdict(|_| {});
        assert_eq!(
            verdict.verdict,
            "OK: 5 peers in 3 zones; all data has 3 copies"
        );
        assert!(!verdict.degraded);
        assert_eq!(verdict.may_fail, Some(1));
        assert!(
            verdict
                .tolerance
                .starts_with("1 more peer may fail at once"),
            "{}",
            verdict.tolerance
        );
    }

    #[test]
    fn one_peer_down_is_degraded_but_readable() {
        let verdict = verdict(|s| drop(s.answers.remove("id3")));
        assert!(
            verdict
                .verdict
                .starts_with("DEGRADED: 1 of 5 peers down; all data readable, "),
            "{}",
            verdict.verdict
        );
        assert!(
            verdict.verdict.ends_with(" of 4096 slots under-replicated"),
            "{}",
            verdict.verdict
        );
        assert_eq!(verdict.may_fail, Some(0));
        assert!(verdict.tolerance.contains("no data would be lost"));
        assert!(verdict.next.starts_with("peernet status"));
    }

    #[test]
    fn a_majority_lost_is_said_plainly() {
        let verdict = verdict(|s| s.answers.retain(|id, _| id == "id0" || id == "id1"));
        assert!(
            verdict.verdict.contains("too few copies"),
            "{}",
            verdict.verdict
        );
        assert!(verdict.tolerance.starts_with("Some files cannot be read"));
    }

    #[test]
    fn a_peer_that_catches_up_is_named_with_its_reason() {
        let verdict = verdict(|s| {
            let status = &mut s.answers.get_mut("id2").unwrap().status;
            status.ready = false;
            status.reason = "3 slots behind".into();
        });
        assert!(
            verdict
                .verdict
                .starts_with("DEGRADED: 1 of 5 peers catching up; all data readable"),
            "{}",
            verdict.verdict
        );
        assert_eq!(verdict.notes, ["demo-2: 3 slots behind"]);
    }

    #[test]
    fn it_is_said_when_writes_are_acknowledged_before_they_are_synced() {
        let verdict = verdict(|s| {
            for answer in s.answers.values_mut() {
                answer.status.durability = Durability::Written.into();
            }
        });
        assert!(!verdict.degraded, "{}", verdict.verdict);
        assert!(verdict.notes[0].starts_with("5 of 5 peers acknowledge"));
    }

    #[test]
    fn leaving_peers_do_not_degrade() {
        let verdict =
            verdict(|s| s.members[4].state = peernet_proto::v1::PeerState::Leaving as i32);
        assert_eq!(
            verdict.verdict,
            "OK: 5 peers in 3 zones; all data has 3 copies; 1 leaving"
        );
    }

    #[test]
    fn a_narrow_view_says_so() {
        let verdict = verdict(|s| s.answers.retain(|id, _| id == "id0"));
        assert!(!verdict.degraded, "{}", verdict.verdict);
        assert!(verdict.notes[0].contains("port-forward"));
        assert!(verdict.tolerance.contains("judged by"));
    }
}
