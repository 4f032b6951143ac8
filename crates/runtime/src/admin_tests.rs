use std::os::unix::fs::MetadataExt;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

use super::*;

struct Served {
    listen: Listen,
    readiness: Readiness,
    token: CancellationToken,
    server: JoinHandle<Result<(), AdminError>>,
}

async fn serve(listen: Listen) -> Served {
    let (readiness, token) = (Readiness::default(), CancellationToken::new());
    let server = AdminServer::bind(listen).await.expect("binds");
    let listen = server.address().clone();
    let routes = health_routes(readiness.clone(), Arc::new(Registry::new("test", "0")))
        .route("/stuck", get(std::future::pending::<&str>));
    let server = tokio::spawn(server.serve(routes, token.clone()));
    Served { listen, readiness, token, server }
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("writes");
    let mut response = String::new();
    stream.read_to_string(&mut response).await.expect("reads");
    response
}

async fn request(listen: &Listen, path: &str) -> String {
    match listen {
        Listen::Tcp(address) => exchange(TcpStream::connect(address).await.expect("connects"), path).await,
        Listen::Unix(socket) => exchange(UnixStream::connect(socket).await.expect("connects"), path).await,
    }
}

fn loopback() -> Listen {
    Listen::Tcp(([127, 0, 0, 1], 0).into())
}

#[tokio::test]
async fn readyz_lists_what_is_missing_and_why() {
    let served = serve(loopback()).await;
    let maps = served.readiness.condition("maps", "the first plan");
    served.readiness.condition("canary", "a dial").ready();
    let response = request(&served.listen, "/readyz").await;
    assert!(response.starts_with("HTTP/1.1 503"), "{response}");
    assert!(response.ends_with("not ready\nmaps: the first plan\n"), "{response}");
    maps.ready();
    assert!(request(&served.listen, "/readyz").await.starts_with("HTTP/1.1 200"));
    served.readiness.remark("source", vec!["a.yaml is broken".into()]);
    let response = request(&served.listen, "/readyz").await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    assert!(response.ends_with("ok\nremark: source: a.yaml is broken\n"), "{response}");
}

#[tokio::test]
async fn livez_and_metrics_answer_on_tcp() {
    let served = serve(loopback()).await;
    assert!(request(&served.listen, "/livez").await.starts_with("HTTP/1.1 200"));
    let metrics = request(&served.listen, "/metrics").await;
    assert!(metrics.contains("clustermesh_build_info"), "{metrics}");
    assert!(metrics.contains("application/openmetrics-text"), "{metrics}");
}

#[tokio::test]
async fn a_unix_socket_is_private_and_goes_with_the_server() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("run/agent.sock");
    let served = serve(Listen::Unix(path.clone())).await;
    assert!(request(&served.listen, "/livez").await.starts_with("HTTP/1.1 200"));
    assert_eq!(std::fs::metadata(&path).expect("exists").mode() & 0o777, 0o600);
    served.token.cancel();
    served.server.await.expect("no panic").expect("a clean stop");
    assert!(!path.exists());
}

/// What a dead process leaves behind. A child that another test starts has the listener, too, until it executes its program,
/// and so long the socket answers.
fn leave_stale_socket(path: &std::path::Path) {
    drop(UnixListener::bind(path).expect("binds"));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while std::os::unix::net::UnixStream::connect(path).is_ok() {
        assert!(std::time::Instant::now() < deadline, "somebody goes on listening");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn a_stale_socket_is_replaced_but_a_live_one_is_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("agent.sock");
    leave_stale_socket(&path);
    assert!(path.exists(), "a dead process leaves its socket behind");
    let _served = serve(Listen::Unix(path.clone())).await;
    let error = AdminServer::bind(Listen::Unix(path)).await.expect_err("in use");
    assert!(matches!(error, AdminError::Lock(LockError::Held { .. })), "{error}");
}

#[tokio::test]
async fn a_socket_that_a_version_without_locks_answers_on_is_not_taken() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("agent.sock");
    let _older = UnixListener::bind(&path).expect("binds");
    let error = AdminServer::bind(Listen::Unix(path)).await.expect_err("in use");
    assert!(matches!(error, AdminError::InUse { .. }), "{error}");
}

#[tokio::test]
async fn of_many_that_start_at_once_on_a_stale_socket_one_listens() {
    let dir = tempfile::tempdir().expect("a directory");
    for round in 0..50 {
        // Each on a lock of its own: a child that another test starts has the last one's until it executes its program.
        let path = dir.path().join(format!("agent-{round}.sock"));
        leave_stale_socket(&path);
        let starting = (0..8).map(|_| tokio::spawn(AdminServer::bind(Listen::Unix(path.clone()))));
        let mut bound = Vec::new();
        for start in starting.collect::<Vec<_>>() {
            bound.extend(start.await.expect("no panic"));
        }
        assert_eq!(bound.len(), 1, "several believe that they are the only one");
    }
}

#[tokio::test]
async fn a_file_in_the_way_is_not_removed() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("agent.sock");
    std::fs::write(&path, "precious").expect("writes");
    let error = AdminServer::bind(Listen::Unix(path.clone())).await.expect_err("no socket");
    assert!(matches!(error, AdminError::NoSocket { .. }), "{error}");
    assert!(path.exists());
}

#[tokio::test]
async fn a_taken_address_is_named() {
    let served = serve(loopback()).await;
    let error = AdminServer::bind(served.listen.clone()).await.expect_err("taken");
    assert_eq!(error.to_string(), format!("cannot listen on {} for the admin server", served.listen));
}

#[tokio::test]
async fn an_endless_request_does_not_hold_up_the_stop() {
    let served = serve(loopback()).await;
    let Listen::Tcp(address) = served.listen else { unreachable!() };
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.write_all(b"GET /stuck HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("writes");
    served.token.cancel();
    let stopped = tokio::time::timeout(Duration::from_secs(10), served.server).await;
    stopped.expect("stops in time").expect("no panic").expect("a clean stop");
}
