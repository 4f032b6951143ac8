//! The node's eBPF maps: what they hold, what they shall hold, and the way from one to the other.
//!
//! `actual` mirrors the maps; `plan` and `members` turn desired frontends into ordered writes against it; `apply` performs
//! them; `restore` rebuilds the mirror from the maps after a restart. All of that is pure but for `apply` and
//! `restore`, which go through the [`maps::Datapath`] trait. `programs`, `maps` and `sys` own the kernel side.

pub mod actual;
pub mod apply;
pub mod backends;
mod batch;
pub mod canary;
pub mod dump;
mod extents;
mod hook;
mod ids;
pub mod layouts;
pub mod maps;
mod members;
pub mod plan;
pub mod programs;
pub mod restore;
mod rows;
pub mod sys;
pub mod text;

#[cfg(test)]
mod plan_tests;
