//! What the peers of a swarm say to each other.

use peernet_core::key::Key;
use peernet_core::member::PeerId;
use peernet_core::swarm::CANDIDATES;
use peernet_core::swarm::pieces::Pieces;
use peernet_proto::v1;
use peernet_proto::v1::follow_response::{More, Part};
use peernet_proto::v1::take_request as form;

use super::{Fault, WireError, count, record, required};

/// New pieces in one message; more are told as a whole map.
pub(crate) const MORE_MAX: usize = 4_096;
/// Longest that a source may send a fetcher away, in milliseconds (guess).
const AWAY_MAX: u32 = 60_000;

/// The question which pieces somebody has.
pub(crate) struct Follow {
    /// UUID of the network.
    pub(crate) network_id: String,
    /// Of what.
    pub(crate) content: Key,
}

record!(Follow => v1::FollowRequest { network_id, content });

/// The question for a turn.
pub(crate) struct Ask {
    /// UUID of the network.
    pub(crate) network_id: String,
    /// Of what a piece is wanted.
    pub(crate) content: Key,
    /// Who asks.
    pub(crate) fetcher: PeerId,
}

record!(Ask => form::Ask { network_id, content, fetcher });

/// What a source says of its pieces.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum News {
    /// Exactly these.
    All(Pieces),
    /// These too.
    More(Vec<u32>),
}

impl News {
    pub(crate) fn to_wire(&self) -> v1::FollowResponse {
        let part = match self {
            News::All(pieces) => Part::All(pieces.to_bytes().into()),
            News::More(pieces) => Part::More(More {
                pieces: pieces.clone(),
            }),
        };
        v1::FollowResponse { part: Some(part) }
    }

    /// Of a content with so many pieces.
    pub(crate) fn from_wire(form: v1::FollowResponse, total: u32) -> Result<Self, WireError> {
        match form.part.ok_or(Fault::Missing.at("FollowResponse.part"))? {
            Part::All(bytes) => Pieces::from_bytes(total, &bytes)
                .map(News::All)
                .map_err(|fault| Fault::Pieces(fault).at("FollowResponse.all")),
            Part::More(More { pieces }) => {
                count(pieces.len(), 0, MORE_MAX, "More.pieces")?;
                Ok(News::More(pieces))
            }
        }
    }
}

/// What a fetcher would take.
pub(crate) fn wanted(form: form::Want) -> Result<Vec<u32>, WireError> {
    count(form.pieces.len(), 1, CANDIDATES, "Want.pieces")?;
    Ok(form.pieces)
}

/// How long to stay away, in milliseconds.
pub(crate) fn away(millis: u32) -> u64 {
    u64::from(millis.min(AWAY_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Wire;

    #[test]
    fn maps_and_lists_without_bounds_are_refused() {
        let all = |bytes: &'static [u8]| {
            let part = Some(Part::All(bytes.into()));
            News::from_wire(v1::FollowResponse { part }, 9)
        };
        assert!(matches!(all(&[0xff, 1]), Ok(News::All(p)) if p.is_full()));
        for bad in [&[0xffu8][..], &[0, 2], &[0, 0, 0]] {
            assert_eq!(all(bad).unwrap_err().field, "FollowResponse.all");
        }
        let more = |n: usize| {
            let pieces = vec![0; n];
            let part = Some(Part::More(More { pieces }));
            News::from_wire(v1::FollowResponse { part }, 9)
        };
        assert!(more(MORE_MAX).is_ok() && more(MORE_MAX + 1).is_err());
        let none = v1::FollowResponse { part: None };
        assert!(News::from_wire(none, 9).is_err());
        let want = |n: usize| wanted(form::Want { pieces: vec![0; n] });
        assert!(want(CANDIDATES).is_ok() && want(CANDIDATES + 1).is_err() && want(0).is_err());
        assert_eq!(away(u32::MAX), u64::from(AWAY_MAX));
        let ask = form::Ask {
            fetcher: vec![1; 15].into(),
            content: vec![1; 32].into(),
            network_id: String::new(),
        };
        assert_eq!(
            Ask::from_wire(ask, "ask").err().unwrap().field,
            "Ask.fetcher"
        );
    }

    #[test]
    fn news_come_back_as_they_were() {
        for news in [News::All(Pieces::all(77)), News::More(vec![3, 76])] {
            assert_eq!(News::from_wire(news.to_wire(), 77), Ok(news));
        }
    }
}
