//! To be filled.
pub mod embed;
