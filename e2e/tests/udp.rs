//! UDP over the real path: a DNS client that nobody wrote for this asks a global service.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_e2e::lab::component::Stop;
use mesh_e2e::lab::manifest::{DNS_PORT, ServiceSpec};
use mesh_e2e::lab::pod::Pod;
use mesh_e2e::lab::{Lab, LabSpec};
use mesh_e2e::wait;

const PATIENCE: Duration = Duration::from_secs(20);
const SERVICE: &str = "holonet";

/// Asks once, without a second try; gives the cluster that answered. `dig` takes answers from nobody but the
/// address that it asked.
fn ask(pod: &Pod, address: IpAddr) -> Result<String> {
    let (server, port) = (format!("@{address}"), DNS_PORT.to_string());
    let args = [&server, "-p", &port, "+short", "+tries=1", "+timeout=5", "+noedns", "TXT", "whoami.mesh"];
    let said = pod.output("dig", &args)?;
    let name = said.trim().trim_matches('"');
    let cluster = name.split('/').next().unwrap_or_default();
    ensure!(["hoth", "yavin"].contains(&cluster), "dig said {said:?}");
    Ok(cluster.to_owned())
}

/// Asks until the clusters that answered are these.
fn answered_by(pod: &Pod, address: IpAddr, clusters: &[&str]) -> Result<()> {
    wait::until(&format!("answers from {clusters:?} alone at {address}"), PATIENCE, || {
        let answers = (0..12).map(|_| ask(pod, address)).collect::<Result<BTreeSet<_>>>()?;
        ensure!(answers.iter().eq(clusters), "{answers:?}");
        Ok(())
    })
}

/// Two clusters with a dual-stack service that answers DNS, known to everybody.
fn lab(work: impl FnOnce(&mut Lab, [IpAddr; 2]) -> Result<()>) -> Result<()> {
    Lab::test(&LabSpec::small(), &[], |lab| {
        lab.apply(&ServiceSpec::global(SERVICE, 1).dual_stack().with_dns())?;
        let addresses = lab.cluster("hoth")?.cluster_ip(SERVICE)?;
        work(lab, addresses)
    })
}

#[test]
fn dns_questions_move_to_the_other_cluster_and_back() -> Result<()> {
    lab(|lab, addresses| {
        lab.idle_pod("hoth", 0, "x-wing")?;
        for (replicas, clusters) in [(1, &["hoth", "yavin"][..]), (0, &["yavin"]), (1, &["hoth", "yavin"])] {
            lab.cluster("hoth")?.scale(SERVICE, replicas)?;
            for address in addresses {
                answered_by(&lab.idle_pods()[0], address, clusters)?;
            }
        }
        Ok(())
    })
}

#[test]
fn agents_killed_between_dns_questions_lose_none() -> Result<()> {
    lab(|lab, addresses| {
        lab.idle_pod("hoth", 0, "x-wing")?;
        for stop in [Stop::Kill, Stop::Terminate] {
            lab.stop_agents(stop)?;
            for address in addresses {
                answered_by(&lab.idle_pods()[0], address, &["hoth", "yavin"])?;
            }
            lab.start_agents()?;
        }
        Ok(())
    })
}
