//! Every process, every failure, under load: no connection fails, and afterwards everything is as if nothing had ever
//! happened. `MATRIX=full` runs all pairs of failures instead of a covering set.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_e2e::failure::holdings::Holdings;
use mesh_e2e::failure::{Failure, Round, inject, matrix, mend};
use mesh_e2e::lab::client::{LoadSpec, Records, Summary};
use mesh_e2e::lab::manifest::ServiceSpec;
use mesh_e2e::lab::{Lab, LabSpec};
use mesh_e2e::wait;
use mesh_kv::testing::Proxy;

const SERVICE: &str = "rebel-base";
const CLUSTERS: [&str; 2] = matrix::CLUSTERS;
/// Only to tell never from late: machines are busy.
const PATIENCE: Duration = Duration::from_secs(120);
/// So many that chance alone never leaves one of two clusters out.
const DIALLED: usize = 50;
/// What everybody may log who has to do with something that failed.
const ODD: &[&str] =
    &["etcd", "peer", "publishing", "condition no longer holds", "source", "manifest", "names file"];

/// A lab whose x-wings dial all the while, in both clusters.
struct UnderLoad<'a> {
    lab: &'a mut Lab,
    records: [Records; 2],
}

fn under_load(spec: &LabSpec, work: impl FnOnce(&mut UnderLoad<'_>) -> Result<()>) -> Result<()> {
    Lab::test(spec, ODD, |lab| {
        lab.apply(&ServiceSpec::global(SERVICE, 2))?;
        let mut records = Vec::new();
        for cluster in CLUSTERS {
            let target = lab.cluster(cluster)?.dial_address(SERVICE)?;
            let load = LoadSpec { per_second: 50, timeout: Duration::from_secs(10), ..LoadSpec::to(target) };
            records.push(lab.client(cluster, 0, "x-wing", &load)?);
        }
        let records = records.try_into().ok().context("two clusters")?;
        let mut under_load = UnderLoad { lab, records };
        under_load.dialled(DIALLED)?;
        work(&mut under_load)?;
        under_load.lab.end_clients()?;
        under_load.no_failures()
    })
}

impl UnderLoad<'_> {
    /// Waits for so many more connections of each client, answered by both clusters.
    fn dialled(&self, count: usize) -> Result<()> {
        let now = wait::unix_us();
        for records in &self.records {
            let seen = Summary::of(&records.begun_since(now, count, PATIENCE)?);
            ensure!(seen.clusters() == CLUSTERS, "{seen:?}");
        }
        Ok(())
    }

    fn no_failures(&self) -> Result<()> {
        for (records, cluster) in self.records.iter().zip(CLUSTERS) {
            let all = Summary::of(&records.all());
            ensure!(all.failed() == 0, "the x-wing of {cluster} saw {all:?}");
        }
        Ok(())
    }

    fn backends(&mut self, per_cluster: usize) -> Result<()> {
        wait::until("all agents to know all backends", PATIENCE, || {
            self.lab.wait_backends(SERVICE, per_cluster)
        })
    }

    fn scale(&mut self, replicas: usize) -> Result<()> {
        self.lab.scale(SERVICE, replicas)
    }

    /// The endpoints go, the processes stay until [`UnderLoad::scale`]: an agent that is dead can't know better.
    fn retire(&mut self, remaining: usize) -> Result<()> {
        CLUSTERS
            .iter()
            .try_for_each(|cluster| self.lab.cluster(cluster)?.retire(SERVICE, remaining).map(drop))
    }

    fn settled(&mut self) -> Result<()> {
        for cluster in self.lab.clusters_mut() {
            cluster.wait_ready(PATIENCE)?;
            wait::until("one leader", PATIENCE, || cluster.leader())?;
        }
        Ok(())
    }
}

/// What changes while a fault stands: pods come or go, in both clusters, between two and three.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    More,
    Fewer,
}

/// Faults happen, pods change, connections go on; then all is mended, and as if nothing had happened.
fn weather(under_load: &mut UnderLoad<'_>, round: &Round, change: Change, at_first: &Holdings) -> Result<()> {
    let injected = inject(under_load.lab, round)?;
    match change {
        Change::More => under_load.scale(3)?,
        Change::Fewer => under_load.retire(2)?,
    }
    // A full disk is felt with the next writes only.
    under_load.dialled(if round.has(Failure::FullDisk) { 200 } else { DIALLED })?;
    mend(under_load.lab, injected)?;
    under_load.settled()?;
    under_load.backends(if change == Change::More { 3 } else { 2 })?;
    if change == Change::Fewer {
        under_load.scale(2)?;
        under_load.backends(2)?;
    }
    under_load.lab.settle_as_fresh()?;
    if change == Change::Fewer {
        wait::until("nothing to be leaked", PATIENCE, || {
            Holdings::of(under_load.lab)?.ensure_like(at_first)
        })?;
    }
    under_load.dialled(DIALLED)?;
    under_load.no_failures()
}

