//! What peers say about shared files.

use bytes::Bytes;
use peernet_core::flood::{CHECK, OFFERS_MAX, Query, QueryId, Step, WALK_TTL_MAX, Walk};
use peernet_core::key::Key;
use peernet_core::member::PeerId;
use peernet_core::providers::{BATCH, PER_CONTENT};
use peernet_core::share::{Offer, Wanted};
use peernet_proto::v1;
use peernet_proto::v1::flood_step as form;
use peernet_proto::v1::flood_step::Kind;
use peernet_proto::v1::flood_step::wanted::What;

use super::{Fault, Field, Wire, WireError, count, record, required};

/// Most neighbours named in one answer; an overlay's degree is far below (guess).
const TOLD_MAX: usize = 64;

record!(Offer => v1::Offer { name, size, content, content_type, tags, since }, check |o| {
    o.check().map_err(|fault| Fault::Share(fault).at("Offer"))
});

record!(Walk => form::Walk { walker, trail, resume }, check |w| {
    count(w.trail.len(), 0, CHECK, "Walk.trail")
});

required!(Wanted);
impl Wire for Wanted {
    type Form = form::Wanted;

    fn to_wire(&self) -> form::Wanted {
        let what = match self {
            Wanted::Words(words) => What::Words(form::Words {
                words: words.clone(),
            }),
            Wanted::Name(name) => What::Name(name.put()),
            Wanted::Content(content) => What::Content(content.put()),
        };
        form::Wanted { what: Some(what) }
    }

    fn from_wire(form: form::Wanted, field: &'static str) -> Result<Self, WireError> {
        let wanted = match form.what.ok_or(Fault::Missing.at(field))? {
            What::Words(form::Words { words }) => Wanted::Words(words),
            What::Name(name) => Wanted::Name(Field::take(name, "Wanted.name")?),
            What::Content(content) => Wanted::Content(Field::take(content, "Wanted.content")?),
        };
        wanted
            .checked()
            .map_err(|fault| Fault::Share(fault).at(field))
    }
}

required!(Query);
impl Wire for Query {
    type Form = form::Query;

    fn to_wire(&self) -> form::Query {
        let Query {
            id: QueryId { asker, op },
            zone,
            wanted,
            ttl,
            walk,
        } = self;
        form::Query {
            asker: asker.put(),
            op: *op,
            zone: zone.clone(),
            wanted: wanted.put(),
            ttl: *ttl,
            walk: walk.put(),
        }
    }

    fn from_wire(form: form::Query, _: &'static str) -> Result<Self, WireError> {
        let form::Query {
            asker,
            op,
            zone,
            wanted,
            ttl,
            walk,
        } = form;
        count(ttl as usize, 0, WALK_TTL_MAX as usize, "Query.ttl")?;
        Ok(Query {
            id: QueryId {
                asker: Field::take(asker, "Query.asker")?,
                op,
            },
            zone: zone.map(|z| Field::take(z, "Query.zone")).transpose()?,
            wanted: Field::take(wanted, "Query.wanted")?,
            ttl,
            walk: Field::take(walk, "Query.walk")?,
        })
    }
}

required!(Step);
impl Wire for Step {
    type Form = v1::FloodStep;

    fn to_wire(&self) -> v1::FloodStep {
        let kind = match self {
            Step::Ask(query) => Kind::Ask(query.to_wire()),
            Step::Tell { op, told, offers } => Kind::Tell(form::Tell {
                op: *op,
                told: told.put(),
                offers: offers.put(),
            }),
            Step::Check { query, offers } => Kind::Check(form::Check {
                query: query.put(),
                offers: offers.put(),
            }),
            Step::Announce { contents, gone } => Kind::Announce(form::Announce {
                contents: contents.put(),
                gone: *gone,
            }),
            Step::Providers { op, content } => Kind::Providers(form::Providers {
                op: *op,
                content: content.put(),
            }),
            Step::Provided { op, peers } => Kind::Provided(form::Provided {
                op: *op,
                peers: peers.put(),
            }),
        };
        v1::FloodStep { kind: Some(kind) }
    }

