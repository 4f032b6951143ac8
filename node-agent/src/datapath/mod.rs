//! The node's eBPF maps: what they hold, what they shall hold, and the way from one to the other.
//!
//! `actual` mirrors the maps; `plan` and `members` turn desired frontends into ordered writes against it; `apply` performs
//! them and `parts` says what that means where a write failed; `restore` rebuilds the mirror from the maps after a
//! restart, and `repair` makes the maps what the mirror says. All of that is pure but for `apply` and
//! `restore`, which go through the [`maps::Datapath`] trait. `programs`, `links`, `maps`,
//! `grace` and `sys` own the kernel side.

pub mod actual;
pub mod apply;
pub mod backends;
mod batch;
pub mod canary;
mod cgroups;
pub mod clusters;
pub mod control;
mod cpus;
pub mod dump;
mod extents;
pub mod grace;
pub mod hint;
pub mod hook;
pub mod hook_order;
mod ids;
pub mod inspect;
pub mod kernel;
pub mod layouts;
mod links;
mod map_fd;
pub mod maps;
mod members;
pub mod outcomes;
pub mod packetless;
mod parts;
pub mod pins;
pub mod plan;
pub mod programs;
mod repair;
pub mod restore;
mod rows;
mod scan;
pub mod service_maps;
pub mod shares;
pub mod sys;
mod sys_cgroup;
pub mod text;

#[cfg(test)]
mod plan_tests;
