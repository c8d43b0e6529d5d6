//! Compiles the `.proto` files without `protoc`.

use std::{env, error::Error, fs, path::PathBuf};

use protox::prost::Message;

const FILES: [&str; 2] = ["soma/memory/v1/memory.proto", "somafractalmemory.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
