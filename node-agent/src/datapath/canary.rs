//! Proves that the programs run for the pods, with no more rights than loading them takes.
//!
//! The kernel is asked which programs run for each cgroup from the programs' own one downwards. That they also read
//! the maps of this instance shows in a dial to an address that only they know: they refuse it. In a container's
//! private view of the hierarchy everything attaches and nobody else is translated, which neither would show; so the
//! view has to reach above the agent's own cgroup.
//!
//! The address is loopback, so that without the programs nothing leaves the node either.
//!
//! Where programs of others run before ours, what they take shows in dials to the real frontends, without a packet:
//! `packetless`.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_admin::Hook;
use tokio::process::Command;

use super::actual::CANARY;
use super::cgroups::{self, Position};
use super::hook_order::{self, HookOrderError, Order};
use super::packetless::Dialled;

/// A dial to loopback is refused at once, with or without the programs.
const DEADLINE: Duration = Duration::from_secs(5);
/// The child may have thousands of frontends to dial.
const CHILD_DEADLINE: Duration = Duration::from_secs(30);

/// What the canary found wrong.
#[derive(Debug, thiserror::Error)]
pub enum CanaryError {
    #[error(transparent)]
    Order(#[from] HookOrderError),
    #[error(
        "{cgroup} is the agent's own cgroup: a private view of the hierarchy, below which there are no pods; mount the \
         host's root, or give --cgroup-root an ancestor of the pods' cgroups",
        cgroup = .cgroup.display()
    )]
    OwnCgroup { cgroup: PathBuf },
    #[error(
        "a connect from below cgroup {cgroup} passed the programs by ({said}); is --cgroup-root an ancestor of the \
         pods' cgroups?", cgroup = .cgroup.display()
    )]
    NotTranslated { cgroup: PathBuf, said: String },
    #[error("the canary in cgroup {cgroup} did not answer within {} s", CHILD_DEADLINE.as_secs(), cgroup = .cgroup.display())]
    Silent { cgroup: PathBuf },
    #[error("starting the canary in cgroup {cgroup}", cgroup = .cgroup.display())]
    Start { cgroup: PathBuf, source: io::Error },
}

/// What shows that the programs serve the pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A connect from below their cgroup met them.
    Dialled,
    /// The kernel says that they run there. The agent is not below itself and may not put a process there.
    Asked,
}

/// What was seen.
#[derive(Debug)]
pub struct Seen {
    /// What runs at the hooks, where that could be told.
    pub order: Option<Order>,
    /// Whether the pods are served.
    pub proof: Result<Proof, CanaryError>,
    /// What dialling the frontends showed, through the hooks at which others run before us.
    pub dialled: Dialled,
}

/// Where the programs are, and what dials from a cgroup that the agent isn't in: `<exe> canary --cgroup DIR`.
#[derive(Clone, Debug)]
pub struct Canary {
    pub exe: PathBuf,
    /// What the programs are attached to.
    pub cgroup: PathBuf,
    /// Where their links are pinned.
    pub links: PathBuf,
    /// Where their maps are pinned.
    pub maps: PathBuf,
}

impl Canary {
    /// Looks whether the pods are served, and who else is at the hooks.
    pub async fn probe(&self) -> Seen {
        let tree = cgroups::tree(&self.cgroup);
        let order = match hook_order::ask(&self.links, &tree) {
            Ok(order) => order,
            Err(error) => return Seen { order: None, proof: Err(error.into()), dialled: Dialled::default() },
        };
        let (proof, dialled) = match self.prove(&tree, order.preceded()).await {
            Ok((proof, dialled)) => (Ok(proof), dialled),
            Err(error) => (Err(error), Dialled::default()),
        };
        Seen { order: Some(order), proof, dialled }
    }

    /// `preceded`: the hooks through which frontends are dialled as well.
    async fn prove(&self, tree: &[PathBuf], preceded: Vec<Hook>) -> Result<(Proof, Dialled), CanaryError> {
        match cgroups::position(tree) {
            Position::UnderRoot | Position::Below => {
                let maps = self.maps.clone();
                let dial = move || dial().map(|()| Dialled::through(&preceded, &maps));
                let dialled = tokio::task::spawn_blocking(dial).await;
                let failed = |said| CanaryError::NotTranslated { cgroup: self.cgroup.clone(), said };
                let dialled = dialled.unwrap_or_else(|error| Err(error.to_string())).map_err(failed)?;
                Ok((Proof::Dialled, dialled))
            }
            Position::Inside => Err(CanaryError::OwnCgroup { cgroup: self.cgroup.clone() }),
            Position::Outside => self.dial_below(&preceded).await,
        }
    }

