//! Before a peer runs: what its volume remembers meets what it is told.

use thiserror::Error;

use crate::key::Position;
use crate::member::{Drain, Liveness, Member, PeerId};
use crate::store::{Identity, Store, StoreError};

/// What a peer is told at start, by the operator, the local runner or its flags.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Assignment {
    /// UUID of the network.
    pub network: String,
    /// The pod's or process's name.
    pub name: String,
    /// `host:port` under which others reach it by gRPC.
    pub address: String,
    /// `host:port` for REST.
    pub http: String,
    /// Failure domain.
    pub zone: String,
    /// Place on the ring, used at the first join only.
    pub position: Position,
    /// Software version.
    pub version: String,
}

/// Why a peer cannot start on its volume.
#[derive(Debug, Error)]
pub enum BootError {
    /// The volume is of another network.
    #[error(
        "this volume belongs to network {volume}, not to {told}; give the peer an empty volume, or the right network"
    )]
    OtherNetwork {
        /// What the volume remembers.
        volume: String,
        /// What the peer was told.
        told: String,
    },
    /// The volume failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Decides who this peer is and commits it to the volume.
///
/// An empty volume, and one whose peer has left for good, get the identity `fresh`; the latter forgets everything but
/// its chunks' bytes, which may serve as a cache. Otherwise identity and position are kept and the incarnation is
/// raised, so that what others believed of the earlier run is outdated.
pub fn boot(
    store: &mut impl Store,
    told: Assignment,
    fresh: PeerId,
) -> Result<Identity, BootError> {
    let remembered = store.identity()?;
    let Assignment {
        network,
        name,
        address,
        http,
        zone,
        position,
        version,
    } = told;
    let mut member = Member {
        id: fresh,
        name,
        address,
        http,
        zone,
        position,
        incarnation: 1,
        liveness: Liveness::Joining,
        drain: Drain::default(),
        version,
    };
    match remembered {
        Some(old) if old.network != network => {
            return Err(BootError::OtherNetwork {
                volume: old.network,
                told: network,
            });
        }
        Some(old) if old.member.liveness == Liveness::Left => store.reset()?,
        Some(old) => {
            member.id = old.member.id;
            member.position = old.member.position;
            member.drain = old.member.drain;
            member.incarnation = old.member.incarnation + 1;
        }
        None => {}
    }
    let identity = Identity { network, member };
    store.put_identity(&identity)?;
    store.commit()?;
    Ok(identity)
}
