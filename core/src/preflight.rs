//! How far a network may shrink now: worked out beforehand, so that an unsafe wish is refused at once and with a reason,
//! instead of a drain that never ends. The verdict on each leave ([`crate::leave`]) decides all the same.

/// The most that one peer may get of what leavers hand over, as a multiple of the mean: positions keep the fullest peer
/// below twice the mean when zones are equal (docs/evaluation).
const IMBALANCE: u64 = 2;
/// Percent of a disk that should stay free: what peers keep for repair by default.
const RESERVE_PERCENT: u64 = 5;

/// One wanted peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Its name.
    pub name: String,
    /// It answers, is a member and has caught up.
    pub ready: bool,
    /// Bytes of chunks it holds.
    pub held: u64,
    /// Bytes free on its disk.
    pub free: u64,
    /// Size of its disk.
    pub total: u64,
}

/// The lowest number of peers that is safe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lowest {
    /// How many.
    pub peers: u32,
    /// Why not fewer, a sentence without an end.
    pub reason: String,
}

/// Works out the lowest safe number. `peers` are all that are wanted, by ordinal: the last ones leave first.
pub fn lowest(factor: u32, peers: &[Standing]) -> Lowest {
    let factor = factor as usize;
    // Whoever is down at the end may be dropped: it is proved to be dispensable, or stays.
    let idle = peers.iter().rev().take_while(|p| !p.ready).count();
    let present = peers.len() - idle;
    if let Some(away) = peers[..present].iter().find(|p| !p.ready) {
        return limit(
            peers.len() - idle,
            format!(
                "{} is down or has not caught up, so that its copies are not all there; let it come back, or replace it",
                away.name
            ),
        );
    }
    let mut leaving = 0;
    for count in (factor..present).rev() {
        leaving += peers[count].held;
        let most = leaving.saturating_mul(IMBALANCE) / count as u64;
        let room = |p: &Standing| p.free.saturating_sub(p.total / 100 * RESERVE_PERCENT);
        let fullest = peers[..count].iter().min_by_key(|p| room(p));
        if let Some(fullest) = fullest.filter(|p| leaving > 0 && room(p) < most) {
            return limit(
                count + 1,
                format!(
                    "with {count} peers {} may get up to {} MiB more, but has room for {} MiB; add space, or delete files",
                    fullest.name,
                    most >> 20,
                    room(fullest) >> 20
                ),
            );
        }
    }
    limit(
        factor.min(peers.len()),
        format!("{factor} copies are kept of everything, and fewer peers cannot hold them"),
    )
}

fn limit(peers: usize, reason: String) -> Lowest {
    Lowest {
        peers: u32::try_from(peers).unwrap_or(u32::MAX),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn peers(count: u32) -> Vec<Standing> {
        let peer = |n| Standing {
            name: format!("demo-{n}"),
            ready: true,
            held: 100 * MIB,
            free: 900 * MIB,
            total: 1_000 * MIB,
        };
        (0..count).map(peer).collect()
    }

    #[test]
    fn the_copies_are_the_limit_of_a_healthy_network() {
        assert_eq!(lowest(3, &peers(7)).peers, 3);
        assert_eq!(lowest(3, &peers(3)).peers, 3);
    }

    #[test]
    fn a_peer_that_is_down_keeps_the_others() {
        let mut some = peers(7);
        some[2].ready = false;
        let lowest = lowest(3, &some);
        assert_eq!(lowest.peers, 7);
        assert!(lowest.reason.contains("demo-2"), "{}", lowest.reason);
    }

    #[test]
    fn the_last_ones_may_go_though_they_are_down() {
        let mut some = peers(7);
        some[5].ready = false;
        some[6].ready = false;
        assert_eq!(lowest(3, &some).peers, 3, "those that stay are all there");
        some[2].ready = false;
        assert_eq!(lowest(3, &some).peers, 5);
    }

    #[test]
    fn room_is_kept_for_what_the_leavers_hold() {
        let mut some = peers(6);
        some[1].free = 50 * MIB + 105 * MIB;
        // Five get 100 MiB: at most 40 each. Four get 200: at most 100. Three get 300: at most 200.
        let lowest = lowest(3, &some);
        assert_eq!(lowest.peers, 4);
        assert!(
            lowest
                .reason
                .contains("demo-1 may get up to 200 MiB more, but has room for 105 MiB"),
            "{}",
            lowest.reason
        );
        assert!(lowest.reason.len() <= 256, "the schema's limit");
    }
}
