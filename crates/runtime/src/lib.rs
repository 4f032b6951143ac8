//! How the mesh's processes live and die: arguments, logs, admin server, metrics, readiness, supervision, shutdown.
//!
//! Nothing here knows what the processes are for.

pub mod admin;
pub mod args;
pub mod clock;
mod invocation;
mod lock;
pub mod logs;
mod metrics;
pub mod process;
mod readiness;
pub mod shutdown;
mod state_file;
mod supervisor;

pub use admin::{AdminServer, Listen};
pub use args::{AdminArgs, LogArgs};
pub use invocation::{Check, Invocation};
pub use metrics::{ByLabel, Registry};
pub use readiness::{Condition, Missing, Readiness};
pub use state_file::{StateError, StateFile};
pub use supervisor::{Supervisor, SupervisorError, Task};
