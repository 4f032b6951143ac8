//! Tells people what is wrong with objects, by Events (`events.k8s.io/v1`).
//!
//! An Event's name says what it is about: whoever finds the same, at the same time or later, tells nothing twice.

mod allowance;
mod notice;
mod reports;
mod writer;

use std::time::Duration;

pub use notice::{Notice, Subject, upper_camel};
pub use reports::Events;
pub use writer::EventWriter;

/// After so long what stands is told again. Kubernetes forgets an Event after an hour by default, and up to a minute later,
/// for several share a lease: before that the same Event would be known still.
pub const TOLD_AGAIN: Duration = Duration::from_secs(65 * 60);
