//! The x-wings: pods that call the service by its name, and say of every call in their logs how it went.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};

use super::Site;
use super::shell::{PATIENCE, Shell};
use crate::lab::client::Records;
use crate::story::board::{Board, XWing};
use crate::wait;

const MANIFEST: &str = "e2e/story/x-wing.yaml";

/// Their log readers; they end with it.
#[derive(Debug, Default)]
pub(super) struct Squadron(Vec<Child>);

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
        let mut command = site.context.command(&["logs", "--follow", pod]);
        let mut child = command.stdout(Stdio::piped()).spawn().context("starting kubectl")?;
        let lines = BufReader::new(child.stdout.take().context("kubectl has no stdout")?).lines();
        self.0.push(child);
        let records = Records::default();
        let sink = records.clone();
        let read = move || {
            for line in lines.map_while(Result::ok) {
                // Anything else that a pod says is no record.
                if let Ok(record) = serde_json::from_str(&line) {
                    sink.push(record);
                }
            }
        };
        thread::Builder::new().name("x-wing".into()).spawn(read).context("starting a thread")?;
        wait::until(&format!("{pod} in {} to call", site.name), PATIENCE, || {
            ensure!(records.count() > 0, "it has said nothing");
            Ok(())
        })?;
        board.join(XWing { cluster: site.name.clone(), records });
        Ok(())
    }
}

impl Drop for Squadron {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // Already ended is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
