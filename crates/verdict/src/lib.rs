//! What a node makes of its peers' silence: from signs of life and their absence to who is used, who is not, and whose
//! connections are cut.
//!
//! Plain values in, plain values out. Never reads a clock, sends a probe, writes a map or asks anybody: its one owner, the
//! agent's health task, does that, and says here what came of it and when.

pub mod budget;
mod judge;
pub mod outlier;
mod peer;
mod ramp;
mod report;
mod settings;
mod signal;
mod time;

pub use judge::{Action, Event, Judge, Override};
pub use report::{Change, Report, Share, Verdict};
pub use settings::Settings;
pub use signal::{Beat, ControlEvent, ControlState, Outcome, PathEvent, PathState, Staleness};
pub use time::Monotonic;

#[cfg(test)]
mod judge_tests;
#[cfg(test)]
mod outlier_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod world_tests;