    fn from_wire(form: v1::FloodStep, field: &'static str) -> Result<Self, WireError> {
        Ok(match form.kind.ok_or(Fault::Missing.at(field))? {
            Kind::Ask(query) => Step::Ask(Wire::from_wire(query, "FloodStep.ask")?),
            Kind::Tell(form::Tell { op, told, offers }) => Step::Tell {
                op,
                told: peers(told, TOLD_MAX, "Tell.told")?,
                offers: few(offers, "Tell.offers")?,
            },
            Kind::Check(form::Check { query, offers }) => Step::Check {
                query: Field::take(query, "Check.query")?,
                offers: few(offers, "Check.offers")?,
            },
            Kind::Announce(form::Announce { contents, gone }) => {
                count(contents.len(), 0, BATCH, "Announce.contents")?;
                let contents: Vec<Key> = Field::take(contents, "Announce.contents")?;
                Step::Announce { contents, gone }
            }
            Kind::Providers(form::Providers { op, content }) => Step::Providers {
                op,
                content: Field::take(content, "Providers.content")?,
            },
            Kind::Provided(form::Provided { op, peers: ids }) => Step::Provided {
                op,
                peers: peers(ids, PER_CONTENT, "Provided.peers")?,
            },
        })
    }
}

fn peers(ids: Vec<Bytes>, most: usize, field: &'static str) -> Result<Vec<PeerId>, WireError> {
    count(ids.len(), 0, most, field)?;
    Field::take(ids, field)
}

fn few(offers: Vec<v1::Offer>, field: &'static str) -> Result<Vec<Offer>, WireError> {
    count(offers.len(), 0, OFFERS_MAX, field)?;
    Field::take(offers, field)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(kind: Kind) -> WireError {
        Step::from_wire(v1::FloodStep { kind: Some(kind) }, "step").unwrap_err()
    }

    fn query() -> form::Query {
        form::Query {
            asker: vec![7; 16].into(),
            wanted: Some(form::Wanted {
                what: Some(What::Words(form::Words {
                    words: vec!["a".into()],
                })),
            }),
            ..Default::default()
        }
    }

    #[test]
    fn what_has_no_bounds_is_refused_whole() {
        let step = |query| {
            Step::from_wire(
                v1::FloodStep {
                    kind: Some(Kind::Ask(query)),
                },
                "step",
            )
        };
        assert!(step(query()).is_ok());
        let far = form::Query {
            ttl: 1_025,
            ..query()
        };
        assert_eq!(refused(Kind::Ask(far)).field, "Query.ttl");
        let words = |words: Vec<String>| form::Query {
            wanted: Some(form::Wanted {
                what: Some(What::Words(form::Words { words })),
            }),
            ..query()
        };
        for bad in [
            vec![],
            vec!["a".into(); 17],
            vec!["a".repeat(257)],
            vec!["\n".into()],
        ] {
            assert!(matches!(
                refused(Kind::Ask(words(bad))).fault,
                Fault::Share(_)
            ));
        }
        let trail = form::Walk {
            trail: vec![vec![1; 16].into(); CHECK + 1],
            ..Default::default()
        };
        let walk = form::Query {
            walk: Some(trail),
            ..query()
        };
        assert_eq!(refused(Kind::Ask(walk)).field, "Walk.trail");
        let many = form::Tell {
            offers: vec![v1::Offer::default(); OFFERS_MAX + 1],
            ..Default::default()
        };
        assert_eq!(refused(Kind::Tell(many)).field, "Tell.offers");
        let announce = form::Announce {
            contents: vec![vec![1; 32].into(); BATCH + 1],
            gone: false,
        };
        assert_eq!(refused(Kind::Announce(announce)).field, "Announce.contents");
    }
}
