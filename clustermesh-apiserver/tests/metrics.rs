//! The document of metrics is complete and true, by what the real binary serves.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../../node-agent/tests/document/mod.rs"]
mod document;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mesh_kv::testing::wait_until;

/// Ends the process with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn every_metric_is_documented_with_type_and_labels() {
    let folder = tempfile::tempdir().unwrap();
    // A problem and an object, so that their series are there. Nobody answers as etcd, which does not matter.
    std::fs::write(folder.path().join("broken.yaml"), "kind: [").unwrap();
    std::fs::write(folder.path().join("node.yaml"), "apiVersion: v1\nkind: Node\nmetadata: {name: hoth-1}\n")
        .unwrap();
    let peers = tempfile::tempdir().unwrap();
    std::fs::write(peers.path().join("yavin.yaml"), "id: 1\n").unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_clustermesh-apiserver")]);
    command.args(["--cluster-name", "hoth", "--cluster-id", "2", "--log-format", "json"]);
    command.args(["--etcd-endpoint", "http://127.0.0.1:1"]);
    command.arg("--source").arg(format!("manifests:{}", folder.path().display()));
    command.arg("--run-dir").arg(folder.path().join("run"));
    command.arg("--peers-dir").arg(peers.path()).arg("--state-dir").arg(peers.path().join("state"));
    let mut running = Running(command.stderr(Stdio::piped()).spawn().unwrap());
    // Kept open: a process that can't log any more is another one.
    let mut lines = BufReader::new(running.0.stderr.take().unwrap()).lines().map_while(Result::ok);
    let line = lines.find(|line| line.contains("admin server listens")).unwrap();
    let address = line.split("\"address\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    let drained = std::thread::spawn(move || lines.count());

    let mut text = String::new();
    wait_until("the source is read", Duration::from_secs(30), || {
        text = get(address, "/metrics");
        text.contains("clustermesh_source_problems{reason=\"syntax\"} 1")
            && text.contains("clustermesh_source_objects{kind=\"node\"}")
    });
    document::assert_documented(&text, &["Both binaries", "clustermesh-apiserver"]);
    drop(running);
    drained.join().unwrap();
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
