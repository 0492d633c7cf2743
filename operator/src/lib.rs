//! The controller of `PeerNetwork` resources.
//!
//! Each cycle ([`reconcile`]) reads as its steps, one module each: [`observe`] what is, validate it, plan what to do (the
//! crate `peernet-plan`), [`build`] the objects, [`apply`] them, tell the peers ([`drain`]), answer in the [`status`], clear
//! away what a replaced peer left and start a peer anew whose template has changed ([`removal`]). `peernet-plan` and
//! `build` are pure. Volumes that go with their network are seen to before all that ([`retention`]). The operator remembers
//! nothing between cycles.

#![forbid(unsafe_code)]

pub mod apply;
pub mod build;
mod causes;
pub mod drain;
pub mod events;
#[cfg(test)]
mod fake;
mod health;
pub mod lease;
pub mod observe;
pub mod peers;
#[cfg(test)]
mod rbac;
pub mod reconcile;
pub mod removal;
pub mod retention;
pub mod run;
pub mod status;
pub mod wire;
