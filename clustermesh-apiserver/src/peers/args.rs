//! Where the peers' files are, and where they are remembered.

use std::path::PathBuf;

use clap::Args;
use mesh_model::name::{ClusterId, ClusterName};
use mesh_peers::folder::Remembered;
use mesh_runtime::StateFile;

use super::PeersConfig;

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Peers")]
pub(crate) struct PeersArgs {
    /// Folder of peer files, one `<peer's cluster name>.yaml` each: the same as node-agent --peers-dir.
    ///
    /// Whoever a file's `trust:` vouches for may read the mesh API. A change counts within a second; a file that is
    /// removed shuts its peer out. One that breaks counts as it was last read, also after a restart (--state-dir); a
    /// folder that is missing or unreadable shuts nobody out.
    #[arg(long, env = "CLUSTERMESH_PEERS_DIR", value_name = "DIR", group = "peers")]
    pub(crate) peers_dir: Option<PathBuf>,

    /// What the peer files said last goes to <DIR>/<cluster name>-apiserver/; kept over a restart of the machine.
    ///
    /// Without a folder to write to everything works all the same, and that is said.
    #[arg(long, env = "CLUSTERMESH_STATE_DIR", value_name = "DIR", default_value = "/var/lib/clustermesh")]
    state_dir: PathBuf,
}

impl PeersArgs {
    /// How the peers are followed, if they are.
    pub(crate) fn config(&self, own_name: &ClusterName, own_id: ClusterId) -> Option<PeersConfig> {
        let folder = self.peers_dir.clone()?;
        let about = format!("cluster {own_name} with id {own_id}, peers folder {}", folder.display());
        let path = self.state_dir.join(format!("{own_name}-apiserver")).join("peers");
        let memory = StateFile::new(path, Remembered::VERSION, about);
        Some(PeersConfig { folder, own_name: own_name.clone(), own_id, memory })
    }
}
