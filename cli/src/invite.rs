//! `clustermesh invite`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use mesh_admin::cluster::{Changed, Invite, InviteRequest, IssuedInvite};
use mesh_model::address_policy::Ranges;

use crate::args::{AgentArgs, ClusterArgs, InviteArgs, InviteVerb, Output};
use crate::cluster::{self, Reach, Request, call, list};
use crate::render::{self, or_dash};

const HEADER: [&str; 6] = ["INVITE", "CLUSTER", "ID", "STATE", "EXPIRES", "WRONG-SECRETS"];
const WIDE_HEADER: [&str; 9] =
    ["INVITE", "CLUSTER", "ID", "STATE", "EXPIRES", "WRONG-SECRETS", "PODS", "NODES", "USED-BY"];

pub(crate) fn run(agent: &AgentArgs, args: &InviteArgs, output: Output) -> Result<()> {
    mesh_runtime::process::block_on(async {
        match &args.verb {
            None => issue(agent, args, output).await,
            Some(InviteVerb::List { of }) => {
                let invites = list(&one(of, agent).await?, &Request::get("/v1/invites")).await?;
                show(invites, output)
            }
            Some(InviteVerb::Revoke { id, of }) => revoke(&one(of, agent).await?, id).await,
        }
    })?
}

async fn one(of: &ClusterArgs, agent: &AgentArgs) -> Result<Reach> {
    cluster::only(cluster::reached(of, agent).await?)
}

async fn issue(agent: &AgentArgs, args: &InviteArgs, output: Output) -> Result<()> {
    let missing = "clap requires it where there is no verb";
    let request = InviteRequest {
        name: args.name.clone().context(missing)?,
        id: args.id.context(missing)?,
        ranges: Ranges { pods: args.pods.clone(), nodes: args.nodes.clone() },
        lifetime_seconds: args.expires.as_secs(),
    };
    let issued: IssuedInvite =
        call(&one(&args.by, agent).await?, &Request::post("/v1/invites", &request)).await?;
    match output {
        Output::Json => render::print(&(serde_json::to_string_pretty(&issued)? + "\n")),
        Output::Yaml => render::print(&serde_saphyr::to_string(&issued)?),
        Output::Table | Output::Wide => render::print(&told(&request, &issued, args.expires)),
    }
}

fn told(request: &InviteRequest, issued: &IssuedInvite, expires: Duration) -> String {
    format!(
        "{}\n\nThe line above is a secret: hand it over where nobody else reads. For the next {} min it lets one cluster join \
         as {} with id {}; `clustermesh invite revoke {}` ends that before. At {}:\n\n  clustermesh join --invite \
         TOKEN\n\nBoth sides must see this fingerprint of this cluster's authority:\n\n  {}\n",
        issued.token,
        expires.as_secs() / 60,
        request.name,
        request.id,
        issued.id,
        request.name,
        issued.fingerprint,
    )
}

async fn revoke(cluster: &Reach, id: &str) -> Result<()> {
    let revoked: Changed = call(cluster, &Request::delete(format!("/v1/invites/{id}"))).await?;
    render::print(if revoked.changed { "revoked\n" } else { "it was revoked already\n" })
}

fn show(invites: Vec<Invite>, output: Output) -> Result<()> {
    let wide = output == Output::Wide;
    let header: &[&str] = if wide { &WIDE_HEADER } else { &HEADER };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    render::items(invites, output, header, |invites| {
        invites.iter().map(|invite| row(invite, now, wide)).collect()
    })
}

fn row(invite: &Invite, now_unix_s: u64, wide: bool) -> Vec<String> {
    let left = invite.expires_unix_s.saturating_sub(now_unix_s) / 60;
    let mut row = vec![
        invite.id.clone(),
        invite.name.to_string(),
        invite.cluster_id.to_string(),
        invite.state.to_string(),
        if invite.expires_unix_s > now_unix_s { format!("in {left} min") } else { "-".into() },
        invite.wrong_secrets.to_string(),
    ];
    if wide {
        let ranges = |of: &[ipnet::IpNet]| {
            let all: Vec<_> = of.iter().map(ToString::to_string).collect();
            or_dash((!all.is_empty()).then(|| all.join(", ")))
        };
        row.push(ranges(&invite.ranges.pods));
        row.push(ranges(&invite.ranges.nodes));
        row.push(or_dash(invite.used_by.as_ref()));
    }
    row
}
