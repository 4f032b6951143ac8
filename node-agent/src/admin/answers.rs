//! The questions that the routes ask. The owner of the answers implements them: the routes know nobody.

use mesh_admin::api::{Backend, Peer, Service};
use mesh_model::name::ServiceName;

use crate::datapath::maps::MapError;

/// Answers to the admin API's questions.
pub trait Answers: Send + Sync {
    /// All services; or one, which need not be known, with what of it is not in use and why.
    fn services(&self, only: Option<&ServiceName>) -> Result<Vec<Service>, Unanswered>;
    /// Those of one service, or of all.
    fn backends(&self, only: Option<&ServiceName>) -> Result<Vec<Backend>, Unanswered>;
    /// The last plan, one line per write.
    fn plan(&self) -> Result<Vec<String>, Unanswered>;
}

/// Answers about the peers, which are at hand at any time.
pub trait PeerRows: Send + Sync {
    /// The peers, and the files that name none.
    fn rows(&self) -> Vec<Peer>;
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    #[error("the agent is stopping")]
    Stopping,
    #[error("the maps can't be read")]
    Maps(#[from] MapError),
}
