//! The runner's conversation with its peers over gRPC: what each says of itself, and what each is told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use peernet_core::key::Position;
use peernet_core::leave::Report;
use peernet_core::member::{Member, PeerId};
use peernet_core::recover::Recovery;
use peernet_node::wire;
use peernet_proto::v1::admin_client::AdminClient;
use peernet_proto::v1::peers_client::PeersClient;
use peernet_proto::v1::{
    AssignRequest, DrainOrder, DrainRequest, HintRequest, IdentifyRequest, IdentifyResponse,
    LeaveReportRequest, ListPeersRequest, PeerHint, PeerState, StatusRequest, StatusResponse,
    peer_hint,
};
use tonic::transport::{Channel, Endpoint};

use crate::runner::child::Children;
use crate::runner::plan::{Decided, Observed, Peer, Volume, leavers};
use crate::runner::ports::Ports;

/// How long a peer on the same machine may take to answer. Guess: longer than any sync to disk on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);
/// A report names up to 4,096 slots with their replicas; far below this.
const REPORT_BYTES: usize = 16 << 20;
/// So many peers hear that a process ended; they pass it on.
const HINTED: usize = 3;
/// A drain order is given to the peer itself and to so many others, who pass it on; so it survives any one of them.
const WITNESSES: usize = 2;

/// Connections to all peers, opened when they are used.
#[derive(Debug)]
pub struct Peers {
    ports: Ports,
    channels: Vec<Channel>,
    /// Why an assignment was refused last, by ordinal.
    refusals: BTreeMap<u32, String>,
}

impl Peers {
    /// To the peers on these ports.
    pub fn new(ports: Ports) -> Self {
        Peers {
            ports,
            channels: Vec::new(),
            refusals: BTreeMap::new(),
        }
    }

    fn channel(&mut self, ordinal: u32) -> Channel {
        for next in self.channels.len() as u32..=ordinal {
            let endpoint = Endpoint::from_shared(format!("http://{}", self.ports.grpc(next)));
            let endpoint = endpoint.expect("an address of the loopback is a URI");
            self.channels.push(
                endpoint
                    .connect_timeout(PATIENCE)
                    .timeout(PATIENCE)
                    .tcp_nodelay(true)
                    .connect_lazy(),
            );
        }
        self.channels[ordinal as usize].clone()
    }

    /// Asks every process what it is, and, if peers are leaving, what it can say towards that.
    ///
    /// `all`: ask for reports though nobody leaves or is down.
    pub async fn observe(&mut self, decided: &Decided, children: &Children, all: bool) -> Observed {
        let channels: Vec<(u32, Channel)> =
            (0..decided.running).map(|i| (i, self.channel(i))).collect();
        let looks = join_all(channels.iter().map(async |(ordinal, channel)| {
            if children.alive(*ordinal) {
                look(channel.clone()).await
            } else {
                Look::default()
            }
        }));
        let mut observed = Observed::default();
        for (ordinal, look) in (0..).zip(looks.await) {
            let Look {
                volume,
                status,
                members,
            } = look;
            for member in members {
                let known = observed
                    .members
                    .entry(member.id)
                    .or_insert_with(|| member.clone());
                known.merge(&member);
            }
            let state = status
                .as_ref()
                .and_then(|s| s.self_.as_ref())
                .map(|s| s.state());
            let ready = status.as_ref().is_some_and(|s| s.ready);
            if ready {
                self.refusals.remove(&ordinal);
            }
            let busy = status
                .as_ref()
                .map_or(0, |s| s.slots_moving.max(s.slots_behind));
            let disk = status
                .as_ref()
                .map_or((0, 0, 0), |s| (s.bytes_held, s.disk_free, s.disk_total));
            let said = status.map(|s| s.reason).unwrap_or_default();
            let reason = match self.refusals.get(&ordinal) {
                _ if !children.alive(ordinal) && children.crashes(ordinal) > 0 => {
                    "its process ended".to_owned()
                }
                Some(refusal) => refusal.clone(),
                None => said,
            };
            observed.peers.push(Peer {
                alive: children.alive(ordinal),
                may_start: children.may_start(ordinal),
                volume,
                active: matches!(state, Some(PeerState::Active | PeerState::Leaving)),
                ready,
                reason,
                busy,
                disk,
            });
        }
        let leavers = leavers(decided, &observed);
        if all || !leavers.is_empty() {
            observed.reports = reports(&channels, &leavers, children).await;
        }
        observed
    }

