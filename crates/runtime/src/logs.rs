//! Where log lines go: tracing to stderr, as text or JSON. Nothing is ever logged to stdout.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::TryInitError;

use crate::args::{LogArgs, LogFormat};

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error(
        "--log-filter {filter:?} is not a filter; write a level such as `debug`, or `info,mesh_kv=debug`"
    )]
    Filter { filter: String, source: ParseError },
    #[error("logging is already set up in this process")]
    Twice(#[source] TryInitError),
}

/// Sends this process's log lines to stderr. Call it once, before anything logs.
pub fn init(args: &LogArgs) -> Result<(), LogError> {
    use tracing_subscriber::util::SubscriberInitExt;

    let filter = parse_filter(&args.log_filter)?;
    // It would tell of a line that can't be written with eprintln!, which panics where that can't be written, too:
    // a full disk below the log must end nobody.
    let lines = tracing_subscriber::fmt().log_internal_errors(false);
    let lines = lines.with_env_filter(filter).with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).finish().try_init(),
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init(),
    }
    .map_err(LogError::Twice)
}

fn parse_filter(filter: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::builder().parse(filter).map_err(|source| LogError::Filter { filter: filter.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_is_refused_with_the_remedy() {
        let error = parse_filter("info,mesh_kv=loud").expect_err("no such level");
        assert!(error.to_string().contains("--log-filter \"info,mesh_kv=loud\" is not a filter"), "{error}");
        parse_filter("info,mesh_kv=debug").expect("valid");
    }
}
