//! Real servers for tests and for the local cluster: fetched or built once, cached, started on free ports,
//! isolated per run, and gone afterwards, however the run ends.
//!
//! * [`ControlPlane`]: etcd, kube-apiserver and kube-controller-manager, with an audit log to count writes.
//! * [`Server`]: a server that can be stopped, killed and started again, of these kinds:
//!   [`Postgres`]; [`Kafka`], broker and controller in one; [`Vault`], with raft storage, sealed; [`Etcd`], a cluster of
//!   one; [`Redis`], by itself or in cluster mode; [`Opa`], with a configuration and policies; [`OpenFga`], in memory or on
//!   Postgres.
//! * [`cluster`]: the native cluster behind `make up`: real nodes in namespaces of this machine.
//! * [`images`]: container images made from this machine's files, without a container engine.

mod audit;
pub mod cache;
pub mod cluster;
mod control_plane;
pub mod doctor;
mod etcd;
pub mod exec;
pub mod gobuild;
pub mod images;
pub mod java;
mod kafka;
pub mod maven;
pub mod model;
mod opa;
mod openfga;
pub mod packages;
pub mod pki;
mod ports;
mod postgres;
pub mod programs;
pub mod progress;
mod redis;
mod rundir;
mod server;
mod supervise;
mod vault;

pub use audit::{AuditLog, Write};
pub use control_plane::{ControlPlane, ControlPlaneError};
pub use etcd::Etcd;
pub use kafka::Kafka;
pub use opa::Opa;
pub use openfga::OpenFga;
pub use ports::free_port;
pub use postgres::Postgres;
pub use redis::Redis;
pub use rundir::RunDir;
pub use server::{Server, ServerError};
pub use supervise::{Launch, SuperviseError, Supervised};
pub use vault::Vault;

use std::path::{Path, PathBuf};

/// The root folder of the checkout this crate was built from.
pub fn checkout() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}
