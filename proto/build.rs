//! Compiles the `.proto` files without needing `protoc`.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use prost::Message;

/// Every file of the package, relative to this directory, which is buf's module root and protobuf's include path.
const FILES: &[&str] = &[
    "peernet/v1/admin.proto",
    "peernet/v1/chunks.proto",
    "peernet/v1/files.proto",
    "peernet/v1/flood.proto",
    "peernet/v1/manifest.proto",
    "peernet/v1/peers.proto",
    "peernet/v1/records.proto",
    "peernet/v1/ring.proto",
    "peernet/v1/search.proto",
    "peernet/v1/shares.proto",
    "peernet/v1/storage.proto",
    "peernet/v1/swarm.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=peernet");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("peernet.binpb"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
