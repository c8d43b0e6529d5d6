//! Container images made from this machine's files, without a container engine: small, non-root, reproducible.
//!
//! A layer is cached under the hash of its inputs, and an image is known by the hash of its configuration, so that
//! what has not changed is neither made nor loaded again.

mod archive;
mod catalog;
mod closure;
mod etcd;
mod kafka;
mod layer;
mod opa;
mod openfga;
mod postgres;
mod redis;
mod system;
mod vault;

pub use archive::{Image, ImageConfig};
pub use catalog::{COREDNS, PAUSE, services, system};
pub use etcd::etcd;
pub use kafka::kafka;
pub use opa::opa;
pub use openfga::openfga;
pub use redis::redis;
pub use vault::vault;

use std::{io, path::PathBuf};

use crate::{
    cache::CacheError, exec::ExecError, gobuild::BuildError, java::JavaError, maven::MavenError,
    model::ModelError, programs::ProgramError,
};

/// Why an image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The cache cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A program could not be built or inspected.
    #[error(transparent)]
    Program(#[from] ExecError),
    /// A Go program could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The embedding model is not there.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The jars are not there.
    #[error(transparent)]
    Jars(#[from] MavenError),
    /// There is no Java runtime.
    #[error(transparent)]
    Java(#[from] JavaError),
    /// An input cannot be read.
    #[error("cannot read {path} for an image")]
    Input {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An installed program does not say which version it is.
    #[error("{program} names no version, but said: {said}")]
    Version {
        /// The program.
        program: &'static str,
        /// What it said instead.
        said: String,
    },
    /// A layer or archive cannot be written.
    #[error("cannot write an image")]
    Write(#[source] io::Error),
    /// A configuration cannot be written as JSON.
    #[error("cannot describe an image")]
    Describe(#[from] serde_json::Error),
    /// A program of the workspace cannot be had.
    #[error(transparent)]
    Own(#[from] ProgramError),
}
