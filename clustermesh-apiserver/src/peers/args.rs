//! Where the peers' files are, and where they are remembered.

use std::path::PathBuf;

use clap::Args;
use mesh_model::name::{ClusterId, ClusterName};
use mesh_peers::folder::Remembered;
use mesh_runtime::StateFile;
use mesh_secrets::{Access, Layout, Mirror, MirrorMetrics, SecretName};

use super::PeersConfig;

/// What the mirror of the Secret is called in metrics.
pub(crate) const MIRRORED: &str = "peers";

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

    /// Secret of the own namespace whose keys are the peer files, in place of --peers-dir: the same as node-agent
    /// --peers-secret. Needs --source kubernetes.
    ///
    /// Followed over the API server and mirrored below --state-dir: while the API server is away, or the Secret is missing,
    /// everybody is let in as before. Clusters that join are written there, each as a key `<name>.yaml`, by server-side
    /// apply.
    #[arg(long, env = "CLUSTERMESH_PEERS_SECRET", value_name = "NAME", group = "peers")]
    pub(crate) peers_secret: Option<SecretName>,

    /// What the peer files said last goes to <DIR>/<cluster name>-apiserver/; kept over a restart of the machine.
    ///
    /// Without a folder to write to everything works all the same, and that is said.
    #[arg(long, env = "CLUSTERMESH_STATE_DIR", value_name = "DIR", default_value = "/var/lib/clustermesh")]
    state_dir: PathBuf,
}

impl PeersArgs {
    /// How the peers are followed, if they are.
    pub(crate) fn config(&self, own_name: &ClusterName, own_id: ClusterId) -> Option<PeersConfig> {
        let folder = self.folder(own_name)?;
        let about = format!("cluster {own_name} with id {own_id}, peers folder {}", folder.display());
        let memory = StateFile::new(self.state(own_name).join("peers"), Remembered::VERSION, about);
        Some(PeersConfig { folder, own_name: own_name.clone(), own_id, memory })
    }

    /// What brings the Secret into the folder that is followed, where there is one.
    pub(crate) fn mirror(
        &self,
        own_name: &ClusterName,
        access: Access,
        metrics: &MirrorMetrics,
    ) -> Option<Mirror> {
        let (name, folder) = (self.peers_secret.clone()?, self.folder(own_name)?);
        Some(Mirror::new(access, (MIRRORED, name), folder, Layout::Files, metrics))
    }

    fn folder(&self, own_name: &ClusterName) -> Option<PathBuf> {
        let mirrored = |_: &SecretName| self.state(own_name).join("peers-secret");
        self.peers_secret.as_ref().map(mirrored).or_else(|| self.peers_dir.clone())
    }

    fn state(&self, own_name: &ClusterName) -> PathBuf {
        self.state_dir.join(format!("{own_name}-apiserver"))
    }
}
