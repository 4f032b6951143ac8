//! Clusters that become one mesh, and part again, by the command line alone.

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_e2e::lab::client::Records;
use mesh_e2e::lab::manifest::ServiceSpec;
use mesh_e2e::lab::{Lab, LabSpec};

const SERVICE: &str = "rebel-base";
/// What an operator waits for without looking elsewhere.
const JOINED_WITHIN: Duration = Duration::from_secs(10);

/// Two clusters that don't know each other, with a service of two pods each, which a client in hoth dials.
fn with_strangers(odd: &[&str], work: impl FnOnce(&mut Lab, &Records) -> Result<()>) -> Result<()> {
    let spec = LabSpec { mesh_api: true, joined: false, ..LabSpec::small() };
    Lab::test(&spec, odd, |lab| {
        for cluster in lab.clusters_mut() {
            cluster.apply(&ServiceSpec::global(SERVICE, 2))?;
        }
        lab.wait_own_backends(SERVICE, 2)?;
        let records = lab.dial("hoth", 0, "x-wing", SERVICE)?;
        records.wait_answers(&["hoth"])?;
        work(lab, &records)
    })
}

fn words(line: &[&str], sockets: Vec<String>) -> Vec<String> {
    line.iter().map(|word| (*word).to_owned()).chain(sockets).collect()
}

#[test]
fn a_command_makes_two_clusters_one_and_another_parts_them() -> Result<()> {
    with_strangers(&["mesh API", "peer"], |lab, records| {
        let begun = std::time::Instant::now();
        let said = lab.join()?;
        ensure!(said.contains("hoth: 1 of 1 nodes know yavin"), "{said}");
        records.wait_answers(&["hoth", "yavin"])?;
        ensure!(begun.elapsed() < JOINED_WITHIN, "it took {:?}", begun.elapsed());

        let said = lab.join()?;
        ensure!(
            said.contains("knows the peer yavin already"),
            "a second time there is nothing to do: {said}"
        );
        let status = lab.clustermesh(&words(&["status", "--wait"], lab.sockets()))?;
        ensure!(!status.contains("WRONG"), "{status}");

        lab.clustermesh(&words(&["leave", "yavin", "--yes"], lab.sockets()))?;
        lab.wait_own_backends(SERVICE, 2)?;
        lab.wait_backends_of("hoth", SERVICE, &[("hoth", 2), ("yavin", 0)])?;
        records.ensure_no_failure()
    })
}

#[test]
fn clusters_that_do_not_reach_each_other_are_told_so_and_left_alone() -> Result<()> {
    with_strangers(&["mesh API", "peer"], |lab, records| {
        lab.partition("hoth", "yavin")?;
        let said = format!("{:#}", lab.join().expect_err("packets vanish between them"));
        for part in
            ["hoth does not reach the mesh API of yavin", "yavin does not reach", "nothing was changed"]
        {
            ensure!(said.contains(part), "{part:?} is not in: {said}");
        }
        lab.heal("hoth", "yavin")?;
        lab.join()?;
        records.wait_answers(&["hoth", "yavin"])?;
        records.ensure_no_failure()
    })
}
