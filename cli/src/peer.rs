//! `clustermesh peer`.

use anyhow::{Result, bail};
use node_agent::admin::api::{Peer, RangesOrigin};

use crate::args::{AgentArgs, Output, PeerVerb};
use crate::render::{self, or_dash};

const HEADER: [&str; 7] = ["PEER", "ID", "STATE", "SERVICES", "BACKENDS", "REJECTED", "REASON"];
const WIDE_HEADER: [&str; 11] = [
    "PEER",
    "ID",
    "STATE",
    "SERVICES",
    "BACKENDS",
    "REJECTED",
    "REASON",
    "ENDPOINT",
    "REVISION",
    "INCARNATION",
    "RANGES",
];

pub(crate) fn run(agent: &AgentArgs, verb: &PeerVerb, output: Output) -> Result<()> {
    let peers: Vec<Peer> = crate::client::list(agent, "/v1/peers")?;
    match verb {
        PeerVerb::List => print(peers, output),
        PeerVerb::Show { peer } => {
            let found: Vec<_> = peers.into_iter().filter(|candidate| candidate.name == *peer).collect();
            let Some(first) = found.first() else {
                bail!("no peer file names {peer}: put {peer}.yaml into the agent's --peers-dir");
            };
            let rejections = first.rejections.clone();
            print(found, if output == Output::Table { Output::Wide } else { output })?;
            if matches!(output, Output::Table | Output::Wide) && !rejections.is_empty() {
                let lines: String = rejections.iter().map(|text| format!("  {text}\n")).collect();
                render::print(&format!("\nRefused lately:\n{lines}"))?;
            }
            Ok(())
        }
    }
}

fn print(peers: Vec<Peer>, output: Output) -> Result<()> {
    let wide = output == Output::Wide;
    let header: &[&str] = if wide { &WIDE_HEADER } else { &HEADER };
    render::items(peers, output, header, |peers| peers.iter().map(|peer| row(peer, wide)).collect())
}

fn row(peer: &Peer, wide: bool) -> Vec<String> {
    let mut row = vec![
        peer.name.clone(),
        or_dash(peer.id),
        peer.state.to_string(),
        peer.services.to_string(),
        peer.backends.to_string(),
        peer.rejected.to_string(),
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
    }
    row
}