    /// Gives a peer its place.
    pub async fn assign(
        &mut self,
        network: &str,
        ordinal: u32,
        zone: String,
        position: Position,
        found: bool,
    ) {
        let request = AssignRequest {
            network_id: network.to_owned(),
            zone,
            position: position.0,
            found,
            // A home has its ports for itself.
            instance: String::new(),
        };
        match AdminClient::new(self.channel(ordinal))
            .assign(request)
            .await
        {
            Ok(_) => drop(self.refusals.remove(&ordinal)),
            // It is tried again in the next round; meanwhile this is what people see.
            Err(status) => drop(self.refusals.insert(ordinal, status.message().to_owned())),
        }
    }

    /// Gives an order to the peer it is about and to a few others. Whether it arrived shows in the next round.
    pub async fn drain(&mut self, observed: &Observed, peer: PeerId, epoch: u64, leaving: bool) {
        let is_it = |p: &Peer| matches!(p.volume, Some(Volume::Peer { id, .. }) if id == peer);
        let running = |p: &Peer| {
            matches!(
                p.volume,
                Some(Volume::Peer {
                    running: true,
                    left: false,
                    ..
                })
            )
        };
        let all = (0..)
            .zip(&observed.peers)
            .filter(|(_, p)| p.alive && running(p));
        let (own, others): (Vec<_>, Vec<_>) = all.partition(|(_, p)| is_it(p));
        let told: Vec<u32> = own
            .iter()
            .chain(others.iter().take(WITNESSES))
            .map(|(i, _)| *i)
            .collect();
        let order = DrainOrder {
            peer_id: peer.to_string(),
            epoch,
            leaving,
        };
        let calls: Vec<Channel> = told.into_iter().map(|i| self.channel(i)).collect();
        join_all(calls.into_iter().map(async |channel| {
            AdminClient::new(channel)
                .drain(DrainRequest {
                    orders: vec![order.clone()],
                })
                .await
        }))
        .await;
    }
}

impl Peers {
    fn running(&mut self, observed: &Observed) -> Vec<(u32, Channel)> {
        let runs = |p: &Peer| {
            let member = matches!(
                p.volume,
                Some(Volume::Peer {
                    running: true,
                    left: false,
                    ..
                })
            );
            p.alive && member
        };
        let running: Vec<u32> = (0..)
            .zip(&observed.peers)
            .filter(|(_, p)| runs(p))
            .map(|(i, _)| i)
            .collect();
        running.into_iter().map(|i| (i, self.channel(i))).collect()
    }

    /// Tells a few peers that the process of another ended.
    pub async fn hint(&mut self, observed: &Observed, peer: PeerId) {
        let told = self.running(observed).into_iter().take(HINTED);
        join_all(told.map(async |(_, channel)| {
            let hint = PeerHint {
                peer_id: peer.to_string(),
                kind: peer_hint::Kind::Gone.into(),
            };
            // Best effort: pings find out too.
            drop(
                AdminClient::new(channel)
                    .hint(HintRequest { hints: vec![hint] })
                    .await,
            );
        }))
        .await;
    }

