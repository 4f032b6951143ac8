//! Compares `docs/metrics.md` with what a process exports. Shared by the tests of both binaries.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends there")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Name as Prometheus stores it → type and labels, as the document writes them.
type Rows = BTreeMap<String, String>;

/// The rows of the named sections of the document.
fn documented(sections: &[&str]) -> Rows {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut rows = Rows::new();
    let mut section = "";
    for line in text.lines() {
        section = line.strip_prefix("## ").unwrap_or(section);
        let Some(row) = line.strip_prefix("| `clustermesh_").filter(|_| sections.contains(&section)) else {
            continue;
        };
        let cells: Vec<&str> = row.split(" | ").map(|cell| cell.trim_matches([' ', '|'])).collect();
        assert_eq!(cells.len(), 5, "name, type, labels, meaning, alert: {line}");
        assert!(cells[3..].iter().all(|cell| !cell.is_empty()), "a cell is empty: {line}");
        let name = format!("clustermesh_{}", cells[0].trim_end_matches('`'));
        let before = rows.insert(name, format!("{} {}", cells[1], cells[2]));
        assert!(before.is_none(), "twice in the document: {line}");
    }
    rows
}

/// What a process exports, from its OpenMetrics text.
fn exported(text: &str) -> Rows {
    let mut rows = Rows::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (base, kind) = line.split_once(' ').unwrap();
        let name = match kind {
            "counter" => format!("{base}_total"),
            "info" => format!("{base}_info"),
            _ => base.to_owned(),
        };
        rows.insert(name, format!("{kind} {}", labels(text, base)));
    }
    rows
}

/// The labels of a metric's series, or `–`; a histogram's buckets are its own.
fn labels(text: &str, base: &str) -> String {
    let mut found = BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, rest)) = line.split_once('{') else { continue };
        let suffix = name.strip_prefix(base);
        if !matches!(suffix, Some("" | "_total" | "_info" | "_bucket")) {
            continue;
        }
        let inside = rest.rsplit_once('}').map_or(rest, |(inside, _)| inside);
        // A key stands at the beginning or behind a comma; values here hold neither.
        found.extend(inside.split(',').filter_map(|pair| Some(pair.split_once('=')?.0.to_owned())));
    }
    found.remove("le");
    let found: Vec<String> = found.iter().map(|label| format!("`{label}`")).collect();
    if found.is_empty() { "–".into() } else { found.join(", ") }
}

/// Panics with the difference between the document and what is exported. Every family must have a series by
/// then: the text leaves out those without.
pub(crate) fn assert_documented(text: &str, sections: &[&str]) {
    let (documented, exported) = (documented(sections), exported(text));
    let only = |a: &Rows, b: &Rows| -> Vec<String> {
        let missing = a.iter().filter(|(name, row)| b.get(*name) != Some(row));
        missing.map(|(name, row)| format!("\n  {name} {row}")).collect()
    };
    let (undocumented, gone) = (only(&exported, &documented), only(&documented, &exported));
    assert!(
        undocumented.is_empty() && gone.is_empty(),
        "docs/metrics.md differs in name, type or labels.\nOnly exported:{}\nOnly in the document:{}",
        undocumented.concat(),
        gone.concat()
    );
}
