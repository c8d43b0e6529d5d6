//! Clients with retries of each component, that write through a fault and afterwards count what was acknowledged and what
//! is there.

pub mod etcd;
pub mod kafka;
pub mod postgres;
pub mod redis;
pub mod tenant;
pub mod vault;
