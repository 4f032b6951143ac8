//! The flags that say how a process logs and where it is asked, and how durations are written.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, ValueEnum};

/// How this process logs.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logs")]
pub struct LogArgs {
    /// `text` for people, `json` (one object a line) for collectors. Logs go to stderr.
    #[arg(long, env = "CLUSTERMESH_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// What to log: a level (error, warn, info, debug, trace), or one per module, e.g. `info,mesh_kv=debug`.
    #[arg(long, env = "CLUSTERMESH_LOG", value_name = "FILTER", default_value = "info")]
    pub log_filter: String,
}

/// Shape of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Where probes and Prometheus reach this process.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Admin server")]
pub struct AdminArgs {
    /// Address of the admin server: /livez, /readyz (says what is missing) and /metrics.
    ///
    /// Port 0 takes a free one; the address is logged at start. There is no authentication: on anything but
    /// loopback, let a network policy decide who may connect.
    #[arg(
        long,
        env = "CLUSTERMESH_ADMIN_ADDRESS",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:0"
    )]
    pub admin_address: SocketAddr,
}

/// Parses a number with a unit: ms, s, m or h.
pub fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor_ms = match unit {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let number = number.parse::<u64>().ok();
    number
        .zip(factor_ms)
        .and_then(|(number, factor)| number.checked_mul(factor))
        .map(Duration::from_millis)
        .ok_or_else(|| "write a number and a unit (ms, s, m, h), e.g. 90s".into())
}

/// Parses the name of an instance: safe as a folder's; a bpf file system takes no dots.
pub fn instance(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if (1..=63).contains(&text.len()) && text.chars().all(plain) {
        return Ok(text.into());
    }
    Err("use 1 to 63 letters, digits, '-' and '_'".into())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        log: LogArgs,
        #[command(flatten)]
        admin: AdminArgs,
    }

    fn parse(more: &[&str]) -> Result<Flags, clap::Error> {
        Flags::try_parse_from(["test"].iter().chain(more))
    }

    #[test]
    fn bad_flags_are_refused_at_the_door() {
        for bad in [["--log-format", "xml"], ["--admin-address", "9000"]] {
            assert!(parse(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        for bad in ["", "2", "m", "2 m", "-1s", "1d", "99999999999999999999h"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_instance_is_a_folder_name() {
        assert!(instance("lab-1_b").is_ok());
        for bad in ["", ".", "a.b", "a/b", "..", &"a".repeat(64)] {
            assert!(instance(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn defaults_log_text_and_serve_on_loopback() {
        let flags = parse(&[]).expect("valid");
        assert_eq!(flags.log.log_format, LogFormat::Text);
        assert_eq!(flags.log.log_filter, "info");
        assert!(flags.admin.admin_address.ip().is_loopback());
    }
}
