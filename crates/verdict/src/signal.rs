//! What a node hears of a peer: L, over the peer's mesh API, and P, over the data path.

mod control;
mod path;
mod rtt;

pub(crate) use control::Control;
pub use control::{Beat, ControlEvent, ControlState, Staleness};
pub(crate) use path::Path;
pub use path::{Outcome, PathEvent, PathState};
