//! `clustermesh cert revoke`: certificates, or all of a peer's, count no more.

use anyhow::{Context, Result, bail};
use mesh_admin::cluster::{Changed, RevokeRequest, Revoked};
use mesh_membership::rotation::{Named, retrusted};
use mesh_model::name::ClusterName;
use serde::Serialize;

use super::{Site, left_at_peers, named, sites, tell};
use crate::args::{Output, RevokeArgs};
use crate::cluster::{Cluster, Request, call, call_leader};
use crate::confirm::confirm;
use crate::progress::Progress;
use crate::render;

/// What became of it, or would.
#[derive(Debug, Serialize)]
struct Outcome {
    cluster: ClusterName,
    certificates: Vec<String>,
    /// Those that were not revoked before.
    revoked: Vec<String>,
    /// Holders that have another certificate now.
    renewed: Vec<String>,
    /// Clusters that have been told.
    told: Vec<ClusterName>,
    /// What somebody has to do elsewhere, one line each.
    left: Vec<String>,
}

pub(super) async fn certificates<C: Cluster>(
    clusters: &[C],
    args: &RevokeArgs,
    output: Output,
) -> Result<()> {
    let (sites, progress) = (sites(clusters).await?, Progress::new());
    let site = whose(&sites, args)?;
    let (name, named) = (site.name().clone(), named(&sites).await?);
    if let Some(why) = &site.certificates.foreign {
        bail!("nothing can be revoked at {name}: {why}");
    }
    let left = left_at_peers(&name, &named, "so that what is revoked counts no more there, either");
    let mut outcome = Outcome {
        cluster: name.clone(),
        certificates: args.certificate.clone(),
        revoked: Vec::new(),
        renewed: Vec::new(),
        told: peers_of(&name, &named),
        left,
    };
    if args.dry_run {
        return show(&outcome, output);
    }
    confirm(args.yes, &format!("Revoke {} of {name}?", args.certificate.join(", ")))?;
    let request = RevokeRequest { certificates: args.certificate.clone() };
    let revoked: Revoked =
        call_leader(site.cluster, &Request::post("/v1/certificates/revoke", &request)).await?;
    outcome.revoked = revoked.revoked.into_iter().map(|it| it.serial).collect();
    outcome.renewed = revoked.renewed;
    for (at, entry) in named.iter().flat_map(|at| at.peers.iter().map(move |entry| (at, entry))) {
        if entry.name != name.as_str() {
            continue;
        }
        if let Some(file) = retrusted(entry, &revoked.trust) {
            tell(&sites, &at.name, (&name, &file)).await?;
            progress.say(&format!("{}: knows what {name} has revoked", at.name));
        }
    }
    show(&outcome, output)
}

/// Who of the clusters that are named has it as a peer.
fn peers_of(name: &ClusterName, named: &[Named]) -> Vec<ClusterName> {
    let knows = |at: &&Named| at.peers.iter().any(|entry| entry.name == name.as_str());
    named.iter().filter(knows).map(|at| at.name.clone()).collect()
}

/// The cluster that has issued them: the one that is named so, or has one of them in use, or is the only one.
fn whose<'a, C>(sites: &'a [Site<'a, C>], args: &RevokeArgs) -> Result<&'a Site<'a, C>> {
    if let Some(of) = &args.of {
        let found = sites.iter().find(|site| site.name() == of);
        return found
            .with_context(|| format!("{of} is none of the clusters; name its --context or --socket"));
    }
    let plain = |text: &str| text.replace(':', "").to_uppercase();
    let texts: Vec<String> = args.certificate.iter().map(|text| plain(text)).collect();
    let has = |site: &&Site<'_, C>| {
        let held = &site.certificates.certificates;
        held.iter().any(|it| texts.contains(&plain(&it.serial)) || texts.contains(&plain(&it.fingerprint)))
    };
    match (sites.iter().find(has), sites) {
        (Some(site), _) | (None, [site]) => Ok(site),
        _ => bail!(
            "none of the clusters has such a certificate in use; say by --of CLUSTER which one has issued it"
        ),
    }
}

fn show(outcome: &Outcome, output: Output) -> Result<()> {
    match output {
        Output::Json => return render::print(&(serde_json::to_string_pretty(outcome)? + "\n")),
        Output::Yaml => return render::print(&serde_saphyr::to_string(outcome)?),
        Output::Table | Output::Wide => {}
    }
    let Outcome { cluster, certificates, revoked, renewed, told, left } = outcome;
    let revoked = revoked.iter().map(|serial| format!("{cluster}: revoked {serial}\n"));
    let renewed = renewed.iter().map(|holder| format!("{cluster}: the {holder} has another certificate\n"));
    let is_peer = certificates.is_empty();
    let told = told.iter().map(|at| match is_peer {
        true => format!("{at}: lets {cluster} in no more\n"),
        false => format!("{at}: is told of it\n"),
    });
    let left = left.iter().map(|line| format!("LEFT TO DO {line}\n"));
    let text: String = revoked.chain(renewed).chain(told).chain(left).collect();
    render::print(if text.is_empty() { "nothing is left to do\n" } else { &text })
}

/// All that a peer's authority has issued: whoever is no peer is let in nowhere.
pub(super) async fn peer<C: Cluster>(
    clusters: &[C],
    peer: &ClusterName,
    args: &RevokeArgs,
    output: Output,
) -> Result<()> {
    let (sites, progress) = (sites(clusters).await?, Progress::new());
    let at = peers_of(peer, &named(&sites).await?);
    if !args.dry_run && !at.is_empty() {
        let names: Vec<_> = at.iter().map(ClusterName::as_str).collect();
        let question = format!(
            "Let no process of {peer} in any more at {}, and send no new connection to it?",
            names.join(", ")
        );
        confirm(args.yes, &question)?;
        for site in sites.iter().filter(|site| at.contains(site.name())) {
            let removed: Changed = call(site.cluster, &Request::delete(format!("/v1/peers/{peer}"))).await?;
            let said = if removed.changed { "is no peer any more" } else { "was no peer" };
            progress.say(&format!("{}: {peer} {said}", site.name()));
        }
    }
    let outcome = Outcome {
        cluster: peer.clone(),
        certificates: Vec::new(),
        revoked: Vec::new(),
        renewed: Vec::new(),
        told: at,
        left: Vec::new(),
    };
    show(&outcome, output)
}
