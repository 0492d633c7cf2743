//! What people ask of a running runner: another number of peers, a peer replaced, lost majorities given up.

use std::collections::BTreeSet;

use peernet_core::config::Replication;
use peernet_core::key::Slot;
use peernet_core::member::{Liveness, PeerId};
use peernet_core::preflight::{Standing, lowest};
use peernet_core::recover::{Loss, Recovery, Refused, identities, recover, stuck};

use crate::runner::control::{self, Ask, Reply, Request};
use crate::runner::home::Replaced;
use crate::runner::manifest::with_peers;
use crate::runner::plan::replace::accept;
use crate::runner::plan::{Decided, Observed};
use crate::runner::{Audience, Runner};

impl Runner {
    /// Takes up a request, or says why not.
    pub(super) async fn take(&mut self, ask: Ask, audience: &mut impl Audience) {
        let Ask { request, reply } = ask;
        let answer = match request {
            // The answer follows when progress towards that number is known.
            Request::Scale { peers } => match self.scale(peers, audience) {
                Ok(from) => {
                    let answer = Reply::Scaling { from, to: peers };
                    return self.accepted.push((answer, reply));
                }
                Err(why) => Err(why),
            },
            Request::Replace { peer } => match self.replace(&peer, audience) {
                Ok(()) => return self.accepted.push((Reply::Replacing { peer }, reply)),
                Err(why) => Err(why),
            },
            Request::Recover { peers, accepted } => self.recover(&peers, accepted, audience).await,
        };
        // The client may be gone.
        drop(reply.send(answer));
    }

    /// Accepts another number of peers, if the manifest's rules, the ports, the ring and the disk allow it; the number before.
    fn scale(&mut self, to: u32, audience: &mut impl Audience) -> Result<u32, String> {
        let from = self.state.wanted();
        let allowed = with_peers(&self.state.manifest, to).map_err(|e| e.to_string());
        let allowed = allowed.and_then(|manifest| {
            // A process that still ends gives its ports back itself.
            let fresh = (self.state.running..to).filter(|i| !self.children.alive(*i));
            let ports = self.children.launch().ports;
            ports.check(to, fresh).map_err(|e| e.to_string())?;
            if to < from {
                preflight(&self.state.decided(), &self.seen, to)?;
            }
            Ok(manifest)
        });
        let manifest = allowed?;
        let saved = self.save(|s| s.manifest = manifest);
        saved.map_err(|e| e.to_string())?;
        if from != to {
            audience.line(&format!("scaling from {from} to {to} peers"));
        }
        Ok(from)
    }

    fn replace(&mut self, name: &str, audience: &mut impl Audience) -> Result<(), String> {
        let decided = self.state.decided();
        if let Some(under_way) = &decided.replacing {
            let under_way = decided.peer_name(under_way.ordinal);
            // The same again is the same request.
            return if under_way == name {
                Ok(())
            } else {
                Err(format!("{under_way} is being replaced; one at a time"))
            };
        }
        let replacing = accept(&decided, &self.seen, name)?;
        let peer = replacing.peer;
        let written = Replaced {
            ordinal: replacing.ordinal,
            peer: peer.to_string(),
            wiped: false,
        };
        let saved = self.save(|s| s.replacing = Some(written));
        saved.map_err(|e| e.to_string())?;
        audience.line(&format!("replacing {name}: the identity {peer} is retired"));
        Ok(())
    }

