//! Logs of the lab's processes: their unexpected lines, and their last ones when something failed.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::Lab;
use super::lab_dir;
use super::process;

/// Which processes' logs are held to the rule "no unexpected warn or error line".
const OURS: &[&str] = &[".agent.log", ".apiserver.log", ".standby.log"];

impl Lab {
    /// Fails when one of our processes logged a warning, an error or a panic that contains none of `allowed`.
    pub(crate) fn check_logs(&self, allowed: &[&str]) -> Result<()> {
        let mut unexpected = Vec::new();
        for log in self.logs()? {
            let name = log.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if OURS.iter().any(|end| name.ends_with(end)) {
                let text = fs::read_to_string(&log).with_context(|| format!("reading {}", log.display()))?;
                let odd = text
                    .lines()
                    .filter(|line| is_odd(line) && !allowed.iter().any(|part| line.contains(part)));
                unexpected.extend(odd.map(|line| format!("{name}: {line}")));
            }
        }
        ensure!(unexpected.is_empty(), "unexpected warnings and errors:\n{}", unexpected.join("\n"));
        Ok(())
    }

    fn logs(&self) -> Result<Vec<std::path::PathBuf>> {
        let folder = self.lab_dir.path().join("log");
        let entries = fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
        let mut logs = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        logs.sort();
        Ok(logs)
    }

    /// Shows the end of every log on stderr, for whoever looks into a failure.
    pub fn say_tails(&self) {
        // Logs that end because of a signal explain nothing.
        lab_dir::stand_aside();
        eprintln!("the logs end with:\n{}", self.tails(12));
    }

    fn tails(&self, lines: usize) -> String {
        let logs = self.logs().unwrap_or_default();
        let shown = logs.iter().filter(|log| fs::metadata(log).is_ok_and(|file| file.len() > 0));
        shown.map(|log| format!("  {}\n{}", log.display(), process::tail(Path::new(log), lines))).collect()
    }
}

fn is_odd(line: &str) -> bool {
    // The level is the second word, after the time; a panic has no level.
    matches!(line.split_whitespace().nth(1), Some("WARN" | "ERROR")) || line.contains("panicked at")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_errors_and_panics_are_odd() {
        assert!(is_odd("2026-11-24T19:00:00.000000Z  WARN node_agent::peers: peer refused peer=hoth"));
        assert!(is_odd("2026-11-24T19:00:00.000000Z ERROR node_agent: giving up"));
        assert!(is_odd("thread 'main' panicked at node-agent/src/main.rs:1:1:"));
        assert!(!is_odd("2026-11-24T19:00:00.000000Z  INFO node_agent: no WARN here"));
    }
}
