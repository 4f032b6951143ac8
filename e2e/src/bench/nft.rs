//! What the same costs without us: destination NAT by nftables, with the maps and chains of kube-proxy's nftables
//! mode, on the output hook of a client's namespace.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::lab::netns::Netns;

use super::serve::{ACCEPT_PORT, ECHO_PORT};
use super::testbed::{backend, frontend};

/// Loads rules for so many services of one backend each; the first has two ports, one of which echoes.
pub(crate) fn load(netns: &Netns, services: usize) -> Result<()> {
    let rules = rules(services);
    netns.enter(move || {
        let mut nft = Command::new("nft");
        nft.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = nft.spawn().context("starting nft (Debian: apt-get install nftables)")?;
        let stdin = child.stdin.take().context("nft has no stdin")?;
        { stdin }.write_all(rules.as_bytes()).context("writing to nft")?;
        let output = child.wait_with_output().context("waiting for nft")?;
        let complaint: String = String::from_utf8_lossy(&output.stderr).chars().take(400).collect();
        ensure!(output.status.success(), "nft: {complaint}");
        Ok(())
    })
}

fn rules(services: usize) -> String {
    let mut chains = String::new();
    let mut elements = Vec::new();
    let mut service = |number: usize, port: u16, target: u16| {
        let name = format!("{number}-{port}");
        // Writing to a string cannot fail.
        let _ = writeln!(
            chains,
            "chain endpoint-{name} {{ meta l4proto tcp dnat to {}:{target}; }}\n\
             chain service-{name} {{ numgen random mod 1 vmap {{ 0 : goto endpoint-{name} }}; }}",
            backend(number)
        );
        elements.push(format!("{} . tcp . {port} : goto service-{name}", frontend(number)));
    };
    service(0, 81, ECHO_PORT);
    (0..services).for_each(|number| service(number, 80, ACCEPT_PORT));
    format!(
        "table ip kube-proxy {{\n{chains}\
         map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{ {} }}; }}\n\
         chain services {{ ip daddr . meta l4proto . th dport vmap @service-ips; }}\n\
         chain nat-output {{ type nat hook output priority -100; jump services; }}\n}}\n",
        elements.join(", ")
    )
}
