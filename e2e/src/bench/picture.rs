//! How the product scales, drawn (SVG) from a result of `make bench`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

const WIDTH: f64 = 920.0;
const HEIGHT: f64 = 640.0;
/// A panel and the plot in it.
const PANEL: (f64, f64) = (440.0, 290.0);
const PLOT: (f64, f64) = (340.0, 180.0);
const COLOURS: [&str; 3] = ["#56b4e9", "#e69f00", "#cc79a7"];
const STYLE: &str =
    "text{font:13px ui-monospace,Menlo,Consolas,monospace;fill:#d0d7de}.b{font-weight:bold}.f{fill:#8b949e}";

#[derive(Deserialize)]
struct Cell {
    value: f64,
}

type Cells = BTreeMap<String, Cell>;

/// Draws the result in one file into another.
pub fn run(json: &Path, svg: &Path) -> Result<()> {
    let text = fs::read(json).with_context(|| format!("reading {}", json.display()))?;
    let cells = serde_json::from_slice(&text).with_context(|| format!("{} is no result", json.display()))?;
    fs::write(svg, draw(&cells)?).with_context(|| format!("writing {}", svg.display()))
}

struct Series {
    name: &'static str,
    /// By a size.
    points: Vec<(f64, f64)>,
}

struct Panel {
    title: &'static str,
    /// Of the sizes.
    unit: &'static str,
    series: Vec<Series>,
    /// Where the values grow with the size, both scales are logarithmic; else the values begin at 0.
    grows: bool,
}

fn panels(cells: &Cells) -> Result<Vec<Panel>> {
    let value =
        |name: &str| Ok::<_, anyhow::Error>(cells.get(name).with_context(|| format!("no row {name}"))?.value);
    let all = |points: &[(f64, &str)]| {
        points.iter().map(|(x, name)| Ok((*x, value(name)?))).collect::<Result<Vec<_>>>()
    };
    let mesh = value("connect_mesh_beside_no_hook")?;
    let mesh_1000 = (1e3, mesh * value("connect_mesh_1000_services")?);
    let mesh_100000 = (1e5, mesh * value("connect_mesh_100000_services")?);
    let nft = all(&[(1e1, "connect_nft_10"), (1e4, "connect_nft_10000")])?;
    let hook = all(&[
        (1.0, "hook_1_groups"),
        (2.0, "hook_2_groups"),
        (4.0, "hook_4_groups"),
        (16.0, "hook_16_groups"),
    ])?;
    let seconds = all(&[(1e4, "peer_10k_seconds"), (1e5, "peer_100k_seconds"), (1e6, "peer_1m_seconds")])?;
    let heap = all(&[(1e4, "peer_10k_heap"), (1e5, "peer_100k_heap"), (1e6, "peer_1m_heap")])?;
    Ok(vec![
        Panel {
            title: "connect + close, times a dial without a hook",
            unit: "services",
            series: vec![
                Series { name: "ClusterMesh", points: vec![(1e1, mesh), mesh_1000, mesh_100000] },
                Series { name: "nftables DNAT", points: nft },
            ],
            grows: false,
        },
        Panel {
            title: "a run of the hook, times an empty one",
            unit: "clusters behind the service",
            series: vec![Series { name: "ClusterMesh", points: hook }],
            grows: false,
        },
        Panel {
            title: "from connect to all maps written, seconds",
            unit: "backends of a peer",
            series: vec![
                Series { name: "many services", points: seconds },
                Series { name: "one service", points: all(&[(1e5, "peer_100k_in_one_seconds")])? },
            ],
            grows: true,
        },
        Panel {
            title: "the agent's heap, bytes per backend",
            unit: "backends of a peer",
            series: vec![
                Series { name: "many services", points: heap },
                Series { name: "one service", points: all(&[(1e5, "peer_100k_in_one_heap")])? },
            ],
            grows: false,
        },
    ])
}

fn draw(cells: &Cells) -> Result<String> {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\">\n\
         <style>{STYLE}</style>\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"8\" fill=\"#0d1117\"/>\n"
    );
    text(&mut svg, (20.0, 30.0), "b", "make bench: what grows, and what does not");
    for (number, panel) in panels(cells)?.iter().enumerate() {
        let (column, row) = ((number % 2) as f64, (number / 2) as f64);
        panel.draw(&mut svg, (20.0 + column * PANEL.0, 50.0 + row * PANEL.1));
    }
    Ok(svg + "</svg>\n")
}

fn push(svg: &mut String, text: std::fmt::Arguments<'_>) {
    svg.write_fmt(text).expect("writing to a String does not fail");
}

