//! Clusters of a lab become peers as those of a user do: by `clustermesh join`.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Lab;
use super::process::program;

impl Lab {
    /// What joins all clusters, as it is typed in the folder of their sockets.
    pub fn join_command(&self) -> Vec<String> {
        let sockets = self.clusters.iter().flat_map(|cluster| {
            ["--socket".to_owned(), format!("{}-apiserver/apiserver.sock", cluster.name())]
        });
        ["clustermesh".to_owned(), "join".into()].into_iter().chain(sockets).collect()
    }

    /// Joins them; returns what was said.
    pub fn join(&self) -> Result<String> {
        let mut words = self.join_command();
        // Nobody is there who could be asked; and every node shall be waited for, which makes a long line.
        words.push("--yes".into());
        words.extend(self.agent_sockets());
        self.clustermesh(&words[1..])
    }

    /// The flags that name all apiservers and agents of the lab.
    pub fn sockets(&self) -> Vec<String> {
        self.join_command().split_off(2).into_iter().chain(self.agent_sockets()).collect()
    }

    fn agent_sockets(&self) -> impl Iterator<Item = String> {
        let nodes = self.clusters.iter().flat_map(|cluster| cluster.nodes());
        nodes.map(|node| format!("--socket={}", node.socket().display()))
    }

    /// Runs the command line in the folder of sockets; returns what it said.
    pub fn clustermesh(&self, arguments: &[String]) -> Result<String> {
        let mut command = Command::new(program("clustermesh")?);
        command.current_dir(self.lab_dir.run_dir()).args(arguments);
        let output = command.output().context("starting clustermesh")?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        ensure!(output.status.success(), "clustermesh {}: {said}", arguments.join(" "));
        Ok(said)
    }
}
