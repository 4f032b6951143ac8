//! Pods: a namespace on a node, a cgroup below the node's, and this crate's own `lab` program as the process.

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::process::ChildStdout;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::address::{Pair, Plan};
use super::cgroup::Cgroup;
use super::lab_dir::LabDir;
use super::link;
use super::manifest::TARGET_PORT;
use super::netns::Netns;
use super::node::Node;
use super::process::{self, Launch, Process, Program};
use crate::wait;

/// How long a server that was told to end still accepts connections, as Kubernetes advises: until everybody
/// who sends any has heard of it.
pub(crate) const LINGER: Duration = Duration::from_millis(1500);

/// The state of a pod in the EndpointSlices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Ready,
    Terminating,
}

#[derive(Debug)]
pub struct Pod {
    name: String,
    cluster: String,
    node: String,
    slot: u8,
    addresses: Pair,
    netns: Netns,
    /// The node's.
    outside: Netns,
    cgroup: Cgroup,
    lab_dir: Arc<LabDir>,
    process: Option<Process>,
    pub(super) condition: Condition,
}

impl Pod {
    /// Makes a pod without a process on a node.
    pub(super) fn create(node: &mut Node, name: &str, plans: &[Plan]) -> Result<Self> {
        let lab_dir = node.lab_dir().clone();
        let slot = node.claim_slot()?;
        let netns = Netns::create(&lab_dir, &format!("{}.{}.{name}", node.cluster(), node.name()))?;
        node.netns().ip(&link::plug_pod(slot, netns.name()))?;
        netns.ip(&link::pod(node.plan(), node.number(), slot, plans))?;
        let cgroup = node.cgroup().child(&format!("pod-{name}"));
        Ok(Self {
            name: name.into(),
            cluster: node.cluster().into(),
            node: node.name().into(),
            slot,
            addresses: node.plan().pod(node.number(), slot),
            netns,
            outside: Netns::named(&lab_dir, &format!("{}.{}", node.cluster(), node.name())),
            cgroup,
            lab_dir,
            process: None,
            condition: Condition::Ready,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    pub fn addresses(&self) -> Pair {
        self.addresses
    }

    pub(crate) fn netns(&self) -> &Netns {
        &self.netns
    }

    pub(crate) fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    fn launch(&self, args: Vec<String>) -> Launch {
        Launch {
            name: format!("{}.{}", self.cluster, self.name),
            program: Program::Ours("lab"),
            args,
            netns: self.netns.name().into(),
            cgroup: self.cgroup.clone(),
        }
    }

    /// Starts a server that answers "cluster/pod", and waits until the node reaches it.
    pub(super) fn serve(&mut self) -> Result<()> {
        let answer = format!("{}/{}", self.cluster, self.name);
        let linger = format!("{}ms", LINGER.as_millis());
        let args = ["serve", "--answer", &answer, "--port", &TARGET_PORT.to_string(), "--linger", &linger];
        let launch = self.launch(args.map(str::to_owned).to_vec());
        self.process = Some(launch.start(&self.lab_dir)?);
        self.wait_listening()
    }

    /// As the kubelet does before it calls a pod ready: from the node, so that the pod's link works and its addresses are
    /// resolved too.
    fn wait_listening(&mut self) -> Result<()> {
        let (process, outside) = (&mut self.process, &self.outside);
        for address in self.addresses {
            let target = SocketAddr::new(address, TARGET_PORT);
            wait::until(&format!("pod {} to listen", self.name), Duration::from_secs(10), || {
                process.as_mut().context("it has no process")?.check()?;
                outside.enter(move || {
                    let dialled = TcpStream::connect_timeout(&target, Duration::from_secs(1));
                    dialled.map(drop).with_context(|| format!("dialling {target} from the node"))
                })
            })?;
        }
        Ok(())
    }

    /// Starts `lab` with these arguments; its standard output is the caller's.
    pub(crate) fn run(&mut self, args: Vec<String>) -> Result<ChildStdout> {
        let (process, stdout) = self.launch(args).start_piped(&self.lab_dir)?;
        self.process = Some(process);
        Ok(stdout)
    }

    /// Runs one of the system's programs in the pod to its end, and gives what it says.
    pub fn output(&self, program: &'static str, args: &[&str]) -> Result<String> {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let launch = Launch { program: Program::Installed(program), ..self.launch(args) };
        let (process, mut stdout) = launch.start_piped(&self.lab_dir)?;
        let mut said = String::new();
        stdout.read_to_string(&mut said).with_context(|| format!("reading what {program} says"))?;
        let status = process.wait(Duration::from_secs(30))?;
        anyhow::ensure!(status.success(), "{program} ended with {status}: {said}");
        Ok(said)
    }

    /// SIGTERM to its process.
    pub(crate) fn terminate(&self) -> Result<()> {
        self.process.as_ref().map_or(Ok(()), |process| process.signal(Signal::SIGTERM))
    }

    /// Waits for the end of a process that was told to end.
    pub(crate) fn wait_end(&mut self, patience: Duration) -> Result<()> {
        let Some(process) = self.process.take() else { return Ok(()) };
        let (name, log) = (process.name().to_owned(), process.log().to_owned());
        let status = process.wait(patience)?;
        anyhow::ensure!(status.success(), "{name} ended with {status}:\n{}", process::tail(&log, 10));
        Ok(())
    }

    /// `kill -9` to its process. The pod's namespace stays: its address answers with a reset.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), Process::kill)
    }

    /// Fails when its process should run and does not.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.process.as_mut().map_or(Ok(()), Process::check)
    }

    pub(super) fn remove(self, node: &Node) -> Result<()> {
        drop(self.process);
        self.cgroup.kill()?;
        self.cgroup.remove()?;
        // Said, not left to the namespace's end: that happens later, and the link's name may be wanted before.
        node.netns().ip(&[format!("link del {}", link::pod_link(self.slot))])?;
        self.netns.remove()
    }
}
