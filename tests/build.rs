//! Generates the wire types from `proto/`, as any client of Causeway would: the tests use none of its crates.

const ROOT: &str = "../proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed={ROOT}");
    let descriptors = protox::compile(["causeway/v1/event_store.proto"], [ROOT])?;
    tonic_prost_build::configure().build_server(false).compile_fds(descriptors)?;
    Ok(())
}
