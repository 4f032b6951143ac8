//! Real processes on a real etcd: the leader dies or freezes, etcd's history says who wrote what; and etcd runs out of
//! space.
#![allow(clippy::unwrap_used, clippy::panic)]

mod binaries;

use std::fs;

use binaries::{Apiserver, DEADLINE, Lab, base, service, slice};
use mesh_kv::testing::{Etcd, Past, wait_until};

const ALIVE: &str = "clustermesh/v1/alive/hoth";
const LEADER: &str = "clustermesh/leader/hoth";

fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn history(etcd: &Etcd, from: i64) -> Vec<Past> {
    wait(etcd.history(from))
}

/// The distinct epochs of the alive records, in order of appearance.
fn epochs(past: &[Past]) -> Vec<String> {
    let alive = past.iter().filter(|change| change.key == ALIVE).map(Past::text);
    let mut all: Vec<String> = alive.map(|text| text.split(',').next().unwrap().to_owned()).collect();
    all.dedup();
    all
}

fn assert_no_record_was_deleted(past: &[Past]) {
    let records = past.iter().filter(|change| change.key.starts_with(binaries::PREFIX));
    let deleted: Vec<&Past> = records.filter(|change| change.value.is_none()).collect();
    assert!(deleted.is_empty(), "{deleted:?}");
}

/// A leader and a standby, on folders of their own that say the same.
fn two(lab: &Lab) -> (Apiserver, Apiserver) {
    lab.write("base.yaml", &base(&["10.2.0.1"]));
    let first = Apiserver::start(lab);
    first.until_ready();
    let other = lab.root.join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("base.yaml"), base(&["10.2.0.1"])).unwrap();
    let (source, endpoint) = (format!("manifests:{}", other.display()), lab.etcd.endpoint().to_string());
    let mut second = Apiserver::start_with(lab, &["--source", &source, "--etcd-endpoint", &endpoint]);
    second.line("standing by");
    second.until_ready();
    (first, second)
}

#[test]
fn a_killed_leaders_records_stand_while_the_standby_takes_over() {
    let lab = Lab::new();
    let (first, mut second) = two(&lab);
    let before = lab.stands();
    first.kill();
    second.line("leading");
    lab.beats(2);
    let past = history(&lab.etcd, 1);
    assert_no_record_was_deleted(&past);
    assert_eq!(epochs(&past).len(), 2, "{:?}", epochs(&past));
    assert_eq!(lab.stands(), before, "what stood as it should was written again");
    assert_eq!(second.stop(), Vec::<String>::new());
}

#[test]
fn a_leader_that_froze_and_runs_again_after_its_replacement_writes_nothing() {
    let lab = Lab::new();
    let (mut first, mut second) = two(&lab);
    first.signal("STOP");
    // While it is frozen there is something new for it to write.
    lab.write(
        "base.yaml",
        &(base(&["10.2.0.9"]) + &service("late", "10.102.0.9") + &slice("late", "x", &["10.2.0.9"])),
    );
    second.line("leading");
    lab.beats(2);
    first.signal("CONT");
    first.line("standing by");
    // So that anything that was still on its way has arrived.
    lab.beats(2);
    let past = history(&lab.etcd, 1);
    let takeover = past.iter().rposition(|change| change.key == LEADER && change.value.is_some()).unwrap();
    let after = &past[takeover..];
    assert_eq!(epochs(&past).len(), 2, "the frozen one wrote again: {:?}", epochs(&past));
    assert_eq!(epochs(after).len(), 1, "both wrote after the takeover: {:?}", epochs(after));
    let foreign: Vec<&Past> = after.iter().filter(|change| change.text().contains("10.2.0.9")).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    assert_no_record_was_deleted(&past);
}

#[test]
fn the_leader_compacts_the_history_but_keeps_the_last_interval() {
    let lab = Lab::new();
    lab.write("base.yaml", &base(&["10.2.0.1"]));
    let endpoint = lab.etcd.endpoint().to_string();
    let more = ["--etcd-endpoint", &endpoint, "--compact-every-seconds", "1"];
    let apiserver = Apiserver::start_with(&lab, &more);
    apiserver.until_ready();
    let is_compacted = |revision: i64| {
        let revision = revision.to_string();
        lab.etcd.try_ctl(&["get", "--rev", &revision, ALIVE]).is_err()
    };
    let now = wait(lab.etcd.revision());
    assert!(!is_compacted(now), "what is new must be there to resume from");
    wait_until("compacted", DEADLINE, || is_compacted(now - 1));
    assert_eq!(apiserver.stop(), Vec::<String>::new());
}

