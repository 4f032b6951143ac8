//! The live view of a whole run as a picture (SVG): a bar per second and client cluster, the steps, the table.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::board::Board;
use super::seconds::{Second, Seconds};
use super::step::Outcomes;
use super::terminal::thousands;

const WIDTH: usize = 920;
const LEFT: usize = 130;
const PLOT: usize = WIDTH - LEFT - 20;
const PANEL: usize = 90;
const TOP: usize = 84;
const GAP: usize = 34;
const COLOURS: [&str; 5] = ["#56b4e9", "#e69f00", "#cc79a7", "#009e73", "#f0e442"];
const RED: &str = "#ff4d4d";
const STYLE: &str = "text{font:13px ui-monospace,Menlo,Consolas,monospace;fill:#d0d7de}.b{font-weight:bold}\
                     .f{fill:#8b949e}.r{fill:#ff4d4d}";

/// Writes the picture of a run that is over.
pub fn write(path: &Path, board: &Board, steps: &[Outcomes]) -> Result<()> {
    let text = draw(board, steps);
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

fn draw(board: &Board, steps: &[Outcomes]) -> String {
    let scenes = board.scenes();
    // Second 0 is the first step's: before, there is nothing to see.
    let base_us = scenes.first().map_or(board.begun_us, |scene| scene.begun_us);
    let mut seconds = Seconds::since(base_us);
    seconds.update(board);
    // The last second is not a whole one.
    let count = seconds.count().saturating_sub(1).max(1);
    let table = TOP + board.clusters.len() * (PANEL + GAP) + 24;
    let height = table + (steps.len() + 1) * 22 + 12;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\">\n\
         <style>{STYLE}</style>\n<rect width=\"{WIDTH}\" height=\"{height}\" rx=\"8\" fill=\"#0d1117\"/>\n"
    );
    head(&mut svg, &board.clusters);
    for home in 0..board.clusters.len() {
        let top = TOP + home * (PANEL + GAP);
        panel(&mut svg, board, &seconds, (home, top), count);
    }
    let bottom = TOP + board.clusters.len() * (PANEL + GAP) - GAP;
    for (number, scene) in scenes.iter().enumerate() {
        let x = LEFT as f64 + since(base_us, scene.begun_us) * PLOT as f64 / count as f64;
        push(
            &mut svg,
            format_args!(
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{}\" y2=\"{bottom}\" stroke=\"#8b949e\" stroke-dasharray=\"2 3\"/>\n",
                TOP - 14
            ),
        );
        text(&mut svg, (x + 4.0, TOP - 5), "b", &format!("{}", number + 1));
    }
    axis(&mut svg, bottom + 16, count);
    rows(&mut svg, table, &board.clusters, steps);
    svg + "</svg>\n"
}

fn since(base_us: u64, unix_us: u64) -> f64 {
    Duration::from_micros(unix_us.saturating_sub(base_us)).as_secs_f64()
}

fn push(svg: &mut String, text: std::fmt::Arguments<'_>) {
    svg.write_fmt(text).expect("writing to a String does not fail");
}

fn text(svg: &mut String, (x, y): (f64, usize), class: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    push(
        svg,
        format_args!("<text x=\"{x:.1}\" y=\"{y}\" class=\"{class}\" xml:space=\"preserve\">{text}</text>\n"),
    );
}

fn head(svg: &mut String, clusters: &[String]) {
    text(svg, (20.0, 30), "b", "make demo: who answers rebel-base, per second");
    let mut x = LEFT;
    text(svg, (20.0, 54), "f", "answered by");
    let entries = clusters.iter().zip(COLOURS).map(|(name, colour)| (name.as_str(), colour));
    for (name, colour) in entries.chain([("error", RED)]) {
        push(svg, format_args!("<rect x=\"{x}\" y=\"43\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\n"));
        text(svg, (x as f64 + 18.0, 54), "", name);
        x += 50 + name.len() * 8;
    }
}

fn panel(svg: &mut String, board: &Board, seconds: &Seconds, (home, top): (usize, usize), count: usize) {
    text(svg, (20.0, top + 20), "", "x-wings in");
    text(svg, (20.0, top + 38), "b", &board.clusters[home]);
    let of_home = |second: usize| seconds.at(second).map(|seen| &seen[home]);
    let most = (0..count).filter_map(of_home).map(Second::total).max().unwrap_or_default().max(1);
    text(svg, (20.0, top + 56), "f", &format!("{most}/s at most"));
    let width = PLOT as f64 / count as f64;
    for second in 0..count {
        if let Some(seen) = of_home(second) {
            column(svg, seen, most, (LEFT as f64 + second as f64 * width, top), width - 1.5);
        }
    }
}

