//! A running agent and what it costs, read from outside: the kernel's counts of its process, cgroup and maps.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::MapData;
use node_agent::datapath::maps::{Maps, NAMES, pin_dir};

use crate::lab::cgroup::Cgroup;
use crate::lab::http::{self, Door};
use crate::lab::lab_dir::LabDir;
use crate::lab::manifest;
use crate::lab::process::Process;
use crate::wait;

use super::data_set::DataSet;
use super::journal::Journal;
use super::store::Store;

/// For heartbeats, which come every second.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Agent {
    process: Process,
    pid: String,
    cgroup: Cgroup,
    peers: PathBuf,
    lab_dir: Arc<LabDir>,
    instance: String,
}

impl Agent {
    pub(super) fn new(
        process: Process,
        cgroup: Cgroup,
        peers: PathBuf,
        (lab_dir, instance): (Arc<LabDir>, String),
    ) -> Result<Self> {
        let pids = fs::read_to_string(cgroup.path().join("cgroup.procs")).context("the agent's cgroup")?;
        let pid = pids.lines().next().context("the agent's cgroup is empty")?.to_owned();
        Ok(Self { process, pid, cgroup, peers, lab_dir, instance })
    }

    /// Ends it; its maps go with it.
    pub(crate) fn end(self) -> Result<()> {
        self.process.kill()?;
        let pins = self.lab_dir.bpffs().join("clustermesh").join(&self.instance);
        fs::remove_dir_all(&pins).with_context(|| format!("removing {}", pins.display()))
    }

    fn run_dir(&self) -> PathBuf {
        self.lab_dir.run_dir().join(&self.instance)
    }

    /// What it says from now on, and what it has said since then.
    pub(crate) fn journal(&self, since_unix_us: u64) -> Result<Journal> {
        Journal::follow(self.run_dir().join("agent.sock"), since_unix_us)
    }

    /// Gives it a peer; the time is that of the file's rename into place.
    pub(crate) fn join(&self, data_set: &DataSet, store: &Store) -> Result<u64> {
        let file = data_set.peer_file(&store.endpoint);
        manifest::write(&self.peers, &format!("{}.yaml", data_set.name()), &[file])
    }

    /// An answer of its admin API.
    pub(crate) fn admin(&self, path: &str) -> Result<serde_json::Value> {
        let text = http::fetch(&Door::Unix(self.run_dir().join("agent.sock")), path)?;
        serde_json::from_str(&text).with_context(|| format!("the answer to {path}"))
    }

    /// Microseconds of CPU that it has used.
    pub(crate) fn cpu_us(&self) -> Result<f64> {
        self.cgroup.cpu_us()
    }

    /// Bytes of memory that are its own: heap and stacks, neither files nor maps.
    pub(crate) fn heap_bytes(&self) -> Result<f64> {
        process_bytes(&self.pid, "RssAnon:")
    }

    /// Waits until its periodic work has run twice, so that what is needed for a moment only is gone.
    pub(crate) fn settle(&self) -> Result<()> {
        let maps = Maps::open_pinned(&self.lab_dir.bpffs(), &self.instance)?;
        let mut last = maps.control.read()?.heartbeat_ns;
        let mut beats = 0;
        wait::until("the agent's heartbeat", PATIENCE, || {
            let now = maps.control.read()?.heartbeat_ns;
            beats += usize::from(now != last);
            last = now;
            ensure!(beats >= 2, "{beats} beats");
            Ok(())
        })
    }

    /// Bytes of kernel memory of all its maps.
    pub(crate) fn map_bytes(&self) -> Result<f64> {
        map_bytes(&pin_dir(&self.lab_dir.bpffs(), &self.instance).join("maps"))
    }
}

/// Bytes of a field of `/proc/PID/status`, which the kernel gives in units of 1,024.
pub(crate) fn process_bytes(pid: &str, field: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("{path}: has it restarted?"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kilobytes = kilobytes.with_context(|| format!("no {field} in {path}"))?;
    Ok(kilobytes.trim().parse::<f64>()? * 1024.0)
}

/// Bytes of kernel memory of all maps of an agent, which are pinned in a folder.
pub(crate) fn map_bytes(pins: &Path) -> Result<f64> {
    NAMES.iter().map(|name| memory_of(&MapData::from_pin(pins.join(name))?)).sum()
}

fn memory_of(map: &MapData) -> Result<f64> {
    let path = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    Ok(line.context("no memlock in fdinfo")?.trim().parse()?)
}
