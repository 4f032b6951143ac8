//! The mesh API: the read-only part of etcd's v3 API, answered from memory.
//!
//! [`cache`] holds what etcd holds and its recent past; [`range`] and [`watch`] answer from it as etcd would; [`view`] says
//! what of it there is for whom. None of them waits, reads a clock or knows a connection.

mod cache;
#[cfg(test)]
mod model_tests;
mod range;
mod record;
mod view;
mod watch;
mod wire;
