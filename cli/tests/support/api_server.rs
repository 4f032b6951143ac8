//! A Kubernetes API server with one ready pod per component, in which the real command line runs: as much of one as
//! `--context` needs.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Message, WebSocket, accept_hdr};

/// What a server is like.
#[derive(Clone)]
pub(crate) struct Spec {
    /// The folder that pods see as their instance's.
    pub instance: PathBuf,
    pub protocol: &'static str,
    /// What runs as `/clustermesh` there.
    pub program: PathBuf,
    /// Whether the user may exec.
    pub may_exec: bool,
}

/// Serves until the test ends; returns the address.
pub(crate) fn serve(spec: Spec) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let spec = spec.clone();
            thread::spawn(move || answer(stream.unwrap(), &spec));
        }
    });
    format!("http://{address}")
}

/// A kubeconfig with a context for each name and server.
pub(crate) fn kubeconfig(folder: &Path, contexts: &[(&str, &str)]) -> PathBuf {
    let cluster = |(name, server): &(&str, &str)| json!({"name": name, "cluster": {"server": server}});
    let context =
        |(name, _): &(&str, &str)| json!({"name": name, "context": {"cluster": name, "user": "admin"}});
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": contexts[0].0,
        "clusters": contexts.iter().map(cluster).collect::<Vec<_>>(),
        "contexts": contexts.iter().map(context).collect::<Vec<_>>(),
        "users": [{"name": "admin", "user": {"token": "x"}}],
    });
    let path = folder.join("kubeconfig");
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

/// One connection: an exec, or requests one after the other.
fn answer(mut stream: TcpStream, spec: &Spec) {
    loop {
        let mut start = [0; 512];
        let Ok(length @ 1..) = stream.peek(&mut start) else { return };
        let start = String::from_utf8_lossy(&start[..length]).into_owned();
        let path = start.split(' ').nth(1).unwrap_or_default().to_owned();
        if path.contains("/exec?") && spec.may_exec {
            return exec(stream, spec);
        }
        let Some(()) = read_head(&mut stream) else { return };
        let (status, body) = respond(&path);
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}",
            body.len()
        );
        if write!(stream, "{head}\r\n\r\n{body}").is_err() {
            return;
        }
    }
}

/// Skips to the end of a request without a body.
fn read_head(stream: &mut TcpStream) -> Option<()> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    Some(())
}

fn respond(path: &str) -> (u16, String) {
    let (status, body) = match path {
        _ if path.contains("/pods?") => {
            let component = if path.contains("node-agent") { "node-agent" } else { "apiserver" };
            (
                200,
                json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods(path, component)}),
            )
        }
        _ => (
            403,
            json!({"kind": "Status", "status": "Failure", "code": 403, "reason": "Forbidden", "message": "no"}),
        ),
    };
    (status, body.to_string())
}

fn pods(path: &str, component: &str) -> Vec<Value> {
    let pod = |name: &str, ready: &str, day: u8| {
        json!({
            "metadata": {"name": format!("{component}-{name}"), "creationTimestamp": format!("2026-01-0{day}T00:00:00Z")},
            "spec": {"nodeName": "n1", "containers": []},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        })
    };
    match path.contains("/namespaces/clustermesh/") {
        true => vec![pod("old", "False", 1), pod("good", "True", 2), pod("new", "False", 3)],
        false => Vec::new(),
    }
}

fn exec(stream: TcpStream, spec: &Spec) {
    let mut query = String::new();
    #[allow(clippy::result_large_err, reason = "the library asks for it")]
    let callback = |request: &Request, mut response: Response| {
        query = request.uri().query().unwrap_or_default().to_owned();
        let protocol = HeaderValue::from_static(spec.protocol);
        response.headers_mut().insert("sec-websocket-protocol", protocol);
        Ok(response)
    };
    let mut socket = accept_hdr(stream, callback).unwrap();
    let command = command(&query);
    assert_eq!(command[0], "/clustermesh");
    let wanted = command.iter().find_map(|word| word.strip_prefix("--body-bytes=")?.parse().ok());
    let body = read_body(&mut socket, wanted.unwrap_or(0));
    let status = match run(spec, &command[1..], &body) {
        Ok(output) => {
            send(&mut socket, 1, &output.stdout);
            send(&mut socket, 2, &output.stderr);
            status(output.status.code().unwrap_or(137))
        }
        // As containerd says it.
        Err(error) => json!({"status": "Failure", "reason": "InternalError",
            "message": format!("exec: \"/clustermesh\": stat /clustermesh: {error}")}),
    };
    send(&mut socket, 3, status.to_string().as_bytes());
    let _gone = socket.close(None);
    while socket.read().is_ok() {}
}

fn status(code: i32) -> Value {
    match code {
        0 => json!({"status": "Success"}),
        code => json!({"status": "Failure", "reason": "NonZeroExitCode", "message": "command terminated",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}}),
    }
}

fn command(query: &str) -> Vec<String> {
    let words = query.split('&').filter_map(|pair| pair.strip_prefix("command="));
    words
        .map(|word| word.replace("%2F", "/").replace("%3D", "=").replace("%3F", "?").replace('+', " "))
        .collect()
}

fn read_body(socket: &mut WebSocket<TcpStream>, wanted: usize) -> Vec<u8> {
    let mut body = Vec::new();
    while body.len() < wanted {
        if let Message::Binary(frame) = socket.read().unwrap() {
            assert_eq!(frame[0], 0, "only standard input comes from the client");
            body.extend_from_slice(&frame[1..]);
        }
    }
    body
}

fn run(spec: &Spec, arguments: &[String], body: &[u8]) -> std::io::Result<std::process::Output> {
    let mut child = Command::new(&spec.program)
        .args(arguments)
        .env("CLUSTERMESH_RUN_DIR", spec.instance.parent().unwrap())
        .env("CLUSTERMESH_INSTANCE", spec.instance.file_name().unwrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().unwrap().write_all(body)?;
    child.wait_with_output()
}

/// In several frames, as a kubelet sends more than a little.
fn send(socket: &mut WebSocket<TcpStream>, channel: u8, bytes: &[u8]) {
    for chunk in bytes.chunks(1000) {
        let frame = [&[channel], chunk].concat();
        socket.send(Message::binary(frame)).unwrap();
    }
}