    /// Tells all running peers what is given up. Sentences on those that did not do it, and on those of `stay` (by ordinal,
    /// the names of members that are thought alive) that could not be told.
    pub async fn recover(
        &mut self,
        observed: &Observed,
        recovery: &Recovery,
        stay: &BTreeMap<u32, String>,
    ) -> Vec<String> {
        let request = wire::recover_request(recovery);
        let told = self.running(observed);
        let silent = unheard(stay, told.iter().map(|(ordinal, _)| *ordinal).collect());
        let answers = join_all(told.into_iter().map(async |(ordinal, channel)| {
            match AdminClient::new(channel).recover(request.clone()).await {
                Ok(answer) if answer.get_ref().alive.is_empty() => None,
                Ok(_) => Some(format!("to peer {ordinal} one of them still answers")),
                Err(status) => Some(format!("peer {ordinal}: {}", status.message())),
            }
        }));
        silent
            .into_iter()
            .chain(answers.await.into_iter().flatten())
            .collect()
    }
}

/// Sentences on those that stay and are not among `told`.
fn unheard(stay: &BTreeMap<u32, String>, told: BTreeSet<u32>) -> Vec<String> {
    let silent = stay.iter().filter(|(ordinal, _)| !told.contains(ordinal));
    silent
        .map(|(_, name)| format!("{name} does not answer"))
        .collect()
}

/// What one peer says in one round.
#[derive(Default)]
struct Look {
    volume: Option<Volume>,
    status: Option<StatusResponse>,
    members: Vec<Member>,
}

async fn look(channel: Channel) -> Look {
    let Ok(answer) = AdminClient::new(channel.clone())
        .identify(IdentifyRequest::default())
        .await
    else {
        return Look::default();
    };
    let volume = volume(answer.into_inner());
    if !matches!(volume, Some(Volume::Peer { running: true, .. })) {
        return Look {
            volume,
            ..Look::default()
        };
    }
    let mut peers = PeersClient::new(channel);
    let status = peers
        .status(StatusRequest {})
        .await
        .ok()
        .map(|r| r.into_inner());
    let listed = peers
        .list(ListPeersRequest {})
        .await
        .map(|r| r.into_inner().peers)
        .unwrap_or_default();
    let members = listed
        .into_iter()
        .filter_map(|info| wire::member_from_info(info).ok())
        .collect();
    Look {
        volume,
        status,
        members,
    }
}

fn volume(answer: IdentifyResponse) -> Option<Volume> {
    let IdentifyResponse {
        network_id: network,
        peer_id,
        left,
        running,
        zone: _,
        position,
    } = answer;
    if network.is_empty() {
        return Some(Volume::Blank);
    }
    Some(Volume::Peer {
        network,
        id: peer_id.parse().ok()?,
        position: Position(position),
        left,
        running,
    })
}

async fn reports(
    channels: &[(u32, Channel)],
    leavers: &BTreeSet<PeerId>,
    children: &Children,
) -> BTreeMap<PeerId, Report> {
    let leaver_ids: Vec<String> = leavers.iter().map(PeerId::to_string).collect();
    let alive = channels
        .iter()
        .filter(|(ordinal, _)| children.alive(*ordinal));
    let answers = join_all(alive.map(async |(_, channel)| {
        let mut admin = AdminClient::new(channel.clone()).max_decoding_message_size(REPORT_BYTES);
        let answer = admin
            .leave_report(LeaveReportRequest {
                leaver_ids: leaver_ids.clone(),
            })
            .await;
        // A report that cannot be had or understood is no report; the planner takes its absence for a reason to wait.
        wire::report(answer.ok()?.into_inner()).ok()
    }));
    answers
        .await
        .into_iter()
        .flatten()
        .map(|report| (report.peer, report))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stays_and_could_not_be_told_is_named() {
        let stay = [0, 1, 2].map(|i| (i, format!("l-{i}"))).into();
        assert_eq!(unheard(&stay, [0, 2, 7].into()), ["l-1 does not answer"]);
        assert!(unheard(&stay, [0, 1, 2].into()).is_empty());
    }
}
