//! The labs that clusters are built in for tests and demonstrations, the story that is told in them, and the
//! load that watches it.
//!
//! Owns everything that is needed to show the product working on one machine. Nothing in production needs it.

pub mod agent_api;
pub mod bench;
pub mod bench_kube;
pub mod failure;
pub mod kind;
pub mod kube;
pub mod lab;
pub mod load;
pub mod prerequisite;
pub mod story;
pub mod wait;
