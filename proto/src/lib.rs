//! The wire and disk formats of PeerNet, generated from the `.proto` files next to this crate, and nothing else.
//!
//! `bytes` fields are [`bytes::Bytes`], so that a chunk's data is not copied between the transport and the disk.

#![forbid(unsafe_code)]

/// Package `peernet.v1`: messages, and a client and a server module for each service.
// Not every message and field of a `.proto` has a comment; the generated code has no visibility to reduce.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("peernet.v1");
}

/// The serialised `google.protobuf.FileDescriptorSet` of all files, for the gRPC reflection service.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/peernet.binpb"));
