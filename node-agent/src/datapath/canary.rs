//! Proves that the programs run for processes other than the agent: a child in a cgroup of its own dials an
//! address that only the programs know, and they refuse it.
//!
//! In a private cgroup namespace everything attaches and nothing is translated; only such a dial shows it. The
//! address is loopback, so that without the programs nothing leaves the node either.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use super::actual::CANARY;

/// A dial to loopback is refused at once, with or without the programs.
const DEADLINE: Duration = Duration::from_secs(5);

/// What the canary found.
#[derive(Debug, thiserror::Error)]
pub enum CanaryError {
    #[error(
        "a connect from cgroup {cgroup} passed the programs by ({said}); is --cgroup-root an ancestor of the pods' \
         cgroups?", cgroup = .cgroup.display()
    )]
    NotTranslated { cgroup: PathBuf, said: String },
    #[error("the canary in cgroup {cgroup} did not answer within {} s", DEADLINE.as_secs(), cgroup = .cgroup.display())]
    Silent { cgroup: PathBuf },
    #[error("starting the canary in cgroup {cgroup}", cgroup = .cgroup.display())]
    Start { cgroup: PathBuf, source: io::Error },
}

/// Dials from a fresh cgroup below `cgroup_root`, by `<exe> canary --cgroup DIR`.
pub async fn probe(exe: &Path, cgroup_root: &Path) -> Result<(), CanaryError> {
    let cgroup = cgroup_root.join(format!("clustermesh-canary-{}", std::process::id()));
    let start_failed = |source| CanaryError::Start { cgroup: cgroup.clone(), source };
    match fs::create_dir(&cgroup) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(start_failed(error)),
        _ => {}
    }
    let mut child = Command::new(exe);
    let run = child.arg("canary").arg("--cgroup").arg(&cgroup).kill_on_drop(true).output();
    let outcome = match tokio::time::timeout(DEADLINE, run).await {
        Err(_) => Err(CanaryError::Silent { cgroup: cgroup.clone() }),
        Ok(Err(error)) => Err(start_failed(error)),
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(CanaryError::NotTranslated { cgroup: cgroup.clone(), said })
        }
    };
    // Stays behind only while the child has not gone yet; the next probe uses it again.
    let _ = fs::remove_dir(&cgroup);
    outcome
}

/// The child's part: enters the cgroup and dials. The error says what was seen instead of a refusal.
pub fn dial(cgroup: &Path) -> Result<(), String> {
    enter(cgroup)?;
    let IpAddr::V4(v4) = CANARY.address else { return Err("the canary has an IPv4 address".into()) };
    refused(v4.into())?;
    match refused(v4.to_ipv6_mapped().into()) {
        Err(_) if !has_ipv6() => Ok(()),
        outcome => outcome,
    }
}

/// Enters the cgroup. Where the hierarchy is mounted with nsdelegate (systemd does it), a container can't: the kernel
/// refuses with ENOENT to move a process across its cgroup namespace's border. Then the dial from where we are proves as
/// much, if the programs' cgroup isn't our own but one above: whoever is below that is served like us.
fn enter(cgroup: &Path) -> Result<(), String> {
    let failed = |path: &Path, error: io::Error| format!("entering {}: {error}", path.display());
    let procs = cgroup.join("cgroup.procs");
    match fs::write(&procs, "0") {
        Ok(()) => return Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) && procs.exists() => {}
        Err(error) => return Err(failed(&procs, error)),
    }
    let root = cgroup.parent().unwrap_or(cgroup);
    let members = root.join("cgroup.procs");
    let members = fs::read_to_string(&members).map_err(|error| failed(&members, error))?;
    if holds(&members, std::process::id()) {
        return Err(format!("{} is the agent's own cgroup", root.display()));
    }
    Ok(())
}

/// Whether a cgroup.procs lists a process; those of other pid namespaces stand as 0 there.
fn holds(procs: &str, pid: u32) -> bool {
    procs.lines().any(|line| line.trim().parse() == Ok(pid))
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
    std::net::UdpSocket::bind((std::net::Ipv6Addr::UNSPECIFIED, 0)).is_ok()
}

/// The canary dials loopback only.
const _: () = assert!(matches!(CANARY.address, IpAddr::V4(address) if is_loopback(address)));

const fn is_loopback(address: Ipv4Addr) -> bool {
    address.octets()[0] == 127
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_found_by_its_whole_pid() {
        assert!(holds("1\n17\n", 17));
        for others in ["", "0\n0\n", "1\n170\n7\n"] {
            assert!(!holds(others, 17), "{others:?}");
        }
    }

    #[test]
    fn a_folder_without_a_cgroup_cant_be_entered() {
        let folder = tempfile::tempdir().unwrap();
        let error = enter(&folder.path().join("nowhere")).unwrap_err();
        assert!(error.contains("cgroup.procs"), "{error}");
    }
}
