//! Commands of the story: shown, then run.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::kube::provider::Site;
use crate::lab::process::program;
use crate::story::board::Board;

/// How long a cluster may take over anything that the story asks of it.
pub(super) const PATIENCE: Duration = Duration::from_secs(180);

#[derive(Clone, Copy, Debug)]
pub(super) struct Shell<'b> {
    pub(super) board: &'b Board,
}

impl Shell<'_> {
    /// Shows a line.
    pub(super) fn say(self, line: &str) {
        self.board.command(line.to_owned());
    }

    pub(super) fn kubectl(self, site: &Site, args: &str) -> Result<String> {
        self.say(&format!("$ kubectl --context {} {args}", site.context.name));
        let words: Vec<_> = args.split(' ').collect();
        site.context.kubectl(&words)
    }

    /// Makes the clusters peers; returns when every node of each knows the others.
    pub(super) fn join(self, sites: &[&Site]) -> Result<()> {
        let contexts: Vec<_> = sites.iter().flat_map(|site| ["--context", &site.context.name]).collect();
        self.say(&format!("$ clustermesh join {}", contexts.join(" ")));
        let kubeconfig = &sites.first().context("no cluster joins nobody")?.context.kubeconfig;
        let mut command = Command::new(program("clustermesh")?);
        command.arg("join").args(contexts).arg("--kubeconfig").arg(kubeconfig).stdin(Stdio::null());
        // Nobody is there who could be asked.
        command.args(["--yes", "--timeout", &format!("{}s", PATIENCE.as_secs())]);
        let output = command.output().context("starting clustermesh")?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        ensure!(output.status.success(), "clustermesh join: {}", said.trim());
        Ok(())
    }

    /// Waits until a workload is as it should be.
    pub(super) fn rolled_out(self, site: &Site, workload: &str) -> Result<()> {
        let timeout = PATIENCE.as_secs();
        self.kubectl(site, &format!("rollout status {workload} --timeout={timeout}s")).map(drop)
    }
}
