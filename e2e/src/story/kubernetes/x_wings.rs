//! The x-wings: pods that call the service by its name, and say of every call in their logs how it went.

use anyhow::{Result, ensure};

use super::shell::{PATIENCE, Shell};
use crate::kube::pod_log::PodLog;
use crate::kube::provider::Site;
use crate::story::board::{Board, XWing};

const MANIFEST: &str = "e2e/story/x-wing.yaml";

/// Their log readers; they end with it.
#[derive(Debug, Default)]
pub(super) struct Squadron(Vec<PodLog>);

impl Squadron {
    /// Starts the x-wings of a cluster, and waits until each has called.
    pub(super) fn start(&mut self, shell: Shell<'_>, site: &Site) -> Result<()> {
        shell.kubectl(site, &format!("apply -f {MANIFEST}"))?;
        shell.rolled_out(site, "deployment/x-wing")?;
        let pods = site.context.kubectl(&["get", "pods", "-l", "app=x-wing", "-o", "name"])?;
        let pods: Vec<_> = pods.lines().collect();
        ensure!(!pods.is_empty(), "{} has no x-wing", site.name);
        for pod in pods {
            self.follow(shell.board, site, pod)?;
        }
        Ok(())
    }

    fn follow(&mut self, board: &Board, site: &Site, pod: &str) -> Result<()> {
        let log = PodLog::follow(&site.context, pod, PATIENCE)?;
        board.join(XWing { cluster: site.name.clone(), records: log.records.clone() });
        self.0.push(log);
        Ok(())
    }
}