    /// Dials from a fresh cgroup below the programs', if the agent may make one.
    async fn dial_below(&self, preceded: &[Hook]) -> Result<(Proof, Dialled), CanaryError> {
        let cgroup = self.cgroup.join(format!("clustermesh-canary-{}", std::process::id()));
        match fs::create_dir(&cgroup) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) if is_forbidden(&error) => return Ok(asked()),
            Err(source) => return Err(CanaryError::Start { cgroup, source }),
        }
        let mut child = Command::new(&self.exe);
        child.arg("canary").arg("--cgroup").arg(&cgroup).arg("--maps").arg(&self.maps);
        for hook in preceded {
            child.arg("--hook").arg(hook.to_string());
        }
        let outcome = dial_from(child, &cgroup).await;
        // Stays behind only while the child has not gone yet; the next probe uses it again.
        let _ = fs::remove_dir(&cgroup);
        outcome
    }
}

fn is_forbidden(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

fn asked() -> (Proof, Dialled) {
    let failed = "the agent is not below the programs' cgroup, and may not put a process there to dial from";
    (Proof::Asked, Dialled { hooks: Vec::new(), failed: Some(failed.into()) })
}

async fn dial_from(mut child: Command, cgroup: &Path) -> Result<(Proof, Dialled), CanaryError> {
    let run = child.kill_on_drop(true).output();
    let cgroup = cgroup.to_owned();
    match tokio::time::timeout(CHILD_DEADLINE, run).await {
        Err(_) => Err(CanaryError::Silent { cgroup }),
        Ok(Err(source)) => Err(CanaryError::Start { cgroup, source }),
        Ok(Ok(output)) if output.status.success() => {
            let unreadable = |error| Dialled { hooks: Vec::new(), failed: Some(format!("{error}")) };
            Ok((Proof::Dialled, serde_json::from_slice(&output.stdout).unwrap_or_else(unreadable)))
        }
        Ok(Ok(output)) if output.status.code() == Some(NOT_ENTERED.into()) => Ok(asked()),
        Ok(Ok(output)) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(CanaryError::NotTranslated { cgroup, said })
        }
    }
}

/// The child's exit status where it may not enter the cgroup.
pub const NOT_ENTERED: u8 = 3;

/// Why the child could not do its part.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    #[error("entering {cgroup}", cgroup = .cgroup.display())]
    Enter { cgroup: PathBuf, source: io::Error },
    #[error("{0}")]
    Dial(String),
}

/// The child's part: enters the cgroup and dials; through these hooks the frontends of the maps too. Gives what the parent
/// reads, in JSON. The error says what was seen instead of a refusal.
pub fn enter_and_dial(cgroup: &Path, maps: &Path, preceded: &[Hook]) -> Result<String, ChildError> {
    // Across the border of a cgroup namespace the kernel answers ENOENT where the hierarchy is mounted with
    // nsdelegate, as systemd does it.
    let failed = |source| ChildError::Enter { cgroup: cgroup.into(), source };
    fs::write(cgroup.join("cgroup.procs"), "0").map_err(failed)?;
    dial().map_err(ChildError::Dial)?;
    Ok(serde_json::to_string(&Dialled::through(preceded, maps)).expect("plain data"))
}

/// Dials from this process. The error says what was seen instead of a refusal.
fn dial() -> Result<(), String> {
    refused(CANARY.address.into())?;
    match refused(Ipv6Addr::from(CANARY.address.octets()).into()) {
        Err(_) if !has_ipv6() => Ok(()),
        outcome => outcome,
    }
}

/// EPERM comes from the programs alone.
fn refused(address: IpAddr) -> Result<(), String> {
    match TcpStream::connect_timeout(&SocketAddr::new(address, CANARY.port), DEADLINE) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(()),
        Err(error) => Err(format!("{address}: {error}")),
        Ok(_) => Err(format!("{address}: connected")),
    }
}

fn has_ipv6() -> bool {
    std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok()
}

/// The canary dials loopback only.
const _: () = assert!(CANARY.address.octets()[12] == 127);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_a_cgroup_cant_be_entered() {
        let folder = tempfile::tempdir().unwrap();
        let error = enter_and_dial(&folder.path().join("nowhere"), folder.path(), &[]).unwrap_err();
        assert!(matches!(error, ChildError::Enter { .. }), "{error}");
    }
}
