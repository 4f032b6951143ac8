//! Processes of a lab: started in a namespace and a cgroup, logged to a file, ended with the lab.
//!
//! Between fork and the program stands this crate's own `lab enter`: it enters namespace and cgroup before the program's
//! first instruction, and asks the kernel to kill it when the lab's process dies.

use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::cgroup::Cgroup;
use super::lab_dir::LabDir;
use crate::wait;

/// Where the binaries are: next to the running one, or (for tests, which run in `deps`) one folder up.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("finding the running program")?;
    let folders = own.ancestors().skip(1).take(2);
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| {
        let folder = own.parent().unwrap_or(Path::new(".")).display();
        format!("the program {name:?} is not in {folder}: build it first (`cargo build --workspace`)")
    })
}

/// A program that a lab starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// Built from this workspace.
    Ours(&'static str),
    /// From the system's PATH.
    Installed(&'static str),
    /// A file.
    At(PathBuf),
}

impl Program {
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self, Self::Ours(_))
    }

    fn path(&self) -> Result<PathBuf> {
        match self {
            Self::Ours(name) => program(name),
            Self::Installed(name) => Ok(name.into()),
            Self::At(path) => Ok(path.clone()),
        }
    }
}

/// The program to start, and where.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Names the log file, and the process in messages.
    pub(crate) name: String,
    pub(crate) program: Program,
    pub args: Vec<String>,
    pub(crate) netns: String,
    pub(crate) cgroup: Cgroup,
}

#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Launch {
    /// Starts it; both its outputs go to the log.
    pub(crate) fn start(&self, lab_dir: &Arc<LabDir>) -> Result<Process> {
        let log = open_log(&lab_dir.log(&self.name))?;
        self.start_with(lab_dir, log.into())
    }

    /// Starts it; its standard output is the caller's to read.
    pub(crate) fn start_piped(&self, lab_dir: &Arc<LabDir>) -> Result<(Process, ChildStdout)> {
        let mut process = self.start_with(lab_dir, Stdio::piped())?;
        let stdout = process.child.stdout.take().context("a piped child has no stdout")?;
        Ok((process, stdout))
    }

    fn start_with(&self, lab_dir: &Arc<LabDir>, stdout: Stdio) -> Result<Process> {
        let _open = lab_dir.open()?;
        self.cgroup.create()?;
        let log = lab_dir.log(&self.name);
        let mut command = Command::new(program("lab")?);
        command.arg("enter");
        if !lab_dir.kept() {
            command.arg("--parent").arg(std::process::id().to_string());
        }
        command.arg("--netns").arg(&self.netns).arg("--cgroup").arg(self.cgroup.path());
        command.arg("--").arg(self.program.path()?).args(&self.args);
        command.stdin(Stdio::null()).stdout(stdout).stderr(open_log(&log)?);
        // Nothing of the caller's environment may change what a lab does, and Ctrl-C is the lab's to answer.
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").process_group(0);
        let child = spawn(command).with_context(|| format!("starting {}", self.name))?;
        // It puts itself there before it becomes the program. Once more from here, while nothing can be torn down:
        // teardown finds processes by their cgroup. An error means that it has ended, which others will notice.
        let _ = fs::write(self.cgroup.path().join("cgroup.procs"), child.id().to_string());
        Ok(Process { name: self.name.clone(), child, log })
    }
}

fn open_log(path: &Path) -> Result<File> {
    let file = File::options().create(true).append(true).open(path);
    file.with_context(|| format!("opening log {}", path.display()))
}

type Order = (Command, mpsc::SyncSender<std::io::Result<Child>>);

/// Spawns on a thread that never ends: the kernel's "my parent died" signal means the parent's *thread*.
fn spawn(command: Command) -> Result<Child> {
    static ORDERS: OnceLock<mpsc::SyncSender<Order>> = OnceLock::new();
    let orders = ORDERS.get_or_init(|| {
        let (orders, queue) = mpsc::sync_channel::<Order>(16);
        thread::spawn(move || {
            for (mut command, answer) in queue {
                // The one who ordered may have been interrupted; then nobody wants the answer.
                let _ = answer.send(command.spawn());
            }
        });
        orders
    });
    let (answer, wait) = mpsc::sync_channel(1);
    orders.send((command, answer)).context("the spawning thread has ended")?;
    Ok(wait.recv().context("the spawning thread has ended")??)
}

impl Process {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).context("a pid beyond i32")?);
        // Not waited for yet, so the pid is still this process.
        kill(pid, signal).with_context(|| format!("sending {signal} to {}", self.name))
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("asking after {}", self.name))
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait(mut self, patience: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        wait::until(&format!("{name} to end"), patience, || self.ended()?.context("it still runs"))
    }

    /// Kills it and waits for its end.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child
            .kill()
            .and_then(|()| self.child.wait())
            .with_context(|| format!("killing {}", self.name))?;
        Ok(())
    }

    /// Asks it to end, and waits until it has, with status 0.
    pub(crate) fn terminate(self, patience: Duration) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let name = self.name.clone();
        let status = self.wait(patience)?;
        ensure!(status.success(), "{name} ended with {}", describe(status));
        Ok(())
    }

    /// Leaves it to itself, running.
    pub(crate) fn abandon(self) {
        // Dropping it would end it.
        std::mem::forget(self);
    }

    /// Fails, with the tail of its log, when it no longer runs.
    pub(crate) fn check(&mut self) -> Result<()> {
        let ended = self.ended()?;
        let Some(status) = ended else { return Ok(()) };
        anyhow::bail!("{} ended with {}; its log ends:\n{}", self.name, describe(status), tail(&self.log, 20))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown status".into(),
    }
}

/// The last lines of a log, indented.
pub(crate) fn tail(log: &Path, lines: usize) -> String {
    let text = fs::read_to_string(log).unwrap_or_else(|error| format!("(unreadable: {error})"));
    let all: Vec<_> = text.lines().collect();
    let last = &all[all.len().saturating_sub(lines)..];
    last.iter().map(|line| format!("    {line}\n")).collect()
}
