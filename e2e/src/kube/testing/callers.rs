//! Pods that call all the time, one per node, and what they have seen: read from their logs on the nodes, which takes no
//! API server.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use super::PATIENCE;
use super::objects;
use crate::kube::KubeCluster;
use crate::load::record::{Outcome, Record};
use crate::wait::{self, unix_us};

/// Connections a second of each caller to each target.
const RATE: u64 = 10;
/// So many connections of each caller in a row make a state that counts as reached.
const SETTLED: usize = 20;
const NAME: &str = "callers";

/// Outcomes of some connections.
#[derive(Debug, Default)]
pub struct Seen {
    pub calls: usize,
    /// The servers that answered, by their own names: "cluster/pod".
    pub answers: BTreeSet<String>,
    pub failures: Vec<Record>,
}

impl Seen {
    pub fn note(&mut self, record: &Record) {
        self.calls += 1;
        match &record.outcome {
            Outcome::Answer(answer) => drop(self.answers.insert(answer.clone())),
            Outcome::Error(_) => self.failures.push(record.clone()),
        }
    }

    /// The clusters that answered.
    pub(crate) fn clusters(&self) -> BTreeSet<&str> {
        self.answers.iter().filter_map(|answer| answer.split('/').next()).collect()
    }

    /// Fails unless there were enough, all were answered, and these clusters did it.
    pub fn expect(&self, clusters: &[&str], at_least: usize) -> Result<()> {
        self.expect_answers(at_least)?;
        let found = self.clusters();
        ensure!(found.iter().eq(clusters), "answers of {found:?}, not of {clusters:?}");
        Ok(())
    }

    /// Fails unless there were enough, and all were answered.
    pub fn expect_answers(&self, at_least: usize) -> Result<()> {
        let (failed, some) = (self.failures.len(), self.failures.iter().take(3).collect::<Vec<_>>());
        ensure!(failed == 0, "{failed} of {} calls failed, among them {some:?}", self.calls);
        ensure!(self.calls >= at_least, "only {} calls", self.calls);
        Ok(())
    }
}

/// The callers of a cluster.
#[derive(Debug)]
pub struct Callers {
    logs: Vec<Log>,
}

/// Puts a global Service with two servers into both clusters, in a namespace for it, and starts callers of it in both.
pub fn of_a_global_service(clusters: [&KubeCluster; 2], namespace: &str, name: &str) -> Result<[Callers; 2]> {
    for cluster in clusters {
        let service = objects::service(namespace, name, &objects::in_front_of(name));
        let servers = objects::servers(namespace, name, cluster.name(), 2);
        let items = [objects::namespace(namespace), objects::global(service), servers];
        objects::apply(&cluster.context(), &items)?;
    }
    for cluster in clusters {
        objects::rolled_out(&cluster.context(), namespace, &format!("deployment/{name}"))?;
    }
    let target = objects::dialled(namespace, name, 80);
    let start = |cluster| Callers::start(cluster, namespace, &[(name, &target)]);
    Ok([start(clusters[0])?, start(clusters[1])?])
}

impl Callers {
    /// Starts one on every node; a target is its name and what to dial.
    pub fn start(cluster: &KubeCluster, namespace: &str, targets: &[(&str, &str)]) -> Result<Self> {
        let targets: Vec<_> = targets.iter().map(|(name, address)| (*name, load(address))).collect();
        let context = cluster.context();
        objects::apply(&context, &[objects::on_every_node(namespace, NAME, &targets)])?;
        objects::rolled_out(&context, namespace, &format!("daemonset/{NAME}"))?;
        let mut logs = Vec::new();
        for node in cluster.nodes() {
            let folder = cluster.node_root(&node)?.join("var/log/pods");
            for (target, _) in &targets {
                logs.push(Log::find(&folder, namespace, target)?);
            }
        }
        Ok(Self { logs })
    }

    /// The outcomes of all their connections to a target that began since then.
    pub fn since(&mut self, unix_us: u64, target: &str) -> Result<Seen> {
        let mut seen = Seen::default();
        for log in self.logs.iter_mut().filter(|log| log.target == target) {
            log.read()?;
            log.since(unix_us).for_each(|record| seen.note(record));
        }
        Ok(seen)
    }

    /// Waits until every caller has ended so many connections to every target that began since then.
    pub fn wait_calls(&mut self, unix_us: u64, count: usize) -> Result<()> {
        let patience = PATIENCE + std::time::Duration::from_secs(count as u64 / RATE);
        wait::until(&format!("{count} calls of each caller"), patience, || {
            for log in &mut self.logs {
                log.read()?;
                let found = log.since(unix_us).count();
                ensure!(found >= count, "{found} calls to {}", log.target);
            }
            Ok(())
        })
    }

