//! The files in an instance's folder below the agent's `--run-dir`.

use std::path::{Path, PathBuf};

/// The admin socket of an instance.
pub fn socket(instance_dir: &Path) -> PathBuf {
    instance_dir.join("agent.sock")
}

/// The names file of an instance: [`crate::api::Names`] as JSON.
pub fn names_file(instance_dir: &Path) -> PathBuf {
    instance_dir.join("names")
}
