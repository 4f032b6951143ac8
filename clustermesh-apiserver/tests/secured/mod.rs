//! An etcd that admits its apiserver only.
#![allow(clippy::unwrap_used, clippy::panic, dead_code, unreachable_pub)]

use std::path::Path;
use std::process::{Child, Command, Stdio};

use mesh_kv::testing::free_port;

/// As the chart starts it; killed with the test.
pub struct Etcd(Child);

impl Etcd {
    pub fn start(tls: &Path, data: &Path, port: u16) -> Self {
        let (client, peer) =
            (format!("https://127.0.0.1:{port}"), format!("http://127.0.0.1:{}", free_port()));
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "etcd", "--name", "test", "--log-level", "error"]);
        command.arg("--data-dir").arg(data);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("test={peer}"), "--unsafe-no-fsync"]);
        command.arg("--cert-file").arg(tls.join("tls.crt")).arg("--key-file").arg(tls.join("tls.key"));
        command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(tls.join("ca.crt"));
        command.args(["--client-cert-allowed-hostname", "apiserver.clustermesh.internal"]);
        command.arg("--enable-grpc-gateway=false");
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
