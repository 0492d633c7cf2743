//! Real processes on loopback: files in and out through any peer, what is refused, and what survives.

mod authorities;
mod broker;
mod collect;
mod commands;
mod compressed;
mod crowds;
mod doors;
mod events;
mod files;
mod grpcurl;
mod life;
mod network;
mod rename;
mod rest;
mod resume;
mod search;
mod shares;
mod slow;
mod strangers;
mod swarm;
mod written;
