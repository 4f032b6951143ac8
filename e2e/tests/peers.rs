//! Peers come and go: by their files, by partitions, and by what they write.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_e2e::lab::Lab;
use mesh_e2e::lab::client::{Records, Summary};
use mesh_e2e::lab::component::Stop;
use mesh_e2e::wait;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);
const SERVICE: &str = "rebel-base";

fn with_load(odd: &[&str], work: impl FnOnce(&mut Lab, &Records) -> Result<()>) -> Result<()> {
    Lab::test_under_load(SERVICE, odd, work)
}

/// What hoth's agent says of its peer yavin, if it knows it.
fn yavin_in_hoth(lab: &mut Lab) -> Result<Value> {
    lab.cluster("hoth")?.nodes()[0].peer("yavin")
}

#[test]
fn vanished_peers_folder_drains_nobody() -> Result<()> {
    with_load(&["peer"], |lab, records| {
        let folder = lab.cluster("hoth")?.peers_folder().to_owned();
        let aside = folder.with_file_name("peers-aside");
        fs::rename(&folder, &aside)?;
        let seen = Summary::of(&records.next(200, PATIENCE)?);
        ensure!(seen.clusters() == ["hoth", "yavin"], "{seen:?}");
        // Also for an agent that starts without it.
        lab.cluster("hoth")?.node("n1")?.agent().stop(Stop::Kill)?;
        lab.cluster("hoth")?.node("n1")?.agent().start()?;
        let seen = Summary::of(&records.next(200, PATIENCE)?);
        ensure!(seen.clusters() == ["hoth", "yavin"], "{seen:?}");
        fs::rename(&aside, &folder)?;
        lab.wait_ready()?;
        lab.scale(SERVICE, 3)?;
        lab.wait_backends(SERVICE, 3)?;
        records.ensure_no_failure()
    })
}

#[test]
fn removed_peer_file_drains_that_peer_and_its_return_brings_it_back() -> Result<()> {
    with_load(&[], |lab, records| {
        lab.cluster("hoth")?.leave("yavin")?;
        records.wait_answers(&["hoth"])?;
        let file = lab.cluster("yavin")?.peer_file()?;
        lab.cluster("hoth")?.join("yavin", &file)?;
        records.wait_answers(&["hoth", "yavin"])?;
        records.ensure_no_failure()
    })
}

#[test]
fn peer_removed_while_the_agent_was_down_is_drained_at_its_start() -> Result<()> {
    with_load(&[], |lab, records| {
        lab.cluster("hoth")?.node("n1")?.agent().stop(Stop::Kill)?;
        lab.cluster("hoth")?.leave("yavin")?;
        let seen = Summary::of(&records.next(100, PATIENCE)?);
        ensure!(seen.clusters() == ["hoth", "yavin"], "{seen:?}");
        lab.cluster("hoth")?.node("n1")?.agent().start()?;
        records.wait_answers(&["hoth"])?;
        lab.wait_ready()?;
        records.ensure_no_failure()
    })
}

#[test]
fn partition_keeps_what_was_known_and_heals() -> Result<()> {
    with_load(&["peer", "etcd"], |lab, _| {
        lab.partition("hoth", "yavin")?;
        wait::until("hoth to notice the partition", Duration::from_secs(60), || {
            let state = yavin_in_hoth(lab)?["state"].clone();
            ensure!(state != "synced", "state {state}");
            Ok(())
        })?;
        lab.cluster("yavin")?.scale(SERVICE, 3)?;
        let backends = lab.cluster("hoth")?.nodes()[0].admin("backends")?;
        let of_yavin =
            backends["items"].as_array().context("no list")?.iter().filter(|item| item["cluster"] == "yavin");
        ensure!(of_yavin.count() == 2, "{backends}");
        lab.heal("hoth", "yavin")?;
        lab.cluster("hoth")?.scale(SERVICE, 3)?;
        wait::until("both to know each other's pods again", Duration::from_secs(60), || {
            lab.wait_backends(SERVICE, 3)
        })?;
        lab.settle_as_fresh()
    })
}

#[test]
fn bad_record_is_counted_and_changes_nothing_else() -> Result<()> {
    with_load(&["record", "changed by somebody else"], |lab, records| {
        let dump = |lab: &mut Lab| lab.cluster("hoth")?.nodes()[0].dump();
        wait::until("what is in the maps to have names", PATIENCE, || {
            let named = dump(lab)?.contains(&format!("service default/{SERVICE}"));
            ensure!(named, "the names file comes with a beat");
            Ok(())
        })?;
        let before = dump(lab)?;
        let rejected = |peer: &Value| peer["rejected"].as_u64().unwrap_or_default();
        let until_now = rejected(&yavin_in_hoth(lab)?);
        let key = format!("clustermesh/v1/endpoints/yavin/default/{SERVICE}/by-hand");
        lab.cluster("yavin")?.etcdctl(&["put", &key, "{\"endpoints\": 7"])?;
        wait::until("the bad record to be counted", PATIENCE, || {
            let now = rejected(&yavin_in_hoth(lab)?);
            ensure!(now > until_now, "rejected {now}");
            Ok(())
        })?;
        let after = dump(lab)?;
        ensure!(before == after, "before:\n{before}\nafter:\n{after}");
        records.wait_answers(&["hoth", "yavin"])?;
        records.ensure_no_failure()
    })
}
