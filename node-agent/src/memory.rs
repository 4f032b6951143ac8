//! The memory that an agent leaves to the next one below `--state-dir`: the last content of its own source and of its peers
//! folder.
//!
//! Owns which files there are and what they are about. Never decides what of it still counts.

use mesh_peers::folder::Remembered;
use mesh_runtime::StateFile;
use mesh_source::{Identity, Known, Source, memory};
use serde::de::DeserializeOwned;

use crate::config::RunArgs;

/// The files of an instance.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    pub(crate) source: StateFile,
    pub(crate) peers: StateFile,
}

impl Memory {
    pub(crate) fn of(args: &RunArgs, identity: &Identity) -> Self {
        let folder = args.pins.instance_state_dir();
        // The memory of another cluster, another source or another folder says nothing of these.
        let cluster = format!("cluster {} with id {}", identity.name, identity.id);
        let source = format!("{cluster}, source {}", args.source);
        let peers = format!("{cluster}, peers folder {}", args.peers_folder().display());
        Self {
            source: StateFile::new(folder.join("source"), memory::VERSION, source),
            peers: StateFile::new(folder.join("peers"), Remembered::VERSION, peers),
        }
    }

    /// Goes on from what an earlier agent knew. Where the maps hold nothing, as after a restart of the machine, that is
    /// all there is to serve until the source is synced.
    pub(crate) fn remind(&self, source: Source, maps_are_empty: bool) -> Source {
        let Some(known) = load::<Known>(&self.source) else { return source };
        let services = known.snapshot.services.len();
        tracing::info!(services, "what an earlier agent knew of the own cluster is remembered");
        source.remembering(&known, maps_are_empty)
    }

    /// The peers as an earlier agent knew them; nothing where that is not known.
    pub(crate) fn load_peers(&self) -> Remembered {
        let remembered: Remembered = load(&self.peers).unwrap_or_default();
        if !remembered.is_empty() {
            tracing::info!(
                peers = remembered.len(),
                "what an earlier agent knew of the peer files is remembered"
            );
        }
        remembered
    }
}

/// A file that can't be read is ignorance: then only the maps tell what was there.
fn load<T: DeserializeOwned>(file: &StateFile) -> Option<T> {
    file.load().unwrap_or_else(|error| {
        let error = mesh_failure::chain(&error);
        tracing::warn!(error, "nothing is remembered; what can't be read now stays only as the maps have it");
        None
    })
}
