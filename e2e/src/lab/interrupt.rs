//! Signals that end a lab's process: it ends its labs first.

use std::sync::Once;
use std::thread;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::lab_dir;

static WATCH: Once = Once::new();

/// Begins, once per process, to answer SIGINT, SIGTERM and SIGHUP with teardown and the customary exit status.
pub(super) fn watch() {
    WATCH.call_once(|| {
        let (ready, wait) = std::sync::mpsc::channel();
        // A thread of its own: it must act however busy or stuck every other one is.
        let started = thread::Builder::new().name("lab-signals".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(answer(&ready)),
                Err(error) => eprintln!("lab: cannot watch signals: {error}"),
            }
        });
        match started {
            // An error here means that the thread has ended and said why.
            Ok(_) => drop(wait.recv()),
            Err(error) => eprintln!("lab: cannot watch signals: {error}"),
        }
    });
}

async fn answer(ready: &std::sync::mpsc::Sender<()>) {
    let listen = |kind| signal(kind).inspect_err(|error| eprintln!("lab: cannot watch a signal: {error}"));
    let (Ok(interrupt), Ok(terminate), Ok(hangup)) =
        (listen(SignalKind::interrupt()), listen(SignalKind::terminate()), listen(SignalKind::hangup()))
    else {
        return;
    };
    // The receiver waits for exactly this.
    let _ = ready.send(());
    let status = first(interrupt, terminate, hangup).await;
    lab_dir::tear_down_all();
    std::process::exit(status);
}

async fn first(mut interrupt: Signal, mut terminate: Signal, mut hangup: Signal) -> i32 {
    tokio::select! {
        _ = interrupt.recv() => 128 + 2,
        _ = terminate.recv() => 128 + 15,
        _ = hangup.recv() => 128 + 1,
    }
}
