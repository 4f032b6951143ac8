//! Components die under load and come back: no connection fails, and afterwards everything is as if nothing had
//! ever died.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_e2e::lab::Lab;
use mesh_e2e::lab::client::{Records, Summary};
use mesh_e2e::lab::cluster::Cluster;
use mesh_e2e::lab::component::{Component, Stop};
use mesh_e2e::lab::manifest;

const PATIENCE: Duration = Duration::from_secs(20);
const SERVICE: &str = "rebel-base";

/// What everybody logs who notices that an etcd is gone.
const ETCD_GONE: &[&str] = &["etcd", "peer", "connect"];
/// What everybody logs who can't read a manifest.
const UNREADABLE: &[&str] = &["problem with a manifest"];

fn with_load(odd: &[&str], work: impl FnOnce(&mut Lab, &Records) -> Result<()>) -> Result<()> {
    Lab::test_under_load(SERVICE, odd, |lab, records| {
        let pins = lab.clusters()[0].nodes()[0].pins()?;
        work(lab, records)?;
        lab.settle_as_fresh()?;
        lab.end_clients()?;
        let all = Summary::of(&records.all());
        ensure!(all.failed() == 0 && all.clusters() == ["hoth", "yavin"], "{all:?}");
        let after = lab.clusters()[0].nodes()[0].pins()?;
        ensure!(after == pins, "pins were {pins:?}, are {after:?}");
        Ok(())
    })
}

/// Kills a component of both clusters, lets connections be made without it, and changes yavin's pods meanwhile
/// and afterwards.
fn kill_and_restart(
    lab: &mut Lab,
    records: &Records,
    pick: fn(&mut Cluster) -> &mut Component,
) -> Result<()> {
    for cluster in lab.clusters_mut() {
        pick(cluster).stop(Stop::Kill)?;
    }
    records.next(100, PATIENCE)?;
    lab.cluster("yavin")?.scale(SERVICE, 3)?;
    records.next(50, PATIENCE)?;
    for cluster in lab.clusters_mut() {
        pick(cluster).start()?;
    }
    lab.wait_ready()?;
    lab.cluster("hoth")?.scale(SERVICE, 3)?;
    lab.wait_backends(SERVICE, 3)?;
    records.next(50, PATIENCE)?;
    Ok(())
}

#[test]
fn agent_killed_under_load_loses_nothing() -> Result<()> {
    with_load(&[], |lab, records| {
        kill_and_restart(lab, records, |cluster| cluster.agents().next().expect("every cluster has a node"))
    })
}

#[test]
fn apiserver_killed_under_load_loses_nothing() -> Result<()> {
    with_load(&[], |lab, records| kill_and_restart(lab, records, Cluster::apiserver))
}

#[test]
fn etcd_killed_under_load_loses_nothing() -> Result<()> {
    with_load(ETCD_GONE, |lab, records| kill_and_restart(lab, records, Cluster::etcd))
}

#[test]
fn terminated_agent_leaves_its_maps_at_work() -> Result<()> {
    with_load(&[], |lab, records| {
        lab.stop_agents(Stop::Terminate)?;
        records.next(100, PATIENCE)?;
        lab.start_agents()
    })
}

#[test]
fn wiped_etcd_is_written_anew_and_nothing_is_drained() -> Result<()> {
    with_load(ETCD_GONE, |lab, records| {
        let yavin = lab.cluster("yavin")?;
        yavin.etcd().stop(Stop::Kill)?;
        yavin.wipe_etcd()?;
        yavin.etcd().start()?;
        records.next(100, PATIENCE)?;
        lab.scale(SERVICE, 3)?;
        lab.wait_backends(SERVICE, 3)
    })
}

/// In hoth the Service can't be read, in yavin its endpoints; not even a name stands in either file.
#[test]
fn all_of_both_clusters_restart_beside_broken_manifests_and_nobody_is_drained() -> Result<()> {
    const BROKEN: [(&str, &str); 2] = [("hoth", "service"), ("yavin", "endpoints")];
    with_load(UNREADABLE, |lab, records| {
        let mut whole = Vec::new();
        for (cluster, kind) in BROKEN {
            let (folder, file) =
                (lab.cluster(cluster)?.manifests().to_owned(), format!("{SERVICE}.{kind}.yaml"));
            whole.push(fs::read_to_string(folder.join(&file))?);
            manifest::write_text(&folder, &file, "kind: {")?;
        }
        for cluster in lab.clusters_mut() {
            cluster.apiserver().stop(Stop::Kill)?;
        }
        lab.stop_agents(Stop::Kill)?;
        records.next(50, PATIENCE)?;
        for cluster in lab.clusters_mut() {
            cluster.apiserver().start()?;
        }
        lab.start_agents()?;
        lab.wait_ready()?;
        records.next(200, PATIENCE)?;
        lab.wait_backends(SERVICE, 2)?;
        for ((cluster, kind), text) in BROKEN.iter().zip(whole) {
            let folder = lab.cluster(cluster)?.manifests().to_owned();
            manifest::write_text(&folder, &format!("{SERVICE}.{kind}.yaml"), &text)?;
        }
        lab.scale(SERVICE, 3)?;
        lab.wait_backends(SERVICE, 3)
    })
}
