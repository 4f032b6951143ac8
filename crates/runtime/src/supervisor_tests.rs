use super::*;

const LONG: Duration = Duration::from_secs(10);

fn supervisor() -> Supervisor {
    Supervisor::new("test", CancellationToken::new())
}

async fn until_cancelled(token: CancellationToken) {
    token.cancelled().await;
}

#[tokio::test]
async fn a_cancelled_token_ends_everything_cleanly() {
    let mut supervisor = supervisor();
    let token = supervisor.token();
    supervisor.spawn("a", until_cancelled(token.clone()));
    supervisor.spawn("b", until_cancelled(token.clone()));
    token.cancel();
    supervisor.run(LONG).await.expect("a clean stop");
}

#[tokio::test]
async fn an_unexpected_end_is_fatal_and_cancels_the_others() {
    let mut supervisor = supervisor();
    let token = supervisor.token();
    supervisor.spawn("patient", until_cancelled(token.clone()));
    supervisor.spawn("brief", async {});
    let error = supervisor.run(LONG).await.expect_err("a task ended");
    assert_eq!(error.to_string(), "task test/brief ended although nothing told it to");
    assert!(token.is_cancelled());
}

#[tokio::test]
async fn a_panic_is_fatal_and_names_the_task() {
    let mut supervisor = supervisor();
    supervisor.spawn("fragile", async { assert!(std::hint::black_box(false), "the sky fell") });
    let error = supervisor.run(LONG).await.expect_err("a task panicked");
    assert_eq!(error.to_string(), "task test/fragile panicked: the sky fell");
}

#[tokio::test]
async fn a_failure_keeps_its_source() {
    let mut supervisor = supervisor();
    supervisor.spawn("reader", async { Err::<(), _>(std::io::Error::other("disk on fire")) });
    let error = supervisor.run(LONG).await.expect_err("a task failed");
    assert_eq!(error.to_string(), "task test/reader failed");
    assert_eq!(std::error::Error::source(&error).expect("has a source").to_string(), "disk on fire");
}

#[tokio::test]
async fn a_task_stopped_by_its_owner_may_end() {
    let mut supervisor = supervisor();
    let token = supervisor.token();
    let peer = supervisor.spawn_stoppable("peer", until_cancelled);
    peer.stop();
    supervisor.spawn("watcher", async move {
        token.cancelled().await;
        Err::<(), _>(std::io::Error::other("seen"))
    });
    let task = tokio::time::timeout(Duration::from_millis(50), supervisor.failure()).await;
    assert!(task.is_err(), "the end of a stopped task is no failure");
    let error = supervisor.stop(LONG).await.expect_err("failures while stopping are told");
    assert_eq!(error.to_string(), "task test/watcher failed");
}

#[tokio::test]
async fn a_task_that_does_not_stop_is_named_and_aborted() {
    let mut supervisor = supervisor();
    supervisor.spawn("stubborn", std::future::pending::<()>());
    supervisor.token().cancel();
    let error = supervisor.run(Duration::from_millis(50)).await.expect_err("a deadline");
    assert_eq!(error.to_string(), "still running 0.05 s after being told to stop: test/stubborn");
}

#[tokio::test]
async fn a_child_stops_with_its_parent_and_reports_through_it() {
    let mut parent = supervisor();
    let mut peers = parent.child("peers");
    peers.spawn("rebels", async { Err::<(), _>(std::io::Error::other("gone")) });
    parent.spawn("peers", peers.run(LONG));
    let error = parent.run(LONG).await.expect_err("a grandchild failed");
    let source = std::error::Error::source(&error).expect("has a source").to_string();
    assert_eq!(
        (error.to_string(), source),
        ("task test/peers failed".into(), "task test/peers/rebels failed".into())
    );
}
