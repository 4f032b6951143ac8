//! Signals, seen from outside: the test starts itself as a process and sends it some.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use mesh_runtime::Supervisor;

/// Makes the started process play a part instead of running the test.
const PART: &str = "SIGNALS_TEST_PART";

/// Runs until told to stop; `stubborn` takes no notice of that.
fn play(part: &str) -> ! {
    let stubborn = part == "stubborn";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let outcome = runtime.block_on(async {
        let mut supervisor = Supervisor::with_signals("part").unwrap();
        let token = supervisor.token();
        supervisor.spawn("task", async move {
            println!("ready");
            token.cancelled().await;
            println!("told");
            if stubborn {
                std::future::pending::<()>().await;
            }
        });
        supervisor.run(Duration::from_secs(60)).await
    });
    std::process::exit(if outcome.is_ok() { 0 } else { 1 });
}

struct Process {
    child: Child,
    lines: Option<std::io::Lines<BufReader<std::process::ChildStdout>>>,
}

impl Process {
    fn start(test: &str, part: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", test, "--nocapture"])
            .env(PART, part)
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines: Some(lines) }
    }

    fn until(&mut self, wanted: &str) {
        assert!(
            self.lines.as_mut().unwrap().any(|line| line.unwrap().ends_with(wanted)),
            "the process ended without {wanted:?}"
        );
    }

    /// Reads no more of what it prints.
    fn leave(&mut self) {
        self.lines = None;
    }

    fn send(&self, signal: &str) {
        let sent = Command::new("kill").args(["-s", signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    fn status(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the process does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_signal_stops_gracefully() {
    if let Ok(part) = std::env::var(PART) {
        play(&part);
    }
    for signal in ["TERM", "INT"] {
        let mut process = Process::start("a_signal_stops_gracefully", "obedient");
        process.until("ready");
        process.send(signal);
        process.until("told");
        assert_eq!(process.status().code(), Some(0));
    }
}

#[test]
fn a_second_signal_exits_at_once() {
    if let Ok(part) = std::env::var(PART) {
        play(&part);
    }
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let mut process = Process::start("a_second_signal_exits_at_once", "stubborn");
        process.until("ready");
        process.send("TERM");
        process.until("told");
        process.send(signal);
        assert_eq!(process.status().code(), Some(code));
    }
}

#[test]
fn a_blocked_thread_does_not_hold_up_the_end() {
    if let Ok(part) = std::env::var(PART) {
        let stopped = mesh_runtime::process::block_on(async {
            let mut supervisor = Supervisor::with_signals("part").unwrap();
            let token = supervisor.token();
            supervisor.spawn("task", async move {
                // As a read of a disk that hangs.
                let blocked = tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_secs(600)));
                println!("ready");
                if part == "obedient" {
                    token.cancelled().await;
                } else {
                    blocked.await.unwrap();
                }
            });
            supervisor.run(Duration::from_millis(200)).await
        });
        std::process::exit(if stopped.unwrap().is_ok() { 0 } else { 1 });
    }
    for (part, code) in [("obedient", 0), ("stubborn", 1)] {
        let mut process = Process::start("a_blocked_thread_does_not_hold_up_the_end", part);
        process.until("ready");
        process.send("TERM");
        assert_eq!(process.status().code(), Some(code), "{part}");
    }
}

#[test]
fn a_worker_that_blocks_does_not_hold_up_the_end() {
    if std::env::var(PART).is_ok() {
        let stopped = mesh_runtime::process::block_on(async {
            let mut supervisor = Supervisor::with_signals("part").unwrap();
            supervisor.spawn("task", async move {
                println!("ready");
                std::thread::sleep(Duration::from_secs(600));
            });
            supervisor.run(Duration::from_millis(200)).await
        });
        std::process::exit(if stopped.unwrap().is_ok() { 0 } else { 1 });
    }
    let mut process = Process::start("a_worker_that_blocks_does_not_hold_up_the_end", "blocked");
    process.until("ready");
    process.send("TERM");
    assert_eq!(process.status().code(), Some(1));
}

#[test]
fn a_closed_pipe_ends_quietly() {
    if std::env::var(PART).is_ok() {
        println!("ready");
        let many = "line\n".repeat(100_000);
        let error = mesh_runtime::process::print(&many).unwrap_err();
        let status = mesh_runtime::process::failed("part", &error);
        std::process::exit(if format!("{status:?}").contains("141") { 141 } else { 1 });
    }
    let mut process = Process::start("a_closed_pipe_ends_quietly", "printing");
    // The test's harness, which has printed its own lines by then, would panic.
    process.until("ready");
    process.leave();
    assert_eq!(process.status().code(), Some(141));
}
