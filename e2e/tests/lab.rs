//! The lab itself, without the mesh: what its network lets through, and that nothing of it remains.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_e2e::lab::client::{LoadSpec, Summary};
use mesh_e2e::lab::component::Stop;
use mesh_e2e::lab::manifest::{ServiceSpec, TARGET_PORT};
use mesh_e2e::lab::{Lab, LabSpec, cgroup, http, lab_dir};
use mesh_e2e::wait;

const PATIENCE: Duration = Duration::from_secs(10);

fn network() -> Result<Lab> {
    Lab::start(&LabSpec { mesh: false, ..LabSpec::new(&["hoth", "yavin"]) })
}

/// What a client in hoth sees of ten connections to `target`.
fn dial(lab: &mut Lab, name: &str, target: SocketAddr) -> Result<Summary> {
    let seen = lab.client("hoth", 0, name, &LoadSpec::to(target))?.next(10, PATIENCE)?;
    lab.end_clients()?;
    Ok(Summary::of(&seen))
}

fn first_pod(lab: &mut Lab, cluster: &str) -> Result<[SocketAddr; 2]> {
    let pods = lab.cluster(cluster)?.pods("rebel-base")?;
    let addresses = pods.first().context("no pod")?.addresses();
    Ok(addresses.map(|address: IpAddr| SocketAddr::new(address, TARGET_PORT)))
}

#[test]
fn pods_reach_pods_of_both_clusters_and_families_and_nothing_else() -> Result<()> {
    let mut lab = network()?;
    for cluster in ["hoth", "yavin"] {
        lab.cluster(cluster)?.apply(&ServiceSpec::global("rebel-base", 2).dual_stack())?;
        for (family, target) in first_pod(&mut lab, cluster)?.into_iter().enumerate() {
            let seen = dial(&mut lab, &format!("to-{cluster}-{family}"), target)?;
            assert_eq!(seen.clusters(), [cluster], "{target}: {seen:?}");
            assert_eq!(seen.failed(), 0, "{target}: {seen:?}");
        }
    }
    for (family, address) in lab.cluster("hoth")?.cluster_ip("rebel-base")?.into_iter().enumerate() {
        let seen = dial(&mut lab, &format!("to-nowhere-{family}"), SocketAddr::new(address, 80))?;
        assert!(seen.answers.is_empty(), "{seen:?}");
        assert_eq!(seen.errors.keys().copied().collect::<Vec<_>>(), ["unreachable"]);
    }
    lab.check()
}

#[test]
fn partition_swallows_packets_until_it_heals() -> Result<()> {
    let mut lab = network()?;
    lab.cluster("yavin")?.apply(&ServiceSpec::global("rebel-base", 1))?;
    let [target, _] = first_pod(&mut lab, "yavin")?;
    lab.partition("hoth", "yavin")?;
    let cut = dial(&mut lab, "while-cut", target)?;
    assert_eq!(cut.errors.keys().copied().collect::<Vec<_>>(), ["timeout"], "{cut:?}");
    lab.heal("hoth", "yavin")?;
    let healed = dial(&mut lab, "when-healed", target)?;
    assert_eq!((healed.clusters(), healed.failed()), (vec!["yavin"], 0));
    Ok(())
}

#[test]
fn killed_pods_refuse_and_powered_off_nodes_are_silent() -> Result<()> {
    let mut lab = network()?;
    lab.cluster("yavin")?.apply(&ServiceSpec::global("rebel-base", 2))?;
    let [target, _] = first_pod(&mut lab, "yavin")?;
    lab.cluster("yavin")?.kill_pods("rebel-base")?;
    let killed = dial(&mut lab, "after-kill", target)?;
    assert_eq!(killed.errors.keys().copied().collect::<Vec<_>>(), ["refused"], "{killed:?}");
    lab.cluster("yavin")?.power_off()?;
    let dark = dial(&mut lab, "after-power-off", target)?;
    assert!(dark.answers.is_empty() && !dark.errors.contains_key("refused"), "{dark:?}");
    lab.check()
}

