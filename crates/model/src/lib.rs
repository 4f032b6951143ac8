//! Domain types and the pure middle of the mesh: export, merge, select, desired state.
//!
//! Nothing here is async, does I/O, reads a clock, or knows Kubernetes clients, etcd or eBPF.

pub mod address;
pub mod address_policy;
mod address_set;
pub mod annotation;
pub mod audience;
pub mod change;
pub mod desired;
pub mod endpoint;
pub mod explain;
pub mod export;
pub mod hash;
pub mod merge;
pub mod name;
mod ports;
pub mod reason;
pub mod record;
pub mod select;
pub mod snapshot;
pub mod table;
pub mod view;
