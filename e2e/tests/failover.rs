//! The first failover: a connection that moves to the other cluster, over the real path from manifest to map.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_e2e::lab::client::{LoadSpec, Summary};
use mesh_e2e::lab::manifest::ServiceSpec;
use mesh_e2e::lab::{Lab, LabSpec};

const PATIENCE: Duration = Duration::from_secs(20);
const SERVICE: &str = "rebel-base";

fn moves(lab: &mut Lab, family: usize) -> Result<()> {
    let spec = ServiceSpec::global(SERVICE, 1).dual_stack();
    lab.apply(&spec)?;
    let address = lab.cluster("hoth")?.cluster_ip(SERVICE)?[family];
    let records = lab.client("hoth", 0, "x-wing", &LoadSpec::to(SocketAddr::new(address, spec.port)))?;
    records.wait_answers(&["hoth", "yavin"])?;
    lab.cluster("hoth")?.scale(SERVICE, 0)?;
    records.wait_answers(&["yavin"])?;
    lab.cluster("hoth")?.scale(SERVICE, 1)?;
    records.wait_answers(&["hoth", "yavin"])?;
    lab.end_clients()?;
    records.ensure_no_failure()
}

#[test]
fn connections_move_to_the_other_cluster_and_back() -> Result<()> {
    Lab::test(&LabSpec::small(), &[], |lab| moves(lab, 0))
}

#[test]
fn connections_move_over_ipv6_too() -> Result<()> {
    Lab::test(&LabSpec::small(), &[], |lab| moves(lab, 1))
}

#[test]
fn service_without_the_annotation_is_never_touched() -> Result<()> {
    Lab::test(&LabSpec::small(), &[], |lab| {
        let mut spec = ServiceSpec::global(SERVICE, 1);
        spec.annotations.clear();
        for cluster in ["hoth", "yavin"] {
            lab.cluster(cluster)?.apply(&spec)?;
        }
        // Once what comes later has arrived, the plain one was seen too.
        lab.apply(&ServiceSpec::global("marker", 1))?;
        let records = lab.dial("hoth", 0, "x-wing", SERVICE)?;
        let seen = Summary::of(&records.next(10, PATIENCE)?);
        ensure!(seen.errors.keys().eq(["unreachable"].iter()), "{seen:?}");
        Ok(())
    })
}