    /// Waits until all calls to a target are answered, and by these clusters; gives the moment from which on they were.
    pub fn wait_answers(&mut self, target: &str, clusters: &[&str]) -> Result<u64> {
        let mut begin = unix_us();
        wait::until(&format!("answers of {clusters:?} to {target}"), PATIENCE, || {
            let (seen, fewest) = (self.since(begin, target)?, self.fewest(begin, target));
            let too_early = seen.failures.is_empty() && fewest < SETTLED;
            ensure!(!too_early, "{fewest} calls so far, answered by {:?}", seen.answers);
            let moment = begin;
            // A wrong outcome makes all before it count for nothing.
            seen.expect(clusters, SETTLED).inspect_err(|_| begin = unix_us())?;
            Ok(moment)
        })
    }

    /// Waits until each of these clusters has answered a call to a target that began since then; gives when the last of their
    /// first answers was there.
    pub fn wait_first_answers(&mut self, unix_us: u64, target: &str, clusters: &[&str]) -> Result<u64> {
        wait::until(&format!("a first answer of each of {clusters:?}"), PATIENCE, || {
            let mut last = unix_us;
            for log in self.logs.iter_mut().filter(|log| log.target == target) {
                log.read()?;
            }
            for cluster in clusters {
                let records = self.logs.iter().filter(|log| log.target == target);
                let answers =
                    records.flat_map(|log| log.since(unix_us)).filter_map(|it| it.answered_by(cluster));
                let first = answers.min();
                last = last.max(first.with_context(|| format!("no answer of {cluster}"))?);
            }
            Ok(last)
        })
    }

    /// The number of calls of the caller that has the fewest.
    fn fewest(&self, unix_us: u64, target: &str) -> usize {
        let of = self.logs.iter().filter(|log| log.target == target);
        of.map(|log| log.since(unix_us).count()).min().unwrap_or_default()
    }
}

fn load(target: &str) -> Vec<String> {
    // A connection that is cut is refused or reset at once; a machine that is busy only takes its time.
    let flags = ["--timeout=20s".to_owned(), format!("--rate={RATE}"), "--duration=60m".to_owned()];
    ["load".to_owned(), format!("--target={target}")].into_iter().chain(flags).collect()
}

/// The log of a container, as the kubelet has it written, and the records read so far.
#[derive(Debug)]
struct Log {
    target: String,
    path: PathBuf,
    offset: u64,
    records: Vec<Record>,
}

impl Log {
    fn find(folder: &std::path::Path, namespace: &str, target: &str) -> Result<Self> {
        let begin = format!("{namespace}_{NAME}-");
        let path = wait::until(&format!("the log of a caller of {target}"), PATIENCE, || {
            let pods = std::fs::read_dir(folder)?.filter_map(Result::ok);
            let own = pods.filter(|pod| pod.file_name().to_string_lossy().starts_with(&begin));
            let logs = own.map(|pod| pod.path().join(target).join("0.log"));
            { logs }.find(|log| log.is_file()).context("there is none")
        })?;
        Ok(Self { target: target.to_owned(), path, offset: 0, records: Vec::new() })
    }

    fn since(&self, unix_us: u64) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(move |record| record.start_unix_us >= unix_us)
    }

    /// Reads the whole lines that were added.
    fn read(&mut self) -> Result<()> {
        let reading = || format!("reading {}", self.path.display());
        let mut file = File::open(&self.path).with_context(reading)?;
        file.seek(SeekFrom::Start(self.offset)).with_context(reading)?;
        let mut text = String::new();
        file.read_to_string(&mut text).with_context(reading)?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        self.offset += whole as u64;
        for line in text[..whole].lines() {
            self.records.push(record(line)?);
        }
        Ok(())
    }
}

/// A line of the kubelet's kind: time, stream, whether it is whole, and what the container said.
fn record(line: &str) -> Result<Record> {
    let said = line.splitn(4, ' ').nth(3).with_context(|| format!("a log line {line:?}"))?;
    serde_json::from_str(said).with_context(|| format!("a caller said {said:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_holds_a_record() {
        let line = r#"2026-11-25T13:00:00.1Z stdout F {"start_unix_us":1,"latency_us":2,"answer":"hoth/a"}"#;
        let mut seen = Seen::default();
        seen.note(&record(line).unwrap());
        assert_eq!((seen.calls, seen.clusters()), (1, ["hoth"].into()));
        assert!(seen.expect(&["hoth"], 2).is_err());
        seen.note(&record(&line.replace(r#""answer":"hoth/a""#, r#""error":"refused""#)).unwrap());
        assert!(seen.expect(&["hoth"], 2).is_err());
        assert!(record("stdout F").is_err());
    }
}
