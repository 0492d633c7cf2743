//! The lowest number of peers that is safe now, for the rule on the resource that refuses less.

use peernet_core::preflight::{Standing, lowest};
use peernet_crd::Preflight;

use crate::names;
use crate::observed::Observed;

use super::unreadiness;

/// The schema's limit.
const REASON_MAX: usize = 256;

/// Works it out; nothing while there is no ring.
pub(crate) fn preflight(observed: &Observed) -> Option<Preflight> {
    let network = &observed.network;
    if !network.status.founded {
        return None;
    }
    let standing = |ordinal: u32| {
        let pod = observed.pods.get(&ordinal);
        let life = pod.and_then(|pod| pod.answer.as_ref()?.life.as_ref());
        let disk = life.map(|life| life.disk).unwrap_or_default();
        Standing {
            name: names::pod(&network.name, ordinal),
            ready: pod.is_some_and(|pod| unreadiness(pod).is_none()),
            held: disk.held,
            free: disk.free,
            total: disk.total,
        }
    };
    let peers: Vec<Standing> = (0..network.desired()).map(standing).collect();
    let lowest = lowest(network.spec.replication.factor.unsigned_abs(), &peers);
    let mut reason = lowest.reason;
    reason.truncate(reason.floor_char_boundary(REASON_MAX));
    Some(Preflight {
        min_replicas: i32::try_from(lowest.peers).unwrap_or(i32::MAX),
        reason,
    })
}
