//! The story, told once for every lab: x-wings in all clusters call `rebel-base`, and things happen to it.
//!
//! Owns what happens, what is expected of it and how it is shown; what it does to clusters, the labs offer.

pub mod board;
mod expect;
pub mod kubernetes;
pub mod picture;
pub mod plot;
pub(crate) mod report;
pub(crate) mod seconds;
pub mod show;
pub mod step;
pub mod table;
mod terminal;
pub mod tour;
pub(crate) mod view;

/// The service that everybody calls.
pub(crate) const SERVICE: &str = "rebel-base";
