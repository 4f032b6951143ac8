//! Clusters of the Kubernetes lab join and part again by `clustermesh`, under load from pods of both: as a user does who has both
//! clusters' contexts.
//!
//! Run by `make test-kube`, which brings the lab up and takes it down.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_e2e::kube::KubeCluster;
use mesh_e2e::kube::chart::{Chart, NAMESPACE};
use mesh_e2e::kube::testing::Fixture;
use mesh_e2e::kube::testing::callers::{self, Callers};
use mesh_e2e::lab::process::program;
use mesh_e2e::wait::unix_us;
use serde_json::Value;

/// Where the tests' Services and pods are.
const PLAYGROUND: &str = "joining";
const SERVICE: &str = "rebel-base";
/// From the command to a connection across, in both directions. On an idle machine it takes a few seconds.
const SOON: Duration = Duration::from_secs(30);

/// Two clusters, each of which knows nobody yet, and callers of both.
struct Strangers<'a> {
    clusters: [&'a KubeCluster; 2],
    callers: [Callers; 2],
}

impl<'a> Strangers<'a> {
    fn meet(fixture: &'a Fixture, chart: &Chart) -> Result<Self> {
        let clusters = fixture.pair()?;
        for cluster in clusters {
            chart.uninstall(cluster.name())?;
        }
        chart.install_without_peers()?;
        let callers = callers::of_a_global_service(clusters, PLAYGROUND, SERVICE)?;
        let mut strangers = Self { clusters, callers };
        strangers.are_alone()?;
        Ok(strangers)
    }

    fn are_alone(&mut self) -> Result<()> {
        for (cluster, callers) in self.clusters.iter().zip(&mut self.callers) {
            callers.wait_answers(SERVICE, &[cluster.name()])?;
        }
        Ok(())
    }

    /// Says how long it was from then to a connection across in both directions.
    fn have_met(&mut self, begin: u64) -> Result<Duration> {
        let mut last = begin;
        for callers in &mut self.callers {
            last = last.max(callers.wait_first_answers(begin, SERVICE, &["hoth", "yavin"])?);
        }
        Ok(Duration::from_micros(last - begin))
    }

    fn lost_no_call_since(&mut self, begin: u64) -> Result<()> {
        self.callers.iter_mut().try_for_each(|callers| callers.since(begin, SERVICE)?.expect_answers(50))
    }

    fn part(self, chart: &Chart) -> Result<()> {
        for cluster in self.clusters {
            chart.uninstall(cluster.name())?;
            cluster.context().kubectl(&["delete", "namespace", PLAYGROUND, NAMESPACE])?;
        }
        Ok(())
    }
}

/// Runs the command line of a user who has a kubeconfig with these clusters.
fn clustermesh(clusters: &[&KubeCluster], args: &[&str]) -> Result<String> {
    let mut command = Command::new(program("clustermesh")?);
    command.args(args).arg("--kubeconfig").arg(clusters[0].context().kubeconfig);
    command.args(clusters.iter().flat_map(|cluster| ["--context", cluster.name()]));
    let output = command.output().context("starting clustermesh")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "clustermesh {}: {said}{complaint}", args.join(" "));
    Ok(said)
}

#[test]
#[ignore = "needs the Kubernetes lab: make test-kube"]
fn clusters_join_and_leave_by_one_command() -> Result<()> {
    let fixture = Fixture::enter()?;
    let chart = Chart::of_lab(fixture.lab())?;
    let mut strangers = Strangers::meet(&fixture, &chart)?;
    let both = strangers.clusters;

    let begin = unix_us();
    println!("{}", clustermesh(&both, &["join", "--yes"])?);
    let told = Duration::from_micros(unix_us() - begin);
    let met = strangers.have_met(begin)?;
    println!("join: {met:.1?} from the command to connections across; it ended after {told:.1?}");
    ensure!(met < SOON, "connections went across only after {met:?}");
    println!("{}", clustermesh(&both, &["status", "--wait", "--timeout=30s"])?);
    clustermesh(&both, &["join", "--yes"]).context("once more")?;

    clustermesh(&both, &["leave", "yavin", "--yes"])?;
    strangers.are_alone()?;
    strangers.lost_no_call_since(begin)?;
    join_by_an_invite(&mut strangers, &chart)?;
    strangers.part(&chart)
}

/// Nobody needs a right in the other's cluster.
fn join_by_an_invite(strangers: &mut Strangers<'_>, chart: &Chart) -> Result<()> {
    let ([hoth, yavin], begin) = (strangers.clusters, unix_us());
    chart.take_invites()?;
    let [name, id, pods, nodes] = chart.invitation_of("hoth")?;
    let invite = ["invite", &name, &id, &pods, &nodes, "-o", "json"];
    let issued: Value = serde_json::from_str(&clustermesh(&[yavin], &invite)?)?;
    let token = issued["token"].as_str().context("no token")?;

    let taken = unix_us();
    println!("{}", clustermesh(&[hoth], &["join", "--invite", token, "--yes"])?);
    let met = strangers.have_met(taken)?;
    println!("join --invite: {met:.1?} from the command to connections across");
    ensure!(met < SOON, "connections went across only after {met:?}");
    for cluster in [hoth, yavin] {
        clustermesh(&[cluster], &["status", "--wait", "--timeout=30s"])?;
    }
    let invites = clustermesh(&[yavin], &["invite", "list"])?;
    ensure!(invites.contains("used"), "{invites}");
    clustermesh(&[hoth], &["join", "--invite", token, "--yes"]).context("the same token again")?;
    strangers.lost_no_call_since(begin)
}
