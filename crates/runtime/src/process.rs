//! The frame of a process: its runtime, what it prints, and the status that it ends with.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

/// The shell's status for a process that SIGPIPE ended, 128 + 13: what `head` does to those who write to it.
const CLOSED_PIPE: u8 = 141;

/// Why the output did not get out.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// Whoever reads it has seen enough, which is nobody's fault.
    #[error("the reader of the output has gone")]
    Closed,
    #[error("writing the output")]
    Failed(#[source] io::Error),
}

/// Writes text to stdout. `print!` would panic where its reader has gone.
pub fn print(text: &str) -> Result<(), OutputError> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => OutputError::Closed,
        _ => OutputError::Failed(error),
    })
}

/// Says on stderr why `program` failed. Returns the status for it; a closed pipe ends quietly.
pub fn failed(program: &str, error: &(dyn Error + 'static)) -> ExitCode {
    let mut causes = std::iter::successors(Some(error), |error: &&(dyn Error + 'static)| (*error).source());
    if causes.any(|cause| matches!(cause.downcast_ref(), Some(OutputError::Closed))) {
        return ExitCode::from(CLOSED_PIPE);
    }
    // Logs may not be set up yet. Where nobody reads this either, the status has to tell.
    let _unread = writeln!(io::stderr(), "{program}: {}", mesh_failure::chain(error));
    ExitCode::FAILURE
}

/// Runs a future to its end, then leaves: whatever still runs on blocking threads is not waited for, since a disk or
/// a DNS server that hangs would make SIGTERM hang, too.
pub fn block_on<F: Future>(future: F) -> io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let output = runtime.block_on(future);
    runtime.shutdown_background();
    Ok(output)
}
