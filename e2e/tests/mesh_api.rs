//! Peers read each other's mesh API over mutual TLS, by certificates that made themselves.

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_e2e::lab::client::{LoadSpec, Records};
use mesh_e2e::lab::component::Stop;
use mesh_e2e::lab::manifest::ServiceSpec;
use mesh_e2e::lab::{Lab, LabSpec};
use mesh_e2e::wait;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);
const SERVICE: &str = "rebel-base";

fn with_load(standby: bool, odd: &[&str], work: impl FnOnce(&mut Lab, &Records) -> Result<()>) -> Result<()> {
    Lab::test(&LabSpec { mesh_api: true, standby, ..LabSpec::small() }, odd, |lab| {
        lab.apply(&ServiceSpec::global(SERVICE, 2))?;
        let target = lab.cluster("hoth")?.dial_address(SERVICE)?;
        // No path to a backend breaks here: what a busy machine makes late is no failure.
        let load = LoadSpec { timeout: Duration::from_secs(10), ..LoadSpec::to(target) };
        let records = lab.client("hoth", 0, "x-wing", &load)?;
        records.wait_answers(&["hoth", "yavin"])?;
        work(lab, &records)
    })
}

/// What hoth's agent says of its peer yavin.
fn yavin_in_hoth(lab: &mut Lab) -> Result<Value> {
    lab.cluster("hoth")?.nodes()[0].peer("yavin")
}

fn until_yavin_is(lab: &mut Lab, state: &str) -> Result<()> {
    wait::until(&format!("yavin to be {state}"), PATIENCE, || {
        let yavin = yavin_in_hoth(lab)?;
        ensure!(yavin["state"] == state, "{yavin}");
        Ok(())
    })
}

#[test]
fn agents_go_on_at_another_replica_when_one_dies() -> Result<()> {
    with_load(true, &["peer", "mesh API"], |lab, records| {
        let endpoint = yavin_in_hoth(lab)?["endpoint"].clone();
        ensure!(endpoint.as_str().is_some_and(|endpoint| endpoint.starts_with("https://")), "{endpoint}");
        lab.cluster("yavin")?.apiserver().stop(Stop::Kill)?;
        lab.scale(SERVICE, 3)?;
        lab.wait_backends(SERVICE, 3)?;
        lab.cluster("yavin")?.apiserver().start()?;
        lab.wait_ready()?;
        records.ensure_no_failure()
    })
}

/// What no agent that reads etcd itself could know.
#[test]
fn an_agent_that_starts_while_the_peers_etcd_is_away_learns_all_of_the_peer() -> Result<()> {
    let odd = ["etcd", "export", "lead", "peer", "mesh API"];
    with_load(false, &odd, |lab, records| {
        lab.cluster("yavin")?.etcd().stop(Stop::Kill)?;
        lab.cluster("hoth")?.node("n1")?.agent().stop(Stop::Kill)?;
        lab.cluster("hoth")?.node("n1")?.agent().start()?;
        until_yavin_is(lab, "synced")?;
        lab.wait_backends(SERVICE, 2)?;
        lab.cluster("yavin")?.etcd().start()?;
        lab.wait_ready()?;
        lab.scale(SERVICE, 3)?;
        lab.wait_backends(SERVICE, 3)?;
        records.ensure_no_failure()
    })
}

#[test]
fn a_cluster_that_is_let_in_no_more_keeps_what_it_knows_until_it_is_again() -> Result<()> {
    with_load(false, &["peer", "mesh API"], |lab, records| {
        let hoths_file = lab.cluster("hoth")?.peer_file()?;
        lab.cluster("yavin")?.leave("hoth")?;
        until_yavin_is(lab, "disconnected")?;
        let reason = yavin_in_hoth(lab)?["reason"].clone();
        ensure!(reason.as_str().is_some_and(|reason| !reason.is_empty()), "{reason}");
        records.wait_answers(&["hoth", "yavin"])?;
        lab.cluster("yavin")?.join("hoth", &hoths_file)?;
        until_yavin_is(lab, "synced")?;
        lab.scale(SERVICE, 3)?;
        lab.wait_backends(SERVICE, 3)?;
        records.ensure_no_failure()
    })
}
