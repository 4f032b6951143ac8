//! Peer files: which peers there are, where each is reached, whom to trust for it and which addresses it may announce.
//!
//! Reads and writes them, follows their folder, and owns the rule that ignorance removes nobody. Never connects to a peer.

mod content;
pub mod file;
pub mod folder;
mod policy;
pub mod watch;
pub mod write;

pub use file::{PeerFile, PeerFileError, Problem};
pub use watch::FolderWatch;
