//! Chord at scale: 10 to 100,000 peers in one process.
//!
//! Where the rest of this crate runs the whole peer, this room runs only the pure functions that decide where things are
//! (`peernet_core::{ring, chord, fingers, lookup, placement}`), on plain arrays, so that the evaluation of the Chord paper
//! (Stoica et al., "Chord: A Scalable Peer-to-Peer Lookup Protocol for Internet Applications", IEEE/ACM Transactions on
//! Networking, 2003, section V) can be repeated in minutes. Everything follows from the seed.
//!
//! - [`still`]: rings whose pointers are all right, and then some members die: path length, simultaneous failures.
//! - [`churn`]: members join, fail and stabilise while keys are looked up.
//! - [`gossip`]: the same with full, if late, knowledge of the members.
//! - [`keys`]: keys per node, with virtual nodes and with slots.
//! - [`balance`]: what `placement` proposes: load, walk and movement.
//! - [`flood`]: unstructured search.
//! - [`swarm`]: one content for many.
//! - [`figure`]: pictures of it.

pub mod balance;
pub mod churn;
pub mod figure;
pub mod flood;
pub mod gossip;
pub mod keys;
pub mod still;
pub mod swarm;

/// What a number of measurements come to.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Summary {
    /// How many there are.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// Their first percentile.
    pub p1: f64,
    /// Their 99th percentile.
    pub p99: f64,
    /// The greatest.
    pub max: f64,
}

impl Summary {
    /// Of `values`, in any order; all zero when there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else {
            return Summary::default();
        };
        let percentile = |p: f64| sorted[(last as f64 * p).round() as usize];
        Summary {
            count: sorted.len(),
            mean: sorted.iter().sum::<f64>() / sorted.len() as f64,
            p1: percentile(0.01),
            p99: percentile(0.99),
            max: sorted[last],
        }
    }
}

/// How lookups went.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Lookups {
    /// Members that answered, by lookup.
    pub hops: Vec<u32>,
    /// Members that did not, by lookup.
    pub timeouts: Vec<u32>,
    /// Found somebody who is not the first live member at or after the key.
    pub wrong: u32,
    /// Found the one who was the owner when it answered, but not any more when the answer arrived.
    pub overtaken: u32,
    /// Found nobody.
    pub failed: u32,
}

impl Lookups {
    /// Path lengths.
    pub fn paths(&self) -> Summary {
        Summary::of(self.hops.iter().map(|n| f64::from(*n)))
    }

    /// Timeouts per lookup.
    pub fn waits(&self) -> Summary {
        Summary::of(self.timeouts.iter().map(|n| f64::from(*n)))
    }

    /// Lookups with a wrong answer or none, in 10,000.
    pub fn per_ten_thousand(&self) -> f64 {
        f64::from(self.wrong + self.failed) * 10_000.0 / self.hops.len() as f64
    }
}
