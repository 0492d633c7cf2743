//! Tells peers what the plan says: hints, places to stand at, orders to leave or to stay, and what is given up. What they
//! make of it is observed in the next cycle; what was not heard is said again then.

use peernet_core::recover::Recovery;
use peernet_plan::names;
use peernet_plan::observed::Observed;
use peernet_plan::{Assignment, Hints, Order, Plan};
use peernet_proto::v1;

use crate::causes::causes;
use crate::peers::{Peers, all};
use crate::wire;

/// What was heard.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Told {
    /// Newcomers that took their place: name and zone.
    pub joining: Vec<(String, String)>,
    /// Members whose order to leave was heard by somebody, by name.
    pub leaving: Vec<String>,
    /// Members whose order to stay after all was heard by somebody, by name.
    pub staying: Vec<String>,
    /// Who did not hear, sentences.
    pub failures: Vec<String>,
}

/// Tells all peers concerned, several at once.
pub(crate) async fn tell(peers: &Peers, observed: &Observed, plan: &Plan) -> Told {
    let mut told = Told::default();
    let places = plan.assignments.iter().map(|place| async move {
        let request = assign_request(place, observed);
        (place, peers.assign(&place.address, request).await)
    });
    for (place, result) in all(places.collect()).await {
        let name = names::pod(&observed.network.name, place.ordinal);
        match result {
            Ok(()) if place.newcomer => told.joining.push((name, place.zone.clone())),
            Ok(()) => {}
            Err(error) => told
                .failures
                .push(format!("{name} did not take its place: {}", causes(&error))),
        }
    }
    let orders = plan.orders.iter().map(|order| give(peers, order));
    for (order, heard) in all(orders.collect()).await {
        match (heard, order.leaving) {
            (true, true) => told.leaving.push(order.name.clone()),
            (true, false) => told.staying.push(order.name.clone()),
            (false, _) => told
                .failures
                .push(format!("nobody heard the order for {}", order.name)),
        }
    }
    if let Some(recovery) = plan.recover.as_ref().and_then(|r| r.tell.as_ref()) {
        told.failures
            .extend(give_up(peers, recovery, &observed.everybody()).await);
    }
    told.joining.sort();
    told.leaving.sort();
    told.staying.sort();
    told
}

fn assign_request(place: &Assignment, observed: &Observed) -> v1::AssignRequest {
    let pod = observed.pods.get(&place.ordinal);
    v1::AssignRequest {
        network_id: place.network.clone(),
        zone: place.zone.clone(),
        position: place.position.0,
        found: place.found,
        instance: pod.map_or_else(String::new, |pod| pod.uid.clone()),
    }
}

/// Gives hints. Nothing depends on whether they are heard.
pub(crate) async fn hint(peers: &Peers, plan: &Plan) {
    let Hints { hints, tell } = &plan.hints;
    let hints: Vec<_> = hints.iter().map(|(id, h)| wire::hint(*id, *h)).collect();
    if hints.is_empty() {
        return;
    }
    let calls = tell
        .iter()
        .map(|address| peers.hint(address, hints.clone()));
    for error in all(calls.collect())
        .await
        .iter()
        .filter_map(|a| a.as_ref().err())
    {
        tracing::debug!(error = %causes(error), "a hint was not heard");
    }
}

/// Tells all of `everybody`, by address, what is given up. Who does not hear it now hears of it from the others, or in the next cycle.
async fn give_up(peers: &Peers, recovery: &Recovery, everybody: &[String]) -> Vec<String> {
    let request = wire::recover_request(recovery);
    let calls = everybody.iter().map(|address| {
        let request = request.clone();
        async move { (address, peers.recover(address, request).await) }
    });
    let mut failures = Vec::new();
    for (address, answer) in all(calls.collect()).await {
        match answer {
            Ok(alive) if alive.is_empty() => {}
            Ok(alive) => failures.push(format!(
                "{address} gives nobody up: to it {} still answers",
                alive
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(", ")
            )),
            Err(error) => failures.push(causes(&error)),
        }
    }
    failures
}

/// Whether at least one of those that were to be told has heard.
async fn give<'a>(peers: &Peers, order: &'a Order) -> (&'a Order, bool) {
    let message = || {
        vec![v1::DrainOrder {
            peer_id: order.peer.to_string(),
            epoch: order.epoch,
            leaving: order.leaving,
        }]
    };
    let calls = order
        .tell
        .iter()
        .map(|address| peers.drain(address, message()));
    let answers = all(calls.collect()).await;
    for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        tracing::warn!(peer = order.name, error = %causes(error), "an order was not heard");
    }
    (order, answers.iter().any(Result::is_ok))
}
