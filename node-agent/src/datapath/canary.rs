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
    let procs = cgroup.join("cgroup.procs");
    fs::write(&procs, "0").map_err(|error| format!("entering {}: {error}", procs.display()))?;
    let IpAddr::V4(v4) = CANARY.address else { return Err("the canary has an IPv4 address".into()) };
    refused(v4.into())?;
    match refused(v4.to_ipv6_mapped().into()) {
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
    std::net::UdpSocket::bind((std::net::Ipv6Addr::UNSPECIFIED, 0)).is_ok()
}

/// The canary dials loopback only.
const _: () = assert!(matches!(CANARY.address, IpAddr::V4(address) if is_loopback(address)));

const fn is_loopback(address: Ipv4Addr) -> bool {
    address.octets()[0] == 127
}
