//! Durable memory, recalled by meaning.
//!
//! [`Memory`] is the engine; [`Server`] puts HTTP and gRPC in front of it. A write is acknowledged once its row and its event are
//! committed; its vector follows in the background. Indexes are derived from rows and kept only in memory.

mod api;
mod coordinate;
pub mod embed;
mod engine;
mod error;
mod filter;
mod grpc;
mod index;
mod indexer;
mod metrics;
mod model;
mod recall;
mod server;
mod store;

pub use api::openapi;
pub use coordinate::Coordinate;
pub use engine::{Memory, Options};
pub use error::Error;
pub use filter::Filter;
pub use index::Hit;
pub use model::{
    Embedding, Kind, Link, Namespace, NamespaceSpec, NewMemory, Quota, Record, Scope, Stored, Usage,
};
pub use recall::Recall;
pub use server::{Error as ServeError, ServeOptions, Server};
pub use soma_platform::auth::ApiToken;
pub use soma_platform::database::Target;
pub use store::{Counts, Page};
