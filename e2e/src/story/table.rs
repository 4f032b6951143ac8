//! The closing table.

use std::time::Duration;

use super::step::Outcomes;
use super::terminal::{Look, thousands};

/// The table, and below it whatever was not as expected; for standard output.
pub(crate) fn render(steps: &[Outcomes], clusters: &[String], legend: &str) -> String {
    draw(steps, clusters, legend, Look::of_stdout())
}

/// The meaning of the columns where the clusters are made of manifests.
pub const MANIFESTS: &str = "control: manifest renamed → last peer node's first map write; traffic: manifest renamed → start of \
                  the\nlast connection that the old place answered (alone, where pods come back)";
/// And where they are Kubernetes.
pub const KUBERNETES: &str = "control: EndpointSlice seen to change → last peer node's first map write; traffic: seen to \
                  change → start\nof the last connection that the old place answered (alone, where pods come back)";

fn draw(steps: &[Outcomes], clusters: &[String], legend: &str, look: Look) -> String {
    let width = steps.iter().map(|step| step.name.chars().count()).max().unwrap_or_default();
    let names: String = clusters.iter().map(|name| format!(" {name:>7}")).collect();
    let head = format!(
        "     {:<width$} {:>8} {:>7}{names} {:>11} {:>11}",
        "step", "requests", "errors", "control", "traffic"
    );
    let mut text = format!("\n{}\n", look.bold(&head));
    for (number, step) in steps.iter().enumerate() {
        text.push_str(&row(number + 1, step, clusters, width, look));
    }
    text.push_str(&format!("\n{}\n", look.faint(legend)));
    for step in steps {
        for failure in &step.failures {
            text.push_str(&format!("{} {}: {failure}\n", look.error("✗"), step.name));
        }
    }
    text
}

fn row(number: usize, step: &Outcomes, clusters: &[String], width: usize, look: Look) -> String {
    let mark = if step.failures.is_empty() { look.good("✓") } else { look.error("✗") };
    let share = |cluster: &String| {
        let share = step.shares.get(cluster).copied().unwrap_or_default() * 100.0;
        // A tenth of a percent matters only where it is all that is left.
        if share > 0.0 && share < 1.0 { format!(" {share:>5.1} %") } else { format!(" {share:>5.0} %") }
    };
    let shares: String = clusters.iter().map(share).collect();
    let failed = format!("{:>7}", thousands(step.failed_requests()));
    let failed = if step.failed_requests() > 0 { look.error(&failed) } else { failed };
    format!(
        "{mark} {number:>2} {:<width$} {:>8} {failed}{shares} {:>11} {:>11}\n",
        step.name,
        thousands(step.requests),
        time(step.control),
        time(step.traffic),
    )
}

fn time(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "–".into(), |duration| format!("{:.1} ms", duration.as_secs_f64() * 1000.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_numbers_and_says_what_failed() {
        let step = Outcomes {
            name: "hoth: pods deleted".into(),
            requests: 2345,
            errors: [(crate::load::record::Failure::Refused, 3)].into(),
            shares: [("hoth".to_owned(), 0.004), ("yavin".to_owned(), 0.996)].into(),
            control: Some(Duration::from_micros(4560)),
            traffic: None,
            failures: vec!["expected no failed connection, saw 3 × refused".into()],
        };
        let clusters = ["hoth".to_owned(), "yavin".to_owned()];
        let text = draw(&[step], &clusters, MANIFESTS, Look { live: false, colour: false });
        let row = text.lines().nth(2).unwrap();
        assert_eq!(row, "✗  1 hoth: pods deleted    2,345       3   0.4 %   100 %      4.6 ms           –");
        assert!(
            text.ends_with("✗ hoth: pods deleted: expected no failed connection, saw 3 × refused\n"),
            "{text}"
        );
    }
}
