//! A mesh of the version before, whose peers read etcd directly with certificates of a script, becomes one of this version by the
//! steps of docs/install.md: one cluster, then the other, under load from pods of both. The version before is what it was: its own
//! programs, chart and certificates, built by `e2e/kube/before.sh`.
//!
//! The clusters differ in nothing but their names, so that one order stands for both: in between, agents of each version read
//! from the other one.
//!
//! Run by `make test-kube`, which brings the lab up and takes it down.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use mesh_e2e::kube::KubeCluster;
use mesh_e2e::kube::before::Before;
use mesh_e2e::kube::chart::{Chart, NAMESPACE};
use mesh_e2e::kube::testing::callers::{self, Callers};
use mesh_e2e::kube::testing::{Fixture, PATIENCE, objects};
use mesh_e2e::wait::{self, unix_us};

/// Where the tests' Services and pods are.
const PLAYGROUND: &str = "upgrade";
const SERVICE: &str = "rebel-base";
const BOTH: [&str; 2] = ["hoth", "yavin"];

struct Scene<'a> {
    clusters: [&'a KubeCluster; 2],
    callers: [Callers; 2],
    begin: u64,
}

impl<'a> Scene<'a> {
    fn set(clusters: [&'a KubeCluster; 2]) -> Result<Self> {
        let mut callers = callers::of_a_global_service(clusters, PLAYGROUND, SERVICE)?;
        let mut begin = 0;
        for callers in &mut callers {
            begin = begin.max(callers.wait_answers(SERVICE, &BOTH)?);
        }
        Ok(Self { clusters, callers, begin })
    }

    /// No call has failed, and what changes in either cluster is known in both: new pods answer, and no others.
    fn is_well(&mut self, when: &str) -> Result<()> {
        let mut gone = BTreeSet::new();
        for callers in &mut self.callers {
            gone.extend(callers.since(self.begin, SERVICE)?.answers);
        }
        for cluster in self.clusters {
            let restart = ["-n", PLAYGROUND, "rollout", "restart", &format!("deployment/{SERVICE}")];
            cluster.context().kubectl(&restart)?;
        }
        for cluster in self.clusters {
            objects::rolled_out(&cluster.context(), PLAYGROUND, &format!("deployment/{SERVICE}"))?;
        }
        for callers in &mut self.callers {
            let mut since = unix_us();
            wait::until(&format!("answers of new pods {when}"), PATIENCE, || {
                let seen = callers.since(since, SERVICE)?;
                if !seen.answers.is_disjoint(&gone) {
                    since = unix_us();
                }
                ensure!(seen.answers.is_disjoint(&gone), "{:?} are gone", seen.answers);
                seen.expect(&BOTH, 50)
            })?;
        }
        self.lost_no_call(when)
    }

    fn lost_no_call(&mut self, when: &str) -> Result<()> {
        for (cluster, callers) in self.clusters.iter().zip(&mut self.callers) {
            let seen = callers.since(self.begin, SERVICE)?;
            println!("{when}: {} calls of {}, {} failed", seen.calls, cluster.name(), seen.failures.len());
            seen.expect_answers(100).with_context(|| when.to_owned())?;
        }
        Ok(())
    }
}

#[test]
#[ignore = "needs the Kubernetes lab: make test-kube"]
fn a_mesh_whose_peers_read_etcd_is_upgraded_without_a_failed_call() -> Result<()> {
    let fixture = Fixture::enter()?;
    let chart = Chart::of_lab(fixture.lab())?;
    let clusters = fixture.pair()?;
    for cluster in clusters {
        chart.uninstall(cluster.name())?;
        let namespace = ["delete", "namespace", NAMESPACE, "--ignore-not-found"];
        cluster.context().kubectl(&namespace)?;
    }
    let before = Before::on(fixture.lab())?;
    before.install(&chart)?;
    let mut scene = Scene::set(clusters)?;
    scene.is_well("before")?;
    before.upgrade(&chart, "hoth")?;
    scene.is_well("with hoth upgraded")?;
    before.upgrade(&chart, "yavin")?;
    scene.is_well("with both upgraded")?;
    for cluster in clusters {
        chart.uninstall(cluster.name())?;
        cluster.context().kubectl(&["delete", "namespace", PLAYGROUND, NAMESPACE])?;
    }
    Ok(())
}
