//! Findings: faults that only agents see and that somebody can act on. Looks for them now and then, and reports them to the
//! owner of a Service by an Event on it, to whoever runs the node by an Event on its Node, and without Kubernetes in the log.
//!
//! Nothing of a change waits for it, and nothing but Events and lines comes of it: it never touches maps or readiness.

mod look;
pub mod metrics;
pub mod node;
mod seen;
mod service;
mod stretch;
pub mod task;

use std::time::Duration;

use clap::Args;
use mesh_runtime::args::duration;

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Findings")]
pub struct FindingsArgs {
    /// Tell by Events what somebody can act on, once it has stood for so long, and every hour while it does. 0s: never.
    ///
    /// On a Service: that other clusters take no part in it because of its ports, for instance; three nodes speak for each
    /// Service, whoever comes first. On this Node: that it does not balance because of what else runs there. Where Services
    /// come from manifests every node logs it.
    #[arg(long, env = "CLUSTERMESH_TELL_AFTER", value_name = "DURATION", default_value = "1m", value_parser = duration)]
    pub tell_after: Duration,
}
