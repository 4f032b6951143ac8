//! `clustermesh cert`: the certificates that a cluster's own processes show.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use mesh_admin::cluster::{Certificate, Cluster as Described};
use mesh_model::name::ClusterName;
use serde::Serialize;

use crate::args::{AgentArgs, CertVerb, Output};
use crate::cluster::{self, Request, call};
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
}

pub(crate) fn run(agent: &AgentArgs, verb: &CertVerb, output: Output) -> Result<()> {
    let CertVerb::Show { of } = verb;
    mesh_runtime::process::block_on(async {
        let clusters = cluster::reached(of, agent).await?;
        let (ask, mut held) = (Request::get("/v1/cluster"), Vec::new());
        for cluster in &clusters {
            let Described { name, certificates, .. } = call(cluster, &ask).await?;
            held.extend(
                certificates.into_iter().map(|certificate| Held { cluster: name.clone(), certificate }),
            );
        }
        show(held, output)
    })?
}

fn show(held: Vec<Held>, output: Output) -> Result<()> {
    let wide = output == Output::Wide;
    let header: &[&str] = if wide { &WIDE_HEADER } else { &HEADER };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    render::items(held, output, header, |held| held.iter().map(|held| row(held, now, wide)).collect())
}

fn row(held: &Held, now_unix_s: u64, wide: bool) -> Vec<String> {
    let Held { cluster, certificate } = held;
    let renewal = match certificate.renewal_unix_s {
        None => "by hand".into(),
        Some(at) if at <= now_unix_s => "due".into(),
        Some(at) => format!("in {}", left(at - now_unix_s)),
    };
    let mut row = vec![
        cluster.to_string(),
        certificate.holder.clone(),
        left(certificate.not_after_unix_s.saturating_sub(now_unix_s)),
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