    /// Says what giving up these peers (or all that hold what is stuck) costs, and does it if that was accepted.
    async fn recover(
        &mut self,
        names: &[String],
        accepted: bool,
        audience: &mut impl Audience,
    ) -> Result<Reply, String> {
        let decided = self.state.decided();
        let observed = self.peers.observe(&decided, &self.children, true).await;
        let given_up = give_up(&observed, names, &self.given_up, decided.replication);
        let (gone, (recovery, loss)) = given_up.map_err(|e| e.to_string())?;
        let name = |id: &PeerId| observed.members.get(id).map(|m| m.name.clone());
        let mut peers: Vec<String> = gone.iter().filter_map(name).collect();
        peers.sort();
        // A name may have had several identities.
        peers.dedup();
        let mut not_heard = Vec::new();
        if accepted {
            let present = observed.members.values().filter(|m| m.is_present());
            let stay = present
                .filter(|m| !gone.contains(&m.id))
                .filter_map(|m| Some((decided.ordinal(&m.name)?, m.name.clone())))
                .collect();
            not_heard = self.peers.recover(&observed, &recovery, &stay).await;
            let told = if not_heard.is_empty() {
                String::new()
            } else {
                format!("; not heard by all: {}", not_heard.join("; "))
            };
            audience.line(&format!("given up for good: {}{told}", peers.join(", ")));
            self.given_up = gone;
        }
        let numbers = |slots: &[Slot]| slots.iter().map(|s| s.number()).collect();
        Ok(Reply::Loss(control::Loss {
            peers,
            slots_lost: numbers(&loss.whole),
            slots_partial: numbers(&loss.partial),
            not_heard,
        }))
    }
}

type Decision = (BTreeSet<PeerId>, (Recovery, Loss));

/// Whom to give up, and what follows. Without names: whoever is down and holds, or may hold, what is stuck.
///
/// Asked for again, because somebody did not hear: those that were given up are gone by then, what they held is not stuck any
/// more, and newcomers may have their names. Then only that they are gone is told once more. Newcomers are not taken for
/// them unless they were given up just `before`: who names a peer that is alive may have mistaken it.
pub(super) fn give_up(
    observed: &Observed,
    names: &[String],
    before: &BTreeSet<PeerId>,
    replication: Replication,
) -> Result<Decision, Refused> {
    let Observed {
        members, reports, ..
    } = observed;
    let decide = |gone: BTreeSet<PeerId>| -> Result<Decision, Refused> {
        let decision = recover(&gone, members, reports, replication)?;
        Ok((gone, decision))
    };
    if names.is_empty() {
        let stuck = stuck(members, reports, replication.write);
        let down = members.values().filter(|m| m.liveness == Liveness::Down);
        let holds = |id: &PeerId| stuck.missing.contains(id) || !stuck.nobody.is_empty();
        return decide(down.map(|m| m.id).filter(holds).collect());
    }
    let named = |begun| identities(names.iter().map(String::as_str), members, begun);
    let refused = match decide(named(false)?) {
        Err(refused @ (Refused::Alive(_) | Refused::NothingStuck)) => refused,
        decided => return decided,
    };
    let gone = named(true)?;
    let left = |id: &PeerId| {
        let member = members.get(id);
        member.is_some_and(|m| m.liveness == Liveness::Left)
    };
    let all_left = gone.iter().all(left);
    let again = all_left && (refused == Refused::NothingStuck || !gone.is_disjoint(before));
    match decide(gone.clone()) {
        Err(Refused::NothingStuck) if again => {
            let told = Recovery {
                gone: gone.iter().copied().collect(),
                configs: Vec::new(),
            };
            Ok((gone, (told, Loss::default())))
        }
        Err(other) if again => Err(other),
        // Some slots still name them.
        Ok(decided) if all_left => Ok(decided),
        Ok(_) | Err(_) => Err(refused),
    }
}

/// Refuses a number that is not safe now, as the API server does.
fn preflight(decided: &Decided, observed: &Observed, to: u32) -> Result<(), String> {
    let peers: Vec<Standing> = (0..decided.wanted)
        .map(|ordinal| {
            let peer = observed.peers.get(ordinal as usize);
            let (held, free, total) = peer.map(|p| p.disk).unwrap_or_default();
            Standing {
                name: decided.peer_name(ordinal),
                ready: peer.is_some_and(|p| p.ready),
                held,
                free,
                total,
            }
        })
        .collect();
    let lowest = lowest(decided.replication.factor, &peers);
    if decided.founded && to < lowest.peers {
        return Err(format!(
            "scaling down so far is unsafe now: {}",
            lowest.reason
        ));
    }
    Ok(())
}
