//! Fixtures for tests of this and other crates: a real etcd as a child process, a slow path to it, a throwaway CA.
//!
//! Panics where a fixture can't be made: there is no test without it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::missing_panics_doc)]

mod fill;
mod history;
mod proxy;

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mesh_trust::Certificate;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

pub use history::Past;
pub use proxy::Proxy;

use crate::etcd_endpoint::EtcdEndpoint;

/// How long an etcd may take to serve; it takes a second on an idle machine.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// Checks a predicate until it holds.
pub fn wait_until(what: &str, deadline: Duration, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + deadline;
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within {deadline:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A port of 127.0.0.1 that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// An etcd of one member on 127.0.0.1. Killed when dropped, and when the thread that started it ends.
pub struct Etcd {
    child: Option<Child>,
    dir: PathBuf,
    client_port: u16,
    peer_port: u16,
    tls: Option<PathBuf>,
    /// Further arguments.
    more: Vec<String>,
}

impl Etcd {
    /// Starts one on a free port, with its data in `dir`.
    pub fn start(dir: &Path) -> Self {
        Self::start_with(dir, None, &[])
    }

    /// The same with further arguments.
    pub fn start_limited(dir: &Path, more: &[&str]) -> Self {
        Self::start_with(dir, None, more)
    }

    /// Starts one that speaks TLS with `ca.crt`, `tls.crt` and `tls.key` of `tls` and wants client certificates.
    pub fn start_tls(dir: &Path, tls: &Path) -> Self {
        Self::start_with(dir, Some(tls.into()), &[])
    }

    fn start_with(dir: &Path, tls: Option<PathBuf>, more: &[&str]) -> Self {
        let more: Vec<String> = more.iter().map(ToString::to_string).collect();
        // Another process may take a free port before etcd does.
        for _ in 0..5 {
            let (client_port, peer_port) = (free_port(), free_port());
            let (dir, tls, more) = (dir.join("etcd"), tls.clone(), more.clone());
            let mut etcd = Self { child: None, dir, client_port, peer_port, tls, more };
            if etcd.spawn() {
                return etcd;
            }
            etcd.remove_data();
        }
        panic!("etcd did not start: is it installed (Debian: etcd-server)?");
    }

    /// Whether it came to serve.
    fn spawn(&mut self) -> bool {
        let client = self.endpoint().to_string();
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        // setpriv makes the kernel kill etcd with the test, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "etcd", "--name", "test", "--log-level", "error"]);
        command.arg("--data-dir").arg(&self.dir);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("test={peer}"), "--unsafe-no-fsync"]);
        command.args(&self.more);
        if let Some(tls) = &self.tls {
            command.arg("--client-cert-auth");
            command.arg("--trusted-ca-file").arg(tls.join("ca.crt"));
            command.arg("--cert-file").arg(tls.join("tls.crt")).arg("--key-file").arg(tls.join("tls.key"));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = self.child.insert(command.spawn().expect("setpriv is part of util-linux"));
        let end = Instant::now() + START_DEADLINE;
        while Instant::now() < end {
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            if TcpStream::connect((Ipv4Addr::LOCALHOST, self.client_port)).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("etcd does not serve after {START_DEADLINE:?}");
    }

    pub fn endpoint(&self) -> EtcdEndpoint {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.client_port).parse().unwrap()
    }

    /// Whether it has not ended by itself.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts a killed one again, on its port and data.
    pub fn restart(&mut self) {
        self.kill();
        assert!(self.spawn(), "etcd did not start again on port {}", self.client_port);
    }

    /// Starts it again on its port, without its data.
    pub fn wipe(&mut self) {
        self.kill();
        self.remove_data();
        self.restart();
    }

    /// Writes a backup.
    pub fn back_up(&self, file: &Path) {
        self.ctl(&["snapshot", "save", &file.display().to_string()]);
    }

    /// Ends it and starts it again with what the backup holds, as its documentation says.
    pub fn restore(&mut self, backup: &Path) {
        self.restore_stopped(backup);
        self.restart();
    }

    /// The same, but leaves it stopped.
    pub fn restore_stopped(&mut self, backup: &Path) {
        self.kill();
        self.remove_data();
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let (data, cluster) = (self.dir.display().to_string(), format!("test={peer}"));
        let backup = backup.display().to_string();
        let arguments = ["snapshot", "restore", &backup, "--name", "test", "--data-dir", &data];
        let members = ["--initial-cluster", &cluster, "--initial-advertise-peer-urls", &peer];
        self.ctl(&[&arguments[..], &members].concat());
    }

    /// The same data on another port, where nobody who knows the first sees it. Kill this one before.
    pub fn on_another_port(&self) -> Self {
        assert!(self.child.is_none(), "two etcds can't share their data");
        for _ in 0..5 {
            let (client_port, peer_port) = (free_port(), self.peer_port);
            let (dir, tls, more) = (self.dir.clone(), self.tls.clone(), self.more.clone());
            let mut etcd = Self { child: None, dir, client_port, peer_port, tls, more };
            if etcd.spawn() {
                return etcd;
            }
        }
        panic!("etcd did not start on another port");
    }

    fn remove_data(&self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }

    /// Stops it without ending it.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets a frozen one go on.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Runs etcdctl against it, which must succeed.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        self.try_ctl(arguments).unwrap_or_else(|complaint| panic!("etcdctl {arguments:?}: {complaint}"))
    }

    /// Runs etcdctl against it. Returns what it printed, or what it complained of.
    pub fn try_ctl(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.endpoint().to_string()]);
        if let Some(tls) = &self.tls {
            command.arg("--cacert").arg(tls.join("ca.crt"));
            command.arg("--cert").arg(tls.join("tls.crt")).arg("--key").arg(tls.join("tls.key"));
        }
        let output = command.args(arguments).output().expect("etcdctl is installed (Debian: etcd-client)");
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A CA that lives as long as a test.
pub struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// The CA's certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Writes `ca.crt`, `tls.crt` and `tls.key` for 127.0.0.1 into a folder.
    pub fn issue(&self, name: &str, folder: &Path) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".into(), "localhost".into()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        // etcd's own gateway dials itself with the server's certificate.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("ca.crt"), &self.pem).unwrap();
        std::fs::write(folder.join("tls.crt"), certificate.pem()).unwrap();
        std::fs::write(folder.join("tls.key"), key.serialize_pem()).unwrap();
    }

    /// The CA's certificate, with a list that revokes the certificate in a folder.
    pub fn revoking(&self, folder: &Path) -> String {
        let leaf = CertificateDer::from_pem_file(folder.join("tls.crt")).unwrap();
        let serial = Certificate::read(&leaf).unwrap().serial.to_string();
        let serial: Vec<u8> = serial.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
        let (from, to) = (date_time_ymd(2020, 1, 1), date_time_ymd(2040, 1, 1));
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from_slice(&serial),
            revocation_time: from,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: from,
            next_update: to,
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        self.pem.clone() + &list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}