fn text(svg: &mut String, (x, y): (f64, f64), class: &str, text: &str) {
    push(svg, format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{text}</text>\n"));
}

fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)))
}

impl Panel {
    fn points(&self) -> impl Iterator<Item = &(f64, f64)> {
        self.series.iter().flat_map(|series| &series.points)
    }

    /// Where a point lies within the plot, from its upper left corner.
    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let (low_x, high_x) = bounds(self.points().map(|(x, _)| x.log10()));
        let right = (x.log10() - low_x) / (high_x - low_x).max(f64::MIN_POSITIVE);
        let up = if self.grows {
            let (low, high) = bounds(self.points().map(|(_, y)| y.log10()));
            0.08 + 0.84 * (y.log10() - low) / (high - low).max(f64::MIN_POSITIVE)
        } else {
            let (_, high) = bounds(self.points().map(|(_, y)| *y));
            0.92 * y / high.max(f64::MIN_POSITIVE)
        };
        (right * PLOT.0, (1.0 - up) * PLOT.1)
    }

    fn draw(&self, svg: &mut String, (left, top): (f64, f64)) {
        text(svg, (left, top + 24.0), "b", self.title);
        let (left, top) = (left + 20.0, top + 44.0);
        push(
            svg,
            format_args!(
                "<path d=\"M{left:.1} {top:.1}v{1}h{0}\" fill=\"none\" stroke=\"#8b949e\"/>\n",
                PLOT.0, PLOT.1
            ),
        );
        let mut sizes: Vec<f64> = self.points().map(|(x, _)| *x).collect();
        sizes.sort_by(f64::total_cmp);
        sizes.dedup();
        for size in sizes {
            let (x, _) = self.place((size, 1.0));
            text(svg, (left + x - 8.0, top + PLOT.1 + 18.0), "f", &short(size));
        }
        text(svg, (left, top + PLOT.1 + 36.0), "f", self.unit);
        for (number, (series, colour)) in self.series.iter().zip(COLOURS).enumerate() {
            self.line(svg, (left, top), series, colour);
            let y = top + PLOT.1 + 36.0;
            let x = left + 225.0 - 140.0 * (self.series.len() - 1 - number) as f64 + 60.0;
            push(
                svg,
                format_args!(
                    "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>\n",
                    x - 14.0,
                    y + 8.0
                ),
            );
            text(svg, (x, y + 18.0), "", series.name);
        }
    }

    fn line(&self, svg: &mut String, (left, top): (f64, f64), series: &Series, colour: &str) {
        let places: Vec<(f64, f64)> = series.points.iter().map(|point| self.place(*point)).collect();
        let path: Vec<String> =
            places.iter().map(|(x, y)| format!("{:.1},{:.1}", left + x, top + y)).collect();
        push(
            svg,
            format_args!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n",
                path.join(" ")
            ),
        );
        for ((x, y), (_, value)) in places.iter().zip(&series.points) {
            push(
                svg,
                format_args!(
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{colour}\"/>\n",
                    left + x,
                    top + y
                ),
            );
            text(svg, (left + x + 7.0, top + y - 7.0), "", &digits(*value));
        }
    }
}

fn short(size: f64) -> String {
    match size {
        size if size >= 1e6 => format!("{:.0} M", size / 1e6),
        size if size >= 1e3 => format!("{:.0} k", size / 1e3),
        size => format!("{size:.0}"),
    }
}

fn digits(value: f64) -> String {
    if value >= 20.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_drawn_with_its_value_and_a_missing_row_is_named() {
        let names = [
            "connect_mesh_beside_no_hook",
            "connect_mesh_1000_services",
            "connect_mesh_100000_services",
            "connect_nft_10",
            "connect_nft_10000",
            "hook_1_groups",
            "hook_2_groups",
            "hook_4_groups",
            "hook_16_groups",
            "peer_10k_seconds",
            "peer_100k_seconds",
            "peer_1m_seconds",
            "peer_10k_heap",
            "peer_100k_heap",
            "peer_1m_heap",
            "peer_100k_in_one_seconds",
            "peer_100k_in_one_heap",
        ];
        let mut cells: Cells = names.iter().map(|name| (name.to_string(), Cell { value: 1.5 })).collect();
        let svg = draw(&cells).unwrap();
        assert_eq!(svg.matches("<circle").count(), names.len(), "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        cells.remove("hook_4_groups");
        assert!(draw(&cells).unwrap_err().to_string().contains("hook_4_groups"));
    }
}
