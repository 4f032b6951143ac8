//! The cost of processes of a cluster's nodes, as the kernel counts it.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use node_agent::datapath::maps::pin_dir;

use crate::bench::agent::{map_bytes, process_bytes};
use crate::kube::KubeCluster;

/// Processes of one kind, all over a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Kind {
    /// In the rows.
    pub(crate) label: &'static str,
    pids: Vec<u32>,
}

impl Kind {
    /// Those whose program has this name.
    pub(crate) fn find(cluster: &KubeCluster, label: &'static str, program: &str) -> Result<Self> {
        let mut pids = Vec::new();
        for node in cluster.nodes() {
            pids.extend(cluster.processes_on_node(&node)?.into_iter().filter(|pid| runs(*pid, program)));
        }
        ensure!(!pids.is_empty(), "no {program} runs in {}", cluster.name());
        Ok(Self { label, pids })
    }

    /// CPU seconds of each.
    pub(crate) fn cpu_seconds(&self) -> Result<Vec<f64>> {
        self.pids.iter().map(|pid| cpu_seconds(*pid)).collect()
    }

    /// Resident memory of the largest in megabytes: now, and at its most.
    pub(crate) fn rss_mb(&self) -> Result<[f64; 2]> {
        let largest = |field| -> Result<f64> {
            let all = self
                .pids
                .iter()
                .map(|pid| process_bytes(&pid.to_string(), field))
                .collect::<Result<Vec<_>>>()?;
            Ok(all.into_iter().fold(0.0, f64::max) / 1e6)
        };
        Ok([largest("VmRSS:")?, largest("VmHWM:")?])
    }
}

/// Shares of a CPU in percent of the busiest of each kind, over the time of `work`.
pub(crate) fn shares<T>(kinds: &[Kind], work: impl FnOnce() -> Result<T>) -> Result<(Vec<f64>, T)> {
    let read = || kinds.iter().map(Kind::cpu_seconds).collect::<Result<Vec<_>>>();
    let (before, started) = (read()?, Instant::now());
    let done = work()?;
    let (after, seconds) = (read()?, started.elapsed().as_secs_f64());
    let busiest = |(before, after): (&Vec<f64>, &Vec<f64>)| {
        let used = before.iter().zip(after).map(|(before, after)| after - before);
        used.fold(0.0, f64::max) / seconds * 100.0
    };
    Ok((before.iter().zip(&after).map(busiest).collect(), done))
}

/// Waits until all kinds have been idle for a while.
pub(crate) fn settle(kinds: &[Kind], patience: Duration) -> Result<()> {
    /// Shares below which nothing is left to do; kube-proxy's idle is far below.
    const IDLE: f64 = 3.0;
    const WINDOW: Duration = Duration::from_secs(5);
    let deadline = Instant::now() + patience;
    let mut quiet = 0;
    while quiet < 2 {
        let (shares, ()) = shares(kinds, || {
            // The window itself is what is measured, so nothing else ends it.
            thread::sleep(WINDOW);
            Ok(())
        })?;
        quiet = if shares.iter().all(|share| *share < IDLE) { quiet + 1 } else { 0 };
        ensure!(Instant::now() < deadline, "still busy after {patience:?}: {shares:.1?} % of a CPU");
    }
    Ok(())
}

/// Megabytes of kernel memory of the maps of one node's agent.
pub(crate) fn map_mb(cluster: &KubeCluster) -> Result<f64> {
    let node = cluster.nodes().pop().context("a cluster without nodes")?;
    let bpffs = cluster.node_root(&node)?.join("sys/fs/bpf");
    Ok(map_bytes(&pin_dir(&bpffs, "default").join("maps"))? / 1e6)
}

fn runs(pid: u32, program: &str) -> bool {
    // One that has ended meanwhile runs nothing.
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let first = line.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(first).rsplit('/').next() == Some(program)
}

fn cpu_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("{path}: has it restarted?"))?;
    parse_cpu_seconds(&stat).with_context(|| format!("reading {path}"))
}

/// User and system time of the process and of the children that it has waited for (kube-proxy has `nft` do its work): the
/// 14th to 17th field (proc(5)), in ticks of 10 ms, the kernel's unit towards user space on all architectures we know.
fn parse_cpu_seconds(stat: &str) -> Option<f64> {
    // The name before it may hold anything, also parentheses.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11..15)?.iter().map(|field| field.parse::<f64>().ok());
    Some(ticks.sum::<Option<f64>>()? / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 9 0 0 0 250 50 60 40 20 0 1 0 5";
        assert_eq!(parse_cpu_seconds(stat), Some(4.0));
        assert_eq!(parse_cpu_seconds("7 (a"), None);
    }
}
