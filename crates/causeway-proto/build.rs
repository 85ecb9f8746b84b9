//! Generates the wire types from `proto/`, without protoc, and keeps the descriptor set for gRPC reflection.

use prost::Message as _;

const ROOT: &str = "../../proto";
const FILES: [&str; 1] = ["causeway/v1/event_store.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed={ROOT}");
    let descriptors = protox::compile(FILES, [ROOT])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("causeway_descriptor.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().btree_map(".").compile_fds(descriptors)?;
    Ok(())
}
