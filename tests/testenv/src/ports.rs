//! Free TCP ports on the loopback address.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    io,
    net::{Ipv4Addr, TcpListener},
};

// Below the kernel's ephemeral range, so that no outgoing connection takes the port between our look and the
// server's bind.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// A port on 127.0.0.1 that nothing listens on. Another process may still take it: a server that finds it taken
/// ends at once and is started again on another.
pub fn free_port() -> io::Result<u16> {
    let start = RandomState::new().build_hasher().finish() % u64::from(COUNT);
    let start = u16::try_from(start).unwrap_or_default();
    (0..COUNT)
        .map(|step| FIRST + (start + step) % COUNT)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .ok_or_else(|| io::Error::other(format!("no free port from {FIRST} to {}", FIRST + COUNT - 1)))
}
