//! What every Soma service shares: authentication, problems, database, outbox, health, telemetry, serving.

pub mod auth;
pub mod database;
pub mod health;
pub mod http;
pub mod metrics;
pub mod outbox;
pub mod problem;
pub mod telemetry;
