//! The protocol on six real redis-server processes.
