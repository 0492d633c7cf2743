//! `peernet ring`: the ring clockwise, each peer with its neighbours as it names them itself, and whether they agree.

use std::collections::BTreeMap;

use peernet_proto::v1::{PeerInfo, PeerState, StatusResponse};
use serde::Serialize;

use crate::args::Global;
use crate::output;
use crate::progress;
use crate::status::StatusError;
use crate::status::picture::{position, state_name};
use crate::status::survey::{Survey, survey};

/// The ring, as printed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Ring {
    /// How it is, in a sentence.
    verdict: String,
    /// Every peer that answers and is up names the next one as its successor, and is its predecessor.
    closed: bool,
    /// In ring order.
    peers: Vec<Place>,
}

/// A peer's place.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Place {
    name: String,
    zone: String,
    state: &'static str,
    /// 16 hex digits.
    position: String,
    /// Part of the ring before it, of which keys are its own, in percent.
    arc: String,
    /// By its own word, as are the successors; absent when it does not answer, or has none.
    predecessor: Option<String>,
    /// Nearest first; empty when it does not answer.
    successors: Vec<String>,
    id: String,
}

impl Ring {
    fn of(survey: Survey) -> Self {
        let Survey {
            asked: _,
            mut members,
            answers,
        } = survey;
        members.retain(|m| m.state() != PeerState::Left);
        members.sort_by_key(|m| (m.position, m.id.clone()));
        let names: BTreeMap<&str, &str> = (members.iter())
            .map(|m| (m.id.as_str(), m.name.as_str()))
            .collect();
        let named = |id: &String| names.get(id.as_str()).map_or(id.clone(), |n| (*n).into());
        let told = |m: &PeerInfo| answers.get(&m.id).map(|answer| &answer.status);
        let positions: Vec<u64> = members.iter().map(|m| m.position).collect();
        let places = members.iter().zip(arcs(&positions)).map(|(m, arc)| {
            let told = told(m);
            let before = told.map(|t| &t.predecessor).filter(|id| !id.is_empty());
            let after = told.map_or(&[][..], |t| &t.successors);
            Place {
                name: m.name.clone(),
                zone: m.zone.clone(),
                state: state_name(m.state()),
                position: position(m.position),
                arc: format!("{:.1}", arc * 100.0),
                predecessor: before.map(named),
                successors: after.iter().map(named).collect(),
                id: m.id.clone(),
            }
        });
        let up: Vec<&PeerInfo> = members.iter().filter(|m| in_ring(m)).collect();
        let (verdict, closed) = verdict(&up, told);
        Ring {
            verdict,
            closed,
            peers: places.collect(),
        }
    }

    fn text(&self, wide: bool) -> String {
        let brief = [
            "NAME",
            "ZONE",
            "STATE",
            "ARC>",
            "POSITION",
            "PREDECESSOR",
            "SUCCESSOR",
        ];
        let more = ["SUCCESSORS", "ID"];
        let rows = self.peers.iter().map(|p| {
            let or_none = |name: Option<&String>| name.cloned().unwrap_or_else(|| "-".to_owned());
            let mut row = vec![
                p.name.clone(),
                p.zone.clone(),
                p.state.to_owned(),
                format!("{} %", p.arc),
                p.position.clone(),
                or_none(p.predecessor.as_ref()),
                or_none(p.successors.first()),
            ];
            if wide {
                row.extend([p.successors.join(", "), p.id.clone()]);
            }
            row
        });
        let header: Vec<&str> = match wide {
            true => brief.into_iter().chain(more).collect(),
            false => brief.to_vec(),
        };
        format!("{}\n\n{}", self.verdict, output::table(&header, rows))
    }
}

/// The part of the ring before each of these positions, from 0 to 1; they are in order.
pub(crate) fn arcs(positions: &[u64]) -> impl Iterator<Item = f64> {
    let before = positions.iter().cycle().skip(positions.len().max(1) - 1);
    positions.iter().zip(before).map(|(position, before)| {
        if positions.len() == 1 {
            return 1.0;
        }
        position.wrapping_sub(*before) as f64 / 2f64.powi(64)
    })
}

/// It has its place between neighbours, and they count on it.
fn in_ring(member: &PeerInfo) -> bool {
    matches!(
        member.state(),
        PeerState::Active | PeerState::Suspect | PeerState::Leaving
    )
}

