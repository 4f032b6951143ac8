//! `clustermesh cert show`: the certificates that a cluster's own processes show, and those that count no more.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use mesh_admin::cluster::{Certificate, Certificates, Cluster as Described};
use mesh_model::name::ClusterName;
use serde::Serialize;

use crate::args::Output;
use crate::cluster::{Cluster, Request, call};
use crate::render::{self, left, or_dash};

const HEADER: [&str; 5] = ["CLUSTER", "HOLDER", "EXPIRES", "RENEWAL", "IDENTITY"];
const WIDE_HEADER: [&str; 8] =
    ["CLUSTER", "HOLDER", "EXPIRES", "RENEWAL", "IDENTITY", "NAMES", "SERIAL", "FINGERPRINT"];

/// A certificate, and whose it is.
#[derive(Serialize)]
struct Held {
    cluster: ClusterName,
    #[serde(flatten)]
    certificate: Certificate,
    /// Seconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_since_unix_s: Option<u64>,
}

impl Held {
    fn new(cluster: &ClusterName, certificate: Certificate, revoked_since_unix_s: Option<u64>) -> Self {
        Self { cluster: cluster.clone(), certificate, revoked_since_unix_s }
    }
}

pub(super) async fn run(clusters: &[impl Cluster], output: Output) -> Result<()> {
    let mut held = Vec::new();
    for cluster in clusters {
        held.extend(of(cluster).await?);
    }
    show(held, output)
}

/// All of a cluster's, those last that count no more.
async fn of(cluster: &impl Cluster) -> Result<Vec<Held>> {
    let (name, certificates, revoked) = match call(cluster, &Request::get("/v1/certificates")).await {
        Ok(Certificates { cluster, certificates, revoked, .. }) => (cluster, certificates, revoked),
        // One of an older version says less.
        Err(error) if error.is_unknown() => {
            let Described { name, certificates, .. } = call(cluster, &Request::get("/v1/cluster")).await?;
            (name, certificates, Vec::new())
        }
        Err(error) => return Err(error.into()),
    };
    let held = certificates.into_iter().map(|certificate| Held::new(&name, certificate, None));
    let revoked = revoked.into_iter().map(|it| {
        let certificate = Certificate {
            holder: "revoked".into(),
            identity: None,
            serial: it.serial,
            fingerprint: "-".into(),
            names: Vec::new(),
            not_after_unix_s: it.since_unix_s,
            renewal_unix_s: None,
        };
        Held::new(&name, certificate, Some(it.since_unix_s))
    });
    Ok(held.chain(revoked).collect())
}

fn show(held: Vec<Held>, output: Output) -> Result<()> {
    let wide = output == Output::Wide;
    let header: &[&str] = if wide { &WIDE_HEADER } else { &HEADER };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    render::items(held, output, header, |held| held.iter().map(|held| row(held, now, wide)).collect())
}

fn row(held: &Held, now_unix_s: u64, wide: bool) -> Vec<String> {
    let Held { cluster, certificate, revoked_since_unix_s } = held;
    let renewal = match certificate.renewal_unix_s {
        None if revoked_since_unix_s.is_some() => "-".into(),
        None => "by hand".into(),
        Some(at) if at <= now_unix_s => "due".into(),
        Some(at) => format!("in {}", left(at - now_unix_s)),
    };
    let mut row = vec![
        cluster.to_string(),
        certificate.holder.clone(),
        match revoked_since_unix_s {
            None => left(certificate.not_after_unix_s.saturating_sub(now_unix_s)),
            Some(_) => "counts no more".into(),
        },
        renewal,
        or_dash(certificate.identity.as_ref()),
    ];
    if wide {
        row.push(or_dash((!certificate.names.is_empty()).then(|| certificate.names.join(","))));
        row.push(certificate.serial.clone());
        row.push(certificate.fingerprint.clone());
    }
    row
}
