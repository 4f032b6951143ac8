//! Commands to try in a lab that was left up.

use std::fmt::Write;

use anyhow::{Context, Result};

use crate::lab::Lab;
use crate::lab::process::program;

use super::SERVICE;

/// Commands to copy, for the first node and the first x-wing.
pub fn of(lab: &Lab) -> Result<String> {
    let enter = program("lab")?;
    let folder = enter.parent().context("a program without a folder")?.display();
    let cluster = lab.clusters().first().context("a lab without clusters")?;
    let node = cluster.nodes().first().context("a cluster without nodes")?;
    let pod = lab.idle_pods().first().context("a lab without x-wings")?;
    let socket = node.socket();
    let inside = format!(
        "{folder}/lab enter --netns {} --cgroup {} --",
        pod.netns().name(),
        pod.cgroup().path().display()
    );
    let target = cluster.dial_address(SERVICE)?;
    let mut text = format!(
        "\nLab {} is still up. Its files are in {}.\n",
        lab.lab_dir().id(),
        lab.lab_dir().path().display()
    );
    let mut say = |what: &str, command: String| writeln!(text, "  {what}\n    {command}");
    say(
        "the service as the node's agent sees it",
        format!("{folder}/clustermesh --socket {} service list", socket.display()),
    )?;
    say("the peers", format!("{folder}/clustermesh --socket {} peer list", socket.display()))?;
    say("call rebel-base from an x-wing", format!("{inside} curl -s http://{target}/"))?;
    say("a shell in the x-wing's pod", format!("{inside} bash"))?;
    say("change something", format!("edit a file in {}", cluster.manifests().display()))?;
    say("remove it all", format!("{folder}/demo clean"))?;
    Ok(text)
}
