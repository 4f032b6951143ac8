//! The files in an instance's folder below `--run-dir`.

use std::path::{Path, PathBuf};

/// The agent's admin socket of an instance.
pub fn socket(instance_dir: &Path) -> PathBuf {
    instance_dir.join("agent.sock")
}

/// The apiserver's admin socket of an instance.
pub fn apiserver_socket(instance_dir: &Path) -> PathBuf {
    instance_dir.join("apiserver.sock")
}

/// The names file of an instance: [`crate::api::Names`] as JSON.
pub fn names_file(instance_dir: &Path) -> PathBuf {
    instance_dir.join("names")
}
