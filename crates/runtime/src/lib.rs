//! How the mesh's processes live and die: arguments, logs, admin server, metrics, readiness, supervision, shutdown.
//!
//! Nothing here knows what the processes are for.

pub mod admin;
pub mod args;
pub mod clock;
pub mod lock;
pub mod logs;
pub mod metrics;
pub mod process;
pub mod readiness;
pub mod shutdown;
pub mod state_file;
pub mod supervisor;

pub use admin::{AdminServer, Listen};
pub use args::{AdminArgs, LogArgs};
pub use metrics::{ByLabel, Registry};
pub use readiness::{Condition, Readiness};
pub use state_file::{StateError, StateFile};
pub use supervisor::{Supervisor, SupervisorError, Task};