fn run(rounds: &[Round]) -> Result<()> {
    let spec = LabSpec { standby: true, disks: true, ..LabSpec::small() };
    under_load(&spec, |under_load| {
        under_load.settled()?;
        let at_first = Holdings::of(under_load.lab)?;
        let changes = [Change::More, Change::Fewer].into_iter().cycle();
        for (number, (round, change)) in rounds.iter().zip(changes).enumerate() {
            let start = Instant::now();
            weather(under_load, round, change, &at_first)
                .with_context(|| format!("round {} of {}: {round}", number + 1, rounds.len()))?;
            println!("round {} of {}: {round}: {:.1?}", number + 1, rounds.len(), start.elapsed());
        }
        Ok(())
    })
}

#[test]
fn every_failure_of_every_process_loses_nothing() -> Result<()> {
    run(&matrix::singles())
}

#[test]
fn failures_in_pairs_lose_nothing() -> Result<()> {
    let full = std::env::var("MATRIX").is_ok_and(|matrix| matrix == "full");
    run(&if full { matrix::all_pairs() } else { matrix::covering_pairs() })
}

/// Waits until neither cluster's agents are in touch with the other's etcd.
fn both_out_of_touch(lab: &mut Lab) -> Result<()> {
    for cluster in CLUSTERS {
        wait::until(&format!("{cluster} to notice"), PATIENCE, || {
            let peers = lab.cluster(cluster)?.nodes()[0].admin("peers")?;
            let states: Vec<_> = peers["items"].as_array().context("no list")?.iter().collect();
            ensure!(states.iter().all(|peer| peer["state"] != "synced"), "{peers}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_partition_of_the_control_path_is_survived_and_made_up_for() -> Result<()> {
    under_load(&LabSpec::small(), |under_load| {
        under_load.lab.partition_control("hoth", "yavin")?;
        both_out_of_touch(under_load.lab)?;
        under_load.scale(3)?;
        under_load.dialled(100)?;
        under_load.lab.heal_control("hoth", "yavin")?;
        under_load.backends(3)?;
        under_load.lab.settle_as_fresh()
    })
}

#[test]
fn a_history_compacted_behind_a_watch_is_listed_anew() -> Result<()> {
    under_load(&LabSpec::small(), |under_load| {
        under_load.lab.partition_control("hoth", "yavin")?;
        both_out_of_touch(under_load.lab)?;
        under_load.scale(3)?;
        under_load.retire(2)?;
        for cluster in under_load.lab.clusters_mut() {
            // The alive record's own revision lies behind everything that the peers have seen.
            let alive = format!("clustermesh/v1/alive/{}", cluster.name());
            let fields = cluster.etcdctl(&["get", &alive, "-w", "fields"])?;
            let revision = fields.lines().find_map(|line| line.strip_prefix("\"ModRevision\" : "));
            cluster.etcdctl(&["compact", revision.context("no alive record")?])?;
        }
        under_load.dialled(DIALLED)?;
        under_load.lab.heal_control("hoth", "yavin")?;
        under_load.backends(2)?;
        under_load.scale(2)?;
        under_load.backends(2)?;
        under_load.lab.settle_as_fresh()
    })
}

#[test]
fn an_etcd_that_takes_seconds_to_answer_is_followed_late() -> Result<()> {
    under_load(&LabSpec::small(), |under_load| {
        let paths = slow_paths(under_load.lab)?;
        under_load.settled()?;
        under_load.scale(3)?;
        under_load.backends(3)?;
        paths.iter().for_each(|path| path.delay(Duration::from_secs(2)));
        under_load.retire(2)?;
        under_load.dialled(100)?;
        under_load.backends(2)?;
        paths.iter().for_each(|path| path.delay(Duration::ZERO));
        under_load.scale(2)?;
        under_load.settled()?;
        under_load.backends(2)?;
        under_load.lab.settle_as_fresh()
    })
}

/// Puts a path between each etcd and everybody who uses it.
fn slow_paths(lab: &mut Lab) -> Result<Vec<Proxy>> {
    const PORT: u16 = 2390;
    let mut paths = Vec::new();
    for cluster in lab.clusters_mut() {
        let path = cluster.control().enter(|| {
            let etcd = "http://127.0.0.1:2379".parse().context("etcd's endpoint")?;
            Ok(Proxy::listen(([0, 0, 0, 0], PORT).into(), &etcd))
        })?;
        paths.push(path);
        let apiserver = cluster.apiserver();
        apiserver.stop(mesh_e2e::lab::component::Stop::Terminate)?;
        apiserver.launch_mut().args.retain(|arg| !arg.starts_with("--etcd-endpoint="));
        apiserver.launch_mut().args.push(format!("--etcd-endpoint=http://127.0.0.1:{PORT}"));
        apiserver.start()?;
    }
    let file =
        |cluster: &mesh_e2e::lab::cluster::Cluster| Ok((cluster.name().to_owned(), cluster.peer_file()?));
    let files = lab.clusters().iter().map(file).collect::<Result<Vec<_>>>()?;
    for cluster in lab.clusters() {
        for (peer, file) in files.iter().filter(|(peer, _)| peer != cluster.name()) {
            let mut file = file.clone();
            let endpoint = file["endpoints"][0].as_str().context("a peer file has an endpoint")?;
            file["endpoints"][0] = endpoint.replace(":2379", &format!(":{PORT}")).into();
            cluster.join(peer, &file)?;
        }
    }
    Ok(paths)
}
