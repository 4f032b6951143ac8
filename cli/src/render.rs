//! Tables for people, JSON and YAML for programs.

use anyhow::Result;
use comfy_table::{Table, presets};
use mesh_admin::api::List;
use serde::Serialize;

use crate::args::Output;

/// Prints a list: as a table of the given columns, or whole.
pub(crate) fn items<T: Serialize>(
    items: Vec<T>,
    output: Output,
    header: &[&str],
    rows: impl FnOnce(&[T]) -> Vec<Vec<String>>,
) -> Result<()> {
    match output {
        Output::Table | Output::Wide => table(header, rows(&items)),
        Output::Json => print(&(serde_json::to_string_pretty(&List { items })? + "\n")),
        Output::Yaml => print(&serde_saphyr::to_string(&List { items })?),
    }
}

/// Columns two spaces apart, as kubectl prints them.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) -> Result<()> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: String = table.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
    print(&lines)
}

/// Prints text. A reader that has gone, as `head` does, ends this quietly.
pub(crate) fn print(text: &str) -> Result<()> {
    if cfg!(test) {
        // The test's harness keeps this to itself unless the test fails.
        print!("{text}");
        return Ok(());
    }
    Ok(mesh_runtime::process::print(text)?)
}

/// The cell of a table for something that is not there.
pub(crate) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

/// For how long a certificate still counts.
pub(crate) fn left(seconds: u64) -> String {
    match seconds {
        0 => "expired".into(),
        172_800.. => format!("{} d", seconds / 86_400),
        7200.. => format!("{} h", seconds / 3600),
        _ => format!("{} min", seconds / 60),
    }
}