/// Whether those that are up and answer name each other as neighbours, and a sentence on it.
fn verdict<'a>(
    up: &[&PeerInfo],
    told: impl Fn(&PeerInfo) -> Option<&'a StatusResponse>,
) -> (String, bool) {
    let peers = output::counted(up.len() as u64, "peer");
    let silent = up.iter().filter(|m| told(m).is_none()).count();
    let pairs = up.iter().zip(up.iter().cycle().skip(1));
    let wrong: Vec<&str> = pairs
        .filter(|(peer, next)| {
            let after = told(peer).is_some_and(|t| t.successors.first() != Some(&next.id));
            let before = told(next).is_some_and(|t| t.predecessor != peer.id);
            peer.id != next.id && (after || before)
        })
        .map(|(peer, _)| peer.name.as_str())
        .collect();
    if !wrong.is_empty() {
        let after = wrong.join(", ");
        let text = format!(
            "The ring of {peers} is being mended: neighbours disagree after {after}; look again in a moment"
        );
        return (text, false);
    }
    match silent {
        0 => (format!("{peers} in one ring; all neighbours agree"), true),
        _ => (
            format!(
                "{peers} in one ring; {silent} of them could not be asked, and the others agree"
            ),
            false,
        ),
    }
}

/// Asks every peer that can be reached, and prints.
pub async fn run(global: &Global) -> Result<(), StatusError> {
    let spinner = progress::spinner("asking every peer");
    let heard = survey(&global.server).await;
    spinner.finish_and_clear();
    let ring = Ring::of(heard?);
    if !global.common.output.document(&ring)? {
        output::print(&ring.text(global.common.output.is_wide()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::survey::Answer;

    fn member(n: u64, state: PeerState) -> PeerInfo {
        PeerInfo {
            id: format!("id-{n}"),
            name: format!("p-{n}"),
            position: n << 62,
            state: state.into(),
            ..PeerInfo::default()
        }
    }

    fn answer(before: u64, after: u64) -> Answer {
        Answer {
            status: StatusResponse {
                predecessor: format!("id-{before}"),
                successors: vec![format!("id-{after}"), "id-9".into()],
                ..StatusResponse::default()
            },
            report: None,
        }
    }

    fn ring(down: u64, answers: &[(u64, u64, u64)]) -> Ring {
        let answers: Vec<(String, Answer)> = (answers.iter())
            .map(|(n, before, after)| (format!("id-{n}"), answer(*before, *after)))
            .collect();
        let state = |n| match n == down {
            true => PeerState::Down,
            false => PeerState::Active,
        };
        Ring::of(Survey {
            asked: answers[0].1.clone(),
            members: [2, 0, 3].map(|n| member(n, state(n))).to_vec(),
            answers: answers.into_iter().collect(),
        })
    }

    #[test]
    fn neighbours_that_agree_close_the_ring() {
        let whole = ring(7, &[(0, 3, 2), (2, 0, 3), (3, 2, 0)]);
        assert!(whole.closed);
        let text = whole.text(true);
        for part in [
            "3 peers in one ring; all neighbours agree\n\nNAME",
            "25.0 %  0000000000000000  p-3          p-2        p-2, id-9",
            "50.0 %  8000000000000000  p-0          p-3",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn those_that_are_down_have_no_place_and_disagreement_is_told() {
        assert!(ring(3, &[(0, 2, 2), (2, 0, 0)]).closed);
        let old = ring(7, &[(0, 2, 2), (2, 0, 3), (3, 2, 0)]);
        assert!(!old.closed);
        assert!(
            old.verdict.contains("disagree after p-3;"),
            "{}",
            old.verdict
        );
        let silent = ring(7, &[(0, 3, 2)]);
        assert!(!silent.closed);
        assert!(silent.verdict.contains("2 of them"), "{}", silent.verdict);
        assert!(
            silent.text(false).contains("-          "),
            "what it has not said"
        );
    }

    #[test]
    fn one_peer_has_the_whole_ring() {
        assert_eq!(arcs(&[5]).collect::<Vec<_>>(), [1.0]);
        assert_eq!(arcs(&[]).count(), 0);
        let half = arcs(&[1 << 62, 3 << 62]).collect::<Vec<_>>();
        assert_eq!(half, [0.5, 0.5]);
    }
}
