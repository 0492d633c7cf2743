//! Keys per node: consistent hashing as in the paper (section V.B), with virtual nodes, and with our slots and positions.

use fastrand::Rng;
use peernet_core::key::{Position, SLOTS};

use super::Summary;
use super::balance::{dealt, targets};

/// Keys per node when `nodes` nodes, each under `virtual_nodes` random positions, share `keys` random keys.
pub fn hashed(nodes: usize, virtual_nodes: usize, keys: usize, rng: &mut Rng) -> Summary {
    let drawn = (0..nodes * virtual_nodes).map(|i| (rng.u64(..), i % nodes));
    let mut ring: Vec<(u64, usize)> = drawn.collect();
    ring.sort_unstable();
    let mut load = vec![0_u32; nodes];
    for _ in 0..keys {
        let key = rng.u64(..);
        let owner = ring.partition_point(|p| p.0 < key) % ring.len();
        load[ring[owner].1] += 1;
    }
    Summary::of(load.into_iter().map(f64::from))
}

/// Copies of keys per peer when `peers` peers in `zones` equal zones hold `factor` copies of `keys` random keys.
pub fn placed(peers: u32, zones: u32, factor: usize, keys: usize, rng: &mut Rng) -> Summary {
    let targets = targets(&dealt(peers, zones), factor);
    let mut load = vec![0_u32; peers as usize];
    for _ in 0..keys {
        for id in &targets[usize::from(rng.u16(0..SLOTS))] {
            load[id.0 as usize] += 1;
        }
    }
    Summary::of(load.into_iter().map(f64::from))
}

/// Where the first `peers` peers of one zone stand.
pub fn positions(peers: u32) -> Vec<Position> {
    dealt(peers, 1).into_iter().map(|p| p.position).collect()
}
