//! The story, told once for every lab: x-wings in all clusters call `rebel-base`, and things happen to it.
//!
//! Owns what happens, what is expected of it and how it is shown; what it does to clusters, the labs offer.

pub mod board;
mod expect;
pub mod kubernetes;
pub mod picture;
pub mod plot;
pub mod report;
pub mod seconds;
pub mod show;
pub mod step;
pub mod table;
mod terminal;
pub mod tour;
pub mod view;

/// The service that everybody calls.
pub const SERVICE: &str = "rebel-base";