#[test]
fn graceful_end_answers_everybody_who_came_in_time() -> Result<()> {
    let mut lab = network()?;
    lab.cluster("yavin")?.apply(&ServiceSpec::global("rebel-base", 1))?;
    let [target, _] = first_pod(&mut lab, "yavin")?;
    let records = lab.client("hoth", 1, "x-wing", &LoadSpec::to(target))?;
    records.next(10, PATIENCE)?;
    let change = lab.cluster("yavin")?.scale("rebel-base", 0)?;
    lab.end_clients()?;
    let all = records.all();
    // A second after the change the server still lingers; whoever came until then must have been answered.
    let in_time = all.iter().filter(|record| record.start_unix_us < change.renamed_unix_us + 1_000_000);
    let seen = Summary::of(in_time);
    assert_eq!((seen.clusters(), seen.failed()), (vec!["yavin"], 0), "{seen:?}");
    Ok(())
}

#[test]
fn etcd_is_reached_across_the_wan_and_keeps_its_data_over_a_kill() -> Result<()> {
    let mut lab = network()?;
    let yavin = lab.cluster("yavin")?;
    let endpoint = SocketAddr::new(yavin.plan().control()[0], 2379);
    for _ in 0..2 {
        yavin.etcd().start()?;
        wait::until("etcd to answer", PATIENCE, || yavin.etcd_ready())?;
        yavin.etcdctl(&["put", "falcon", "millennium"])?;
        yavin.etcd().stop(Stop::Kill)?;
    }
    yavin.etcd().start()?;
    wait::until("etcd to answer", PATIENCE, || yavin.etcd_ready())?;
    assert_eq!(yavin.etcdctl(&["get", "falcon", "--print-value-only"])?, "millennium\n");
    let from_hoth = lab.cluster("hoth")?.nodes()[0].netns();
    from_hoth.enter(move || http::fetch(&http::Door::Tcp(endpoint), "/health").map(drop))
}

#[test]
fn nothing_remains_of_a_dropped_lab() -> Result<()> {
    let mut lab = network()?;
    lab.cluster("hoth")?.apply(&ServiceSpec::global("rebel-base", 2))?;
    let id = lab.lab_dir().id().to_owned();
    ensure!(!traces(&id)?.is_empty(), "a running lab leaves no trace: the test looks in the wrong places");
    drop(lab);
    assert_eq!(traces(&id)?, Vec::<String>::new());
    Ok(())
}

/// Everything on the machine that carries a lab's id.
fn traces(id: &str) -> Result<Vec<String>> {
    let mut traces = Vec::new();
    for folder in
        [Path::new("/run/netns").to_owned(), lab_dir::all_labs(), cgroup::all_labs().context("no cgroup v2")?]
    {
        let entries = fs::read_dir(&folder).into_iter().flatten();
        let names = entries.filter_map(|entry| Some(entry.ok()?.path().display().to_string()));
        traces.extend(names.filter(|path| path.contains(id)));
    }
    let mounts = fs::read_to_string("/proc/mounts")?;
    traces.extend(mounts.lines().filter(|line| line.contains(id)).map(str::to_owned));
    for process in fs::read_dir("/proc")? {
        let line = fs::read(process?.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        traces.extend(Some(line).filter(|line| line.contains(id)));
    }
    Ok(traces)
}

mod owner {
    use super::*;
    use std::process::{Child, Command, Stdio};

    /// A process that owns a lab and waits.
    fn start() -> Result<(Child, String)> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_lab")).arg("hold").stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().context("no stdout")?;
        let mut id = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut id)?;
        Ok((child, id.trim().to_owned()))
    }

    #[test]
    fn a_signal_ends_the_lab_with_its_owner() -> Result<()> {
        let (mut child, id) = start()?;
        ensure!(!traces(&id)?.is_empty(), "no lab {id:?}");
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT)?;
        assert_eq!(child.wait()?.code(), Some(130));
        assert_eq!(traces(&id)?, Vec::<String>::new());
        Ok(())
    }

    #[test]
    fn processes_die_with_a_killed_owner_and_clean_removes_the_rest() -> Result<()> {
        let (mut child, id) = start()?;
        child.kill()?;
        child.wait()?;
        let tree = cgroup::Cgroup::of_lab(&id)?;
        wait::until("the processes to die", PATIENCE, || {
            let events = fs::read_to_string(tree.path().join("cgroup.events"))?;
            ensure!(events.contains("populated 0"), "{events}");
            Ok(())
        })?;
        ensure!(lab_dir::clean()?.contains(&id), "lab {id} was not cleaned");
        assert_eq!(traces(&id)?, Vec::<String>::new());
        Ok(())
    }
}
