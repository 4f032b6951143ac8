//! Commands of the story: shown, then run.

use std::time::Duration;

use anyhow::Result;

use crate::kube::provider::Site;
use crate::story::board::Board;

/// How long a cluster may take over anything that the story asks of it.
pub(super) const PATIENCE: Duration = Duration::from_secs(180);

#[derive(Clone, Copy, Debug)]
pub(super) struct Shell<'b> {
    pub(super) board: &'b Board,
}

impl Shell<'_> {
    /// Shows a line that is no command of `kubectl`.
    pub(super) fn say(self, line: &str) {
        self.board.command(line.to_owned());
    }

    pub(super) fn kubectl(self, site: &Site, args: &str) -> Result<String> {
        self.say(&format!("$ kubectl --context {} {args}", site.context.name));
        let words: Vec<_> = args.split(' ').collect();
        site.context.kubectl(&words)
    }

    /// Waits until a workload is as it should be.
    pub(super) fn rolled_out(self, site: &Site, workload: &str) -> Result<()> {
        let timeout = PATIENCE.as_secs();
        self.kubectl(site, &format!("rollout status {workload} --timeout={timeout}s")).map(drop)
    }
}
