//! A row of the result: a name, a value, and what was hoped for.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
    /// Nothing to reach: shown for comparison.
    None,
}

#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) goal: Goal,
}

impl Row {
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: &'static str, goal: Goal) -> Self {
        Self { name: name.into(), value, unit, goal }
    }

    /// A value without a goal.
    pub(crate) fn shown(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self::new(name, value, unit, Goal::None)
    }

    /// Nothing where there is no goal.
    fn ok(&self) -> Option<bool> {
        match self.goal {
            Goal::AtMost(most) => Some(self.value <= most),
            Goal::AtLeast(least) => Some(self.value >= least),
            Goal::None => None,
        }
    }

    fn wanted(&self) -> String {
        match self.goal {
            Goal::AtMost(most) => format!("<= {most}"),
            Goal::AtLeast(least) => format!(">= {least}"),
            Goal::None => String::new(),
        }
    }
}

/// For people.
pub(crate) fn table(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for row in rows {
        let verdict = match row.ok() {
            Some(true) => "ok",
            Some(false) => "MISSED",
            None => "",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:width$}  {:>14} {:8} {:>10}  {verdict}",
            row.name,
            digits(row.value),
            row.unit,
            row.wanted()
        );
    }
    text
}

fn digits(value: f64) -> String {
    if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}

/// For programs.
pub(crate) fn write(path: &Path, rows: &[Row]) -> Result<()> {
    let entry = |row: &Row| {
        let goal = Some(row.wanted()).filter(|wanted| !wanted.is_empty());
        (row.name.clone(), json!({"value": row.value, "unit": row.unit, "goal": goal, "ok": row.ok()}))
    };
    let all: BTreeMap<String, Value> = rows.iter().map(entry).collect();
    let text = serde_json::to_string_pretty(&all).context("rendering the result")? + "\n";
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_judge_both_ways_and_their_absence_does_not() {
        assert_eq!(Row::new("a", 1.02, "x", Goal::AtMost(1.03)).ok(), Some(true));
        assert_eq!(Row::new("a", 0.98, "x", Goal::AtLeast(0.99)).ok(), Some(false));
        assert_eq!(Row::shown("a", 1.0, "x").ok(), None);
    }
}
