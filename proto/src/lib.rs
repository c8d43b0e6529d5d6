//! The gRPC contracts of Soma, generated from the `.proto` files beside this crate.

/// `soma.memory.v1`: the memory service.
#[expect(missing_docs, clippy::pedantic, reason = "generated")]
pub mod memory_v1 {
    tonic::include_proto!("soma.memory.v1");
}

/// `somafractalmemory`: the memory service as the original's clients know it.
#[expect(missing_docs, clippy::pedantic, reason = "generated")]
pub mod somafractalmemory {
    tonic::include_proto!("somafractalmemory");
}

/// The descriptors of every message and service, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
