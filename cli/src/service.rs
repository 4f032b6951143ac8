//! `clustermesh service`.

use std::net::SocketAddr;

use anyhow::Result;
use mesh_admin::api::{Group, LeftOutCluster, Omission, Service, ServiceFrontend};
use mesh_model::name::ServiceName;

use crate::args::{AgentArgs, Output, ServiceVerb};
use crate::backend;
use crate::render::{self, or_dash};

const HEADER: [&str; 9] =
    ["SERVICE", "FRONTEND", "PORT", "CLUSTER", "TIER", "WEIGHT", "ACTIVE", "TERMINATING", "CONNECTIONS"];
const WIDE_HEADER: [&str; 13] = [
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
    "LEFT-OUT",
    "REFUSED",
];

const LEFT_OUT_HEADER: [&str; 6] = ["LEFT OUT", "PORT", "ENDPOINTS", "REASON", "WHO", "DETAIL"];

pub(crate) fn run(agent: &AgentArgs, verb: &ServiceVerb, output: Output) -> Result<()> {
    match verb {
        ServiceVerb::List { namespace } => {
            let services: Vec<Service> = crate::client::list(agent, "/v1/services")?;
            let wanted = |service: &Service| {
                let found = service.service.as_ref().map(|name| name.namespace());
                namespace.is_none() || found == namespace.as_deref()
            };
            print(services.into_iter().filter(wanted).collect(), output)
        }
        ServiceVerb::Show { service } => show(agent, service, output),
    }
}

fn show(agent: &AgentArgs, service: &ServiceName, output: Output) -> Result<()> {
    // A service's name needs no escapes in a URL.
    let found: Vec<Service> = crate::client::list(agent, &format!("/v1/services?service={service}"))?;
    if !matches!(output, Output::Table | Output::Wide) {
        return print(found, output);
    }
    let left_out: Vec<Omission> =
        found.iter().flat_map(|it| it.left_out.clone().unwrap_or_default()).collect();
    if found.iter().any(|service| !service.frontends.is_empty()) {
        print(found, output)?;
        render::print("\n")?;
        backend::list(agent, Some(service), None, output)?;
        if !left_out.is_empty() {
            render::print("\n")?;
        }
    } else {
        render::print(&format!("{service} has no frontend on this node\n\n"))?;
    }
    if left_out.is_empty() {
        return Ok(());
    }
    render::table(&LEFT_OUT_HEADER, left_out.iter().map(omission).collect())
}

fn omission(omission: &Omission) -> Vec<String> {
    let number = omission.cluster_id.map(|id| format!("#{id}"));
    vec![
        or_dash(omission.cluster.as_ref().map(ToString::to_string).or(number)),
        or_dash(omission.port.as_ref()),
        or_dash(Some(omission.endpoints).filter(|endpoints| *endpoints > 0)),
        omission.reason.to_string(),
        omission.who.to_string(),
        omission.detail.clone(),
    ]
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
    let place = SocketAddr::new(frontend.address.into(), frontend.port);
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
        let left_out: Vec<_> = frontend.left_out.iter().map(left_out).collect();
        row.push(or_dash((!left_out.is_empty()).then(|| left_out.join(","))));
        row.push(or_dash(frontend.refused.as_ref()));
    }
    row
}

fn cluster(group: &Group) -> String {
    group.cluster.as_ref().map_or_else(|| format!("#{}", group.cluster_id), ToString::to_string)
}

fn left_out(cluster: &LeftOutCluster) -> String {
    cluster.cluster.as_ref().map_or_else(|| format!("#{}", cluster.cluster_id), ToString::to_string)
}