/// A database of 4 MiB, filled to the brim by somebody else.
fn fill(etcd: &Etcd) {
    let value = "x".repeat(100_000);
    for number in 0..200 {
        if etcd.try_ctl(&["put", &format!("others/{number}"), &value]).is_err() {
            return;
        }
    }
    panic!("the quota is not used up by 20 MB");
}

/// Returns the revision from which on there is a history.
fn make_room(etcd: &Etcd) -> i64 {
    etcd.ctl(&["del", "--prefix", "others/"]);
    let revision = wait(etcd.revision());
    etcd.ctl(&["compact", &revision.to_string()]);
    etcd.ctl(&["defrag"]);
    etcd.ctl(&["alarm", "disarm"]);
    revision
}

#[test]
fn an_etcd_without_space_is_shown_once_and_gets_what_it_missed_once_it_has_some() {
    let lab = Lab::with_etcd(&["--quota-backend-bytes", "4194304"]);
    lab.write("base.yaml", &base(&["10.2.0.1"]));
    let mut apiserver = Apiserver::start(&lab);
    apiserver.until_ready();
    fill(&lab.etcd);
    let alarm = "clustermesh_etcd_alarms{alarm=\"nospace\"} ";
    wait_until("the alarm", DEADLINE, || apiserver.http("/metrics").contains(&format!("{alarm}1")));
    apiserver.line("etcd has raised an alarm");
    wait_until("not ready", DEADLINE, || apiserver.http("/readyz").contains("NOSPACE"));
    lab.write("base.yaml", &base(&["10.2.0.2"]));
    let failed = "clustermesh_export_failures_total{reason=\"no_space\"} ";
    wait_until("refused", DEADLINE, || !apiserver.http("/metrics").contains(&format!("{failed}0")));
    assert!(lab.base_slice().contains("10.2.0.1"));
    let compacted = make_room(&lab.etcd);
    wait_until("written", DEADLINE, || lab.base_slice().contains("10.2.0.2"));
    wait_until("the alarm's end", DEADLINE, || apiserver.http("/metrics").contains(&format!("{alarm}0")));
    apiserver.until_ready();
    let past = history(&lab.etcd, compacted);
    assert_no_record_was_deleted(&past);
    let told = apiserver.stop();
    assert_eq!(told.iter().filter(|line| line.contains("etcd has raised an alarm")).count(), 1, "{told:?}");
    // The failed write, its condition and the alarm's, each once.
    assert!(told.len() <= 4, "{told:?}");
}

#[test]
fn a_log_that_takes_no_lines_ends_nobody() {
    let lab = Lab::new();
    lab.write("base.yaml", &base(&["10.2.0.1"]));
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = Apiserver::command(&lab, &["--etcd-endpoint", &lab.etcd.endpoint().to_string()]);
    let mut child = command.stderr(full).spawn().unwrap();
    lab.until_has("synced/hoth/nodes");
    lab.beats(1);
    let ended = child.try_wait().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(ended, None);
}

#[test]
fn a_leader_that_cannot_read_its_manifests_leaves_the_lead_to_the_standby() {
    let lab = Lab::new();
    lab.write("base.yaml", &base(&["10.2.0.1"]));
    let other = lab.root.join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("base.yaml"), base(&["10.2.0.1"])).unwrap();
    let endpoint = lab.etcd.endpoint().to_string();
    let flags = ["--etcd-endpoint", &endpoint, "--resign-after", "4s"];
    let mut first = Apiserver::start_with(&lab, &flags);
    first.until_ready();
    let source = format!("manifests:{}", other.display());
    let mut second = Apiserver::start_with(&lab, &[&flags[..], &["--source", &source]].concat());
    second.line("standing by");
    wait_until("it stands by", DEADLINE, || first.http("/metrics").contains("clustermesh_export_standbys 1"));

    fs::rename(&lab.manifests, lab.root.join("aside")).unwrap();
    first.line("resigned");
    second.line("leading");
    wait_until("it says why", DEADLINE, || {
        first.http("/readyz").contains("the source has confirmed nothing for")
    });
    fs::write(other.join("late.yaml"), service("late", "10.102.0.9") + &slice("late", "x", &["10.2.0.9"]))
        .unwrap();
    lab.until_has("services/hoth/default/late");
    // Read again it stands by again, and could take the lead back.
    fs::rename(lab.root.join("aside"), &lab.manifests).unwrap();
    first.until_ready();
    wait_until("it stands by", DEADLINE, || {
        second.http("/metrics").contains("clustermesh_export_standbys 1")
    });
    let past = history(&lab.etcd, 1);
    assert_no_record_was_deleted(&past);
    assert_eq!(epochs(&past).len(), 2, "{:?}", epochs(&past));
}
