//! `clustermesh cert rotate`: certificates are made anew before they are due.

use anyhow::{Context, Result, ensure};
use mesh_admin::cluster::Certificate;
use mesh_model::name::ClusterName;
use serde::Serialize;

use super::{Site, sites};
use crate::args::{Output, RotateArgs};
use crate::cluster::{Cluster, Request, call_leader};
use crate::confirm::confirm;
use crate::progress::Progress;
use crate::render::{self, or_dash};

/// A certificate that is to be made anew, and what became of it.
#[derive(Debug, Serialize)]
struct Renewal {
    cluster: ClusterName,
    holder: String,
    /// Of the certificate that is replaced.
    before: Option<String>,
    made: Option<Certificate>,
}

pub(super) async fn rotate<C: Cluster>(clusters: &[C], args: &RotateArgs, output: Output) -> Result<()> {
    let (sites, progress) = (sites(clusters).await?, Progress::new());
    let mut renewals = Vec::new();
    for site in &sites {
        renewals.extend(planned(site, &args.holder)?);
    }
    if args.dry_run {
        return show(renewals, output);
    }
    let what: Vec<_> = renewals.iter().map(|it| format!("{} of {}", it.holder, it.cluster)).collect();
    confirm(args.yes, &format!("Make the certificates of {} anew?", what.join(", ")))?;
    for renewal in &mut renewals {
        let site = sites.iter().find(|site| *site.name() == renewal.cluster).context("it was asked")?;
        let path = format!("/v1/certificates/{}/rotate", renewal.holder);
        renewal.made = Some(call_leader(site.cluster, &Request::post(path, &())).await?);
        progress.say(&format!("{}: the {} has another certificate", renewal.cluster, renewal.holder));
    }
    show(renewals, output)
}

/// All holders of a cluster, or those that were named.
fn planned<C>(site: &Site<'_, C>, named: &[String]) -> Result<Vec<Renewal>> {
    let held = site.certificates.certificates.iter().filter(|it| !it.holder.starts_with("ca"));
    let held: Vec<&Certificate> = held.collect();
    let known: Vec<&str> = held.iter().map(|it| it.holder.as_str()).collect();
    let name = site.name();
    for holder in named {
        ensure!(
            known.contains(&holder.as_str()),
            "{name} keeps no certificate of a holder {holder:?}; it keeps those of {}{}",
            known.join(", "),
            if holder == "ca" { ". The authority is rotated by --ca" } else { "" }
        );
    }
    if let Some(foreign) = held.iter().find(|it| it.renewal_unix_s.is_none() && is_named(named, it)) {
        anyhow::bail!(
            "the certificate of the {} of {name} is made by somebody else: renew it where it comes from; clustermesh reads it \
             within a second, on Kubernetes within two minutes",
            foreign.holder
        );
    }
    let planned = held.iter().filter(|it| is_named(named, it)).map(|it| Renewal {
        cluster: name.clone(),
        holder: it.holder.clone(),
        before: Some(it.serial.clone()),
        made: None,
    });
    Ok(planned.collect())
}

fn is_named(named: &[String], certificate: &Certificate) -> bool {
    named.is_empty() || named.contains(&certificate.holder)
}

fn show(renewals: Vec<Renewal>, output: Output) -> Result<()> {
    let row = |it: &Renewal| {
        let made = it.made.as_ref().map(|made| made.serial.clone());
        vec![it.cluster.to_string(), it.holder.clone(), or_dash(it.before.as_ref()), or_dash(made)]
    };
    let header = ["CLUSTER", "HOLDER", "BEFORE", "NOW"];
    render::items(renewals, output, &header, |all| all.iter().map(row).collect())
}
