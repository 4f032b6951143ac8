//! `kubectl`, as the story and tests run it: with the host's kubeconfig and a context.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// One cluster of a kubeconfig.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    pub kubeconfig: PathBuf,
    pub name: String,
}

impl Context {
    pub(crate) fn new(kubeconfig: &Path, name: &str) -> Self {
        Self { kubeconfig: kubeconfig.to_owned(), name: name.to_owned() }
    }

    /// The command, for whoever wants its streams.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(["--context", &self.name]).args(args);
        command.stdin(Stdio::null());
        command
    }

    /// Runs it, and gives what it printed.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        let output = self.command(args).output().context("starting kubectl")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {} in {}: {}", args.join(" "), self.name, complaint.trim());
        String::from_utf8(output.stdout).context("kubectl printed no text")
    }

    /// An answer of `kubectl get`.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let mut all = args.to_vec();
        all.extend(["-o", "json"]);
        serde_json::from_str(&self.kubectl(&all)?).context("kubectl printed no JSON")
    }

    /// Applies objects.
    pub fn apply(&self, objects: &str) -> Result<()> {
        // The API server validates; the client would first fetch its whole description.
        let mut command = self.command(&["apply", "--validate=false", "-f", "-"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting kubectl")?;
        child.stdin.take().context("kubectl has no stdin")?.write_all(objects.as_bytes())?;
        let output = child.wait_with_output().context("waiting for kubectl")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl apply in {}: {}", self.name, complaint.trim());
        Ok(())
    }
}