/// Errors stand at the bottom, where the eye starts; then the clusters in their order.
fn column(svg: &mut String, second: &Second, most: usize, (x, top): (f64, usize), width: f64) {
    let mut y = (top + PANEL) as f64;
    let parts = [(second.failed(), RED)].into_iter().chain(second.answers.iter().copied().zip(COLOURS));
    for (count, colour) in parts.filter(|(count, _)| *count > 0) {
        // Even a single error must be seen.
        let height = (count as f64 * PANEL as f64 / most as f64).max(if colour == RED { 3.0 } else { 0.0 });
        y -= height;
        push(
            svg,
            format_args!(
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>\n"
            ),
        );
    }
}

fn axis(svg: &mut String, y: usize, count: usize) {
    for second in (0..count).step_by(5) {
        let x = LEFT as f64 + (second * PLOT) as f64 / count as f64;
        text(svg, (x, y), "f", &format!("{second} s"));
    }
}

fn rows(svg: &mut String, top: usize, clusters: &[String], steps: &[Outcomes]) {
    let names: String = clusters.iter().map(|name| format!("{name:>8}")).collect();
    let head = format!(
        "    {:<30}{:>9}{:>8}{names}{:>11}{:>11}",
        "step", "requests", "errors", "control", "traffic"
    );
    text(svg, (20.0, top), "f", &head);
    for (number, step) in steps.iter().enumerate() {
        let share =
            |name: &String| format!("{:>6.0} %", step.shares.get(name).copied().unwrap_or_default() * 100.0);
        let shares: String = clusters.iter().map(share).collect();
        let time = |time: Option<Duration>| {
            time.map_or_else(|| "–".into(), |time| format!("{:.1} ms", time.as_secs_f64() * 1000.0))
        };
        let name = &step.name;
        let row = format!(
            "{:>2}  {name:<30}{:>9}        {shares}{:>11}{:>11}",
            number + 1,
            thousands(step.requests),
            time(step.control),
            time(step.traffic)
        );
        let y = top + (number + 1) * 22;
        text(svg, (20.0, y), "", &row);
        // Over the gap that the row left: errors have a colour of their own.
        let errors = step.failed_requests();
        let class = if errors > 0 { "r" } else { "" };
        text(svg, (20.0, y), class, &format!("{:>51}", thousands(errors)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::client::Records;
    use crate::load::record::{Failure, Outcome, Record};
    use crate::story::board::{Scene, XWing};

    /// Ten seconds; hoth stops answering in the middle, and two connections are refused.
    fn told() -> Board {
        let board = Board::new(vec!["hoth".into(), "yavin".into()], 2);
        for home in ["hoth", "yavin"] {
            let records = Records::default();
            for tick in 0..1010 {
                let outcome = match tick {
                    500 => Outcome::Error(Failure::Refused),
                    _ if tick > 500 || tick % 2 == 0 => Outcome::Answer("yavin/a".into()),
                    _ => Outcome::Answer("hoth/a".into()),
                };
                let start_unix_us = board.begun_us + tick * 10_000;
                records.push(Record { start_unix_us, latency_us: 100, outcome });
            }
            board.join(XWing { cluster: home.into(), records });
        }
        for (name, second) in [("both clusters answer", 0), ("hoth: pods deleted", 5)] {
            let begun_us = board.begun_us + second * 1_000_000;
            board.begin(Scene { name: name.into(), tale: String::new(), begun_us });
        }
        board
    }

    fn outcomes(name: &str) -> Outcomes {
        Outcomes {
            name: name.into(),
            requests: 1000,
            errors: [(Failure::Refused, 2)].into(),
            shares: [("hoth".to_owned(), 0.5), ("yavin".to_owned(), 0.5)].into(),
            control: Some(Duration::from_micros(12_345)),
            traffic: None,
            failures: Vec::new(),
        }
    }

    #[test]
    fn a_picture_has_a_column_per_second_and_shows_single_errors() {
        let board = told();
        let svg = draw(&board, &[outcomes("both clusters answer"), outcomes("hoth: pods deleted")]);
        // Per cluster: five seconds with two colours, five with one, one with an error; and three in the legend. The last tenth is no second.
        let coloured = svg.matches("<rect x=").count();
        assert_eq!(coloured, 2 * (5 * 2 + 5 + 1) + 3, "{svg}");
        assert_eq!(svg.matches(RED).count(), 2 + 1 + 1, "{svg}");
        assert!(svg.ends_with("</svg>\n"));
    }
}
