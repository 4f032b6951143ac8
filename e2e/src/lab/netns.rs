//! Network namespaces: made, configured by `ip`, entered by threads, removed.
//!
//! None of them has a default route or a link to the host's namespace.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns};

use super::lab_dir::{self, LabDir, NETNS};

/// Settings of every namespace, before any link appears in it: addresses are usable at once, and a packet may come
/// in by another link than the answer takes.
const BASE: &[(&str, &str)] = &[
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/default/disable_ipv6", "0"),
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
];

/// The settings that make a namespace a router.
const FORWARDING: &[(&str, &str)] = &[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")];

#[derive(Debug)]
pub struct Netns {
    name: String,
    lab_dir: Arc<LabDir>,
}

impl Netns {
    pub fn create(lab_dir: &Arc<LabDir>, label: &str) -> Result<Self> {
        let netns = Self { name: lab_dir.netns(label), lab_dir: lab_dir.clone() };
        netns.add()?;
        netns.set(BASE)?;
        netns.ip(&["link set lo up".into()])?;
        Ok(netns)
    }

    /// One that is there already, or will be.
    pub(crate) fn named(lab_dir: &Arc<LabDir>, label: &str) -> Self {
        Self { name: lab_dir.netns(label), lab_dir: lab_dir.clone() }
    }

    fn add(&self) -> Result<()> {
        let _open = self.lab_dir.open()?;
        batch(None, &[format!("netns add {}", self.name)])
    }

    /// A namespace that forwards.
    pub fn create_router(lab_dir: &Arc<LabDir>, label: &str) -> Result<Self> {
        let netns = Self::create(lab_dir, label)?;
        netns.set(FORWARDING)?;
        Ok(netns)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    fn path(&self) -> PathBuf {
        Path::new(NETNS).join(&self.name)
    }

    /// Runs `ip` commands in the namespace; the first that fails ends the batch.
    pub fn ip(&self, commands: &[String]) -> Result<()> {
        let _open = self.lab_dir.open()?;
        batch(Some(&self.name), commands)
    }

    fn set(&self, settings: &'static [(&str, &str)]) -> Result<()> {
        self.enter(move || {
            for (key, value) in settings {
                let path = Path::new("/proc/sys/net").join(key);
                fs::write(&path, value).with_context(|| format!("writing {}", path.display()))?;
            }
            Ok(())
        })
    }

    /// Runs `work` on a thread that is in the namespace. A socket that is opened there stays there.
    pub fn enter<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let path = self.path();
        let entered = thread::Builder::new().name("in-netns".into()).spawn(move || {
            enter_by_path(&path)?;
            work()
        });
        let done = entered.context("starting a thread")?.join();
        done.map_err(|_| anyhow!("a thread in namespace {} panicked", self.name))?
    }

    /// Removes it now; what runs in it keeps it alive, nameless, until it ends.
    pub(crate) fn remove(self) -> Result<()> {
        lab_dir::remove_namespace(&self.path())
    }
}

/// Puts the calling thread into a namespace.
pub(crate) fn enter_by_path(path: &Path) -> Result<()> {
    let file = File::open(path).with_context(|| format!("opening namespace {}", path.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering namespace {}", path.display()))
}

/// Where `ip netns` keeps a namespace of this name.
pub(crate) fn path_of(name: &str) -> PathBuf {
    Path::new(NETNS).join(name)
}

fn batch(netns: Option<&str>, commands: &[String]) -> Result<()> {
    if commands.is_empty() {
        return Ok(());
    }
    let mut ip = Command::new("ip");
    if let Some(name) = netns {
        ip.args(["-n", name]);
    }
    ip.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = ip.spawn().context("starting ip (Debian: apt-get install iproute2)")?;
    let script = commands.join("\n") + "\n";
    let stdin = child.stdin.take();
    stdin.context("ip has no stdin")?.write_all(script.as_bytes()).context("writing to ip")?;
    let output = child.wait_with_output().context("waiting for ip")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip in {}: {}\n{script}", netns.unwrap_or("the host"), complaint.trim());
    Ok(())
}
