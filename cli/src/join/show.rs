//! What a join found and what it would do, for people and for programs.

use anyhow::Result;
use mesh_admin::cluster::Cluster;
use mesh_membership::plan::{Change, Finding, Level, Member, Plan, Step};
use serde::Serialize;

use crate::args::Output;
use crate::render;

const HEADER: [&str; 6] = ["CLUSTER", "ID", "PODS", "SERVICES", "NODES", "ENDPOINTS"];
const WIDE_HEADER: [&str; 8] =
    ["CLUSTER", "ID", "PODS", "SERVICES", "NODES", "ENDPOINTS", "VERSION", "AUTHORITY"];
/// Ranges and endpoints that stand in a cell.
const SHOWN: usize = 3;

/// A plan as a document.
#[derive(Serialize)]
struct Document<'a> {
    clusters: Vec<&'a Cluster>,
    #[serde(flatten)]
    plan: &'a Plan,
}

pub(super) fn plan(members: &[Member], plan: &Plan, output: Output) -> Result<()> {
    match output {
        Output::Table | Output::Wide => {
            render::table(header(output), members.iter().map(|member| row(member, output)).collect())?;
            render::print(&format!("\n{}{}", findings(&plan.findings), steps(&plan.steps)))
        }
        Output::Json => {
            let clusters = members.iter().map(|member| &member.cluster).collect();
            render::print(&(serde_json::to_string_pretty(&Document { clusters, plan })? + "\n"))
        }
        // Findings are comments, so that the rest is peer files.
        Output::Yaml => {
            let comments = findings(&plan.findings);
            let comments: String = comments.lines().map(|line| format!("# {line}\n")).collect();
            render::print(&(comments + &files(&plan.steps)?))
        }
    }
}

fn header(output: Output) -> &'static [&'static str] {
    if output == Output::Wide { &WIDE_HEADER } else { &HEADER }
}

fn row(member: &Member, output: Output) -> Vec<String> {
    let cluster = &member.cluster;
    let ranges = &cluster.ranges;
    let mut row = vec![
        cluster.name.to_string(),
        cluster.id.to_string(),
        few(&ranges.pods),
        few(&ranges.services),
        few(&ranges.nodes),
        few(&cluster.endpoints),
    ];
    if output == Output::Wide {
        row.push(cluster.version.clone());
        row.push(render::or_dash(cluster.fingerprint.as_ref()));
    }
    row
}

fn few<T: ToString>(items: &[T]) -> String {
    let more = items.len().saturating_sub(SHOWN);
    let mut shown: Vec<String> = items.iter().take(SHOWN).map(ToString::to_string).collect();
    if more > 0 {
        shown.push(format!("{more} more"));
    }
    render::or_dash((!shown.is_empty()).then(|| shown.join(", ")))
}

/// A paragraph; empty where nothing was found.
pub(crate) fn findings(findings: &[Finding]) -> String {
    let told = findings.iter().map(|finding| {
        let level = match finding.level {
            Level::Error => "ERROR",
            Level::Warning => "warning",
        };
        format!("{level}: {}\n    {}\n", finding.problem, finding.remedy)
    });
    let told: String = told.collect();
    if told.is_empty() { told } else { told + "\n" }
}

fn steps(steps: &[Step]) -> String {
    let told = steps.iter().map(|step| {
        let Step { at, peer, .. } = step;
        match &step.change {
            Change::Add => format!("{at}: add the peer {peer}\n"),
            Change::Change(fields) => format!("{at}: change {} of the peer {peer}\n", fields.join(", ")),
            Change::Keep => format!("{at}: knows the peer {peer} already\n"),
        }
    });
    told.collect()
}

/// The peer files, one document each, under the name that each needs.
fn files(steps: &[Step]) -> Result<String> {
    let mut text = String::new();
    for step in steps {
        let file = serde_saphyr::to_string(&step.file)?;
        text += &format!("---\n# {}.yaml for {}\n{file}", step.peer, step.at);
    }
    Ok(text)
}
