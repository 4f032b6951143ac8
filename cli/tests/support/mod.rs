//! An apiserver and an agent for the command line to ask: HTTP on unix sockets, state in memory, on threads of their own.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

type Peers = Arc<Mutex<BTreeMap<String, Value>>>;

/// One cluster with one node.
pub(crate) struct Cluster {
    pub folder: PathBuf,
    pub peers: Peers,
}

impl Cluster {
    /// In `folder`/`name`, as an instance has it.
    pub(crate) fn serve(folder: &Path, name: &str, id: u8) -> Self {
        let folder = folder.join(name);
        std::fs::create_dir(&folder).unwrap();
        let peers = Peers::default();
        let (described, known) = (describe(name, id), peers.clone());
        listen(&folder.join("apiserver.sock"), move |method, path, body| match (method, path) {
            ("GET", "/v1/cluster") => (200, described.clone()),
            ("GET", "/v1/peers") => (200, json!({"items": entries(&known)})),
            ("POST", "/v1/probe") => (200, json!({"items": []})),
            ("POST", "/v1/invites") => (200, issued(&body)),
            ("PUT", path) => (200, put(&known, name_of(path), body)),
            ("DELETE", path) => {
                (200, json!({"changed": known.lock().unwrap().remove(name_of(path)).is_some()}))
            }
            _ => (404, json!({"error": format!("{path} is unknown"), "remedy": "ask for something else"})),
        });
        let (node, known) =
            (json!({"cluster": name, "cluster_id": id, "node": "n1", "version": "0.1.0"}), peers.clone());
        listen(&folder.join("agent.sock"), move |_, path, _| match path {
            "/v1/node" => (200, json!({"items": [node]})),
            "/v1/peers" => (200, json!({"items": rows(&known)})),
            _ => (404, Value::Null),
        });
        Self { folder, peers }
    }

    pub(crate) fn socket(&self) -> String {
        format!("--socket={}", self.folder.join("apiserver.sock").display())
    }

    pub(crate) fn knows(&self) -> Vec<String> {
        self.peers.lock().unwrap().keys().cloned().collect()
    }
}

fn describe(name: &str, id: u8) -> Value {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    json!({
        "name": name, "id": id, "version": "0.1.0", "leading": true, "time_unix_ms": now as u64,
        "ranges": {"pods": [format!("10.{id}.0.0/16")], "services": [], "nodes": [format!("192.168.{id}.0/24")]},
        "endpoints": [format!("https://192.168.{id}.1:2379")],
        "trust": format!("-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----\n"),
        "fingerprint": format!("{id:02X}:FF"), "pod_endpoint": null, "certificates": [{
            "holder": "agent", "identity": format!("clustermesh://{name}/agent"), "serial": "01", "fingerprint": "02",
            "not_after_unix_s": now as u64 / 1000 + 604_805, "renewal_unix_s": now as u64 / 1000 + 201_605,
        }], "peers_store": "folder /peers",
    })
}

fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap()
}

fn put(peers: &Peers, name: &str, file: Value) -> Value {
    let before = peers.lock().unwrap().insert(name.into(), file.clone());
    json!({"changed": before.as_ref() != Some(&file)})
}

fn issued(request: &Value) -> Value {
    let token = format!("token-for-{}", request["name"].as_str().unwrap());
    json!({"id": "abc", "token": token, "expires_unix_s": 1, "fingerprint": "AB:CD"})
}

fn entries(peers: &Peers) -> Vec<Value> {
    let peers = peers.lock().unwrap();
    peers.iter().map(|(name, file)| json!({"name": name, "file": file, "reason": null})).collect()
}

fn rows(peers: &Peers) -> Vec<Value> {
    let row = |name: &String| {
        json!({"name": name, "state": "synced", "endpoints": [], "services": 1, "backends": 2, "rejected": 0,
            "rejections": []})
    };
    peers.lock().unwrap().keys().map(row).collect()
}

/// Answers one request per connection, until the test ends.
fn listen(socket: &Path, answer: impl Fn(&str, &str, Value) -> (u16, Value) + Send + 'static) {
    let listener = UnixListener::bind(socket).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            // Who goes away before the answer is not missed.
            let _gone = stream.and_then(|stream| serve(stream, &answer));
        }
    });
}

fn serve(mut stream: UnixStream, answer: &impl Fn(&str, &str, Value) -> (u16, Value)) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first)?;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        match header.trim().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().unwrap()
            }
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (status, body) = answer(method, path, serde_json::from_slice(&body).unwrap_or_default());
    let body = body.to_string();
    write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}
