//! `clustermesh service`.

use std::net::SocketAddr;

use anyhow::{Result, bail};
use node_agent::admin::api::{Group, Service, ServiceFrontend};

use crate::args::{AgentArgs, Output, ServiceVerb};
use crate::backend;
use crate::render::{self, or_dash};

const HEADER: [&str; 9] =
    ["SERVICE", "FRONTEND", "PORT", "CLUSTER", "TIER", "WEIGHT", "ACTIVE", "TERMINATING", "CONNECTIONS"];
const WIDE_HEADER: [&str; 12] = [
    "SERVICE",
    "FRONTEND",
    "PORT",
    "CLUSTER",
    "TIER",
    "WEIGHT",
    "ACTIVE",
    "TERMINATING",
    "CONNECTIONS",
    "LAST-RESORT",
    "DEMOTED",
    "REFUSED",
];

pub(crate) fn run(agent: &AgentArgs, verb: &ServiceVerb, output: Output) -> Result<()> {
    let services: Vec<Service> = crate::client::list(agent, "/v1/services")?;
    match verb {
        ServiceVerb::List { namespace } => {
            let wanted = |service: &Service| {
                let found = service.service.as_ref().map(|name| name.namespace());
                namespace.is_none() || found == namespace.as_deref()
            };
            print(services.into_iter().filter(wanted).collect(), output)
        }
        ServiceVerb::Show { service } => {
            let found: Vec<_> = services
                .into_iter()
                .filter(|candidate| candidate.service.as_ref() == Some(service))
                .collect();
            if found.is_empty() {
                bail!(
                    "service {service} is not global on this node: annotate it with clustermesh.io/global: \"true\" \
                     in this cluster"
                );
            }
            print(found, output)?;
            if matches!(output, Output::Table | Output::Wide) {
                render::print("\n")?;
                backend::list(agent, Some(service), None, output)?;
            }
            Ok(())
        }
    }
}

fn print(services: Vec<Service>, output: Output) -> Result<()> {
    let wide = output == Output::Wide;
    let header: &[&str] = if wide { &WIDE_HEADER } else { &HEADER };
    render::items(services, output, header, |services| {
        services.iter().flat_map(|service| rows(service, wide)).collect()
    })
}

fn rows(service: &Service, wide: bool) -> Vec<Vec<String>> {
    let frontends = service.frontends.iter();
    let rows = frontends.flat_map(|frontend| {
        let groups: Vec<Option<&Group>> = match frontend.groups.is_empty() {
            true => vec![None],
            false => frontend.groups.iter().map(Some).collect(),
        };
        groups.into_iter().map(move |group| row(service, frontend, group, wide))
    });
    rows.collect()
}

fn row(service: &Service, frontend: &ServiceFrontend, group: Option<&Group>, wide: bool) -> Vec<String> {
    let place = SocketAddr::new(frontend.address, frontend.port);
    let count = |of: fn(&Group) -> u64| or_dash(group.map(of));
    let mut row = vec![
        or_dash(service.service.as_ref()),
        format!("{place}/{}", frontend.protocol),
        or_dash(frontend.port_name.as_ref()),
        group.map_or_else(|| "-".into(), cluster),
        count(|group| group.tier.into()),
        count(|group| group.weight.into()),
        count(|group| group.active as u64),
        count(|group| group.terminating as u64),
        count(|group| group.connections),
    ];
    if wide {
        row.push(count(|group| group.last_resort));
        row.push(or_dash(group.map(|group| if group.demoted { "yes" } else { "no" })));
        row.push(or_dash(frontend.refused.as_ref()));
    }
    row
}

fn cluster(group: &Group) -> String {
    group.cluster.as_ref().map_or_else(|| format!("#{}", group.cluster_id), ToString::to_string)
}
