//! `clustermesh peer`.

use anyhow::{Result, bail};
use mesh_admin::api::{Peer, RangesOrigin};

use crate::args::{AgentArgs, Output, PeerVerb};
use crate::peer_file::{self, Import};
use crate::render::{self, or_dash};

const HEADER: [&str; 8] = ["PEER", "ID", "STATE", "SERVICES", "BACKENDS", "REJECTED", "CUT", "REASON"];
const WIDE_HEADER: [&str; 13] = [
    "PEER",
    "ID",
    "STATE",
    "SERVICES",
    "BACKENDS",
    "REJECTED",
    "CUT",
    "REASON",
    "ENDPOINT",
    "REVISION",
    "INCARNATION",
    "RANGES",
    "MEMORY",
];

pub(crate) fn run(agent: &AgentArgs, verb: &PeerVerb, output: Output) -> Result<()> {
    match verb {
        PeerVerb::List => print(crate::client::list(agent, "/v1/peers")?, output),
        PeerVerb::Show { peer } => show(agent, peer, output),
        PeerVerb::Export { of, endpoint } => peer_file::export(agent, of, endpoint, output),
        PeerVerb::Import { file, name, dry_run, to } => {
            peer_file::import(agent, &Import { file, name: name.as_ref(), dry_run: *dry_run, to })
        }
        PeerVerb::Remove(target) => peer_file::remove(agent, target),
    }
}

fn show(agent: &AgentArgs, peer: &str, output: Output) -> Result<()> {
    let peers: Vec<Peer> = crate::client::list(agent, "/v1/peers")?;
    let found: Vec<_> = peers.into_iter().filter(|candidate| candidate.name == peer).collect();
    let Some(first) = found.first() else {
        bail!("no peer file names {peer}: put {peer}.yaml into the agent's --peers-dir");
    };
    let rejections = first.rejections.clone();
    let cuts: String = first.cuts.iter().map(|cut| format!("  {}\n", cut.reason)).collect();
    print(found, if output == Output::Table { Output::Wide } else { output })?;
    if matches!(output, Output::Table | Output::Wide) && !cuts.is_empty() {
        render::print(&format!("\nCut at its quota:\n{cuts}"))?;
    }
    if matches!(output, Output::Table | Output::Wide) && !rejections.is_empty() {
        let lines: String = rejections.iter().map(|text| format!("  {text}\n")).collect();
        render::print(&format!("\nRefused lately:\n{lines}"))?;
    }
    Ok(())
}

fn print(peers: Vec<Peer>, output: Output) -> Result<()> {
    let wide = output == Output::Wide;
    let header: &[&str] = if wide { &WIDE_HEADER } else { &HEADER };
    render::items(peers, output, header, |peers| peers.iter().map(|peer| row(peer, wide)).collect())
}

/// By which quotas.
fn cuts(peer: &Peer) -> String {
    peer.cuts.iter().map(|cut| cut.quota.as_str()).collect::<Vec<_>>().join(",")
}

fn row(peer: &Peer, wide: bool) -> Vec<String> {
    let mut row = vec![
        peer.name.clone(),
        or_dash(peer.id),
        peer.state.to_string(),
        peer.services.to_string(),
        peer.backends.to_string(),
        peer.rejected.to_string(),
        or_dash((!peer.cuts.is_empty()).then(|| cuts(peer))),
        or_dash(peer.reason.as_ref()),
    ];
    if wide {
        let ranges = peer.ranges.map(|origin| match origin {
            RangesOrigin::Agreed => "agreed",
            RangesOrigin::Declared => "declared",
        });
        row.push(or_dash(peer.endpoint.as_ref()));
        row.push(or_dash(peer.revision));
        row.push(or_dash(peer.incarnation.as_ref()));
        row.push(or_dash(ranges));
        row.push(peer.memory_bytes.to_string());
    }
    row
}
