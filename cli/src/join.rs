//! `clustermesh join`: describe all, plan, show, ask, apply, wait. A second run goes on where the first one ended.

mod describe;
mod invited;
mod show;

use anyhow::{Context, Result, ensure};
use mesh_admin::api::List;
use mesh_admin::cluster::{Changed, Probe};
use mesh_membership::plan::{Member, Plan, ProbeOrder, Step, judge, probes};

use crate::args::{AgentArgs, JoinArgs, Output};
use crate::cluster::{self, Cluster, Request, call};
use crate::confirm::confirm;
use crate::progress::Progress;
use crate::wait::{self, Known, Wanted};

pub(crate) use describe::member;
pub(crate) use show::findings;

pub(crate) fn run(agent: &AgentArgs, args: &JoinArgs, output: Output) -> Result<()> {
    mesh_runtime::process::block_on(async {
        let clusters = cluster::reached(&args.clusters, agent).await?;
        match &args.invite {
            Some(invite) => invited::join(&cluster::only(clusters)?, invite, args, output).await,
            None => join(&clusters, args, output).await,
        }
    })?
}

async fn join<C: Cluster>(clusters: &[C], args: &JoinArgs, output: Output) -> Result<()> {
    ensure!(
        clusters.len() > 1,
        "name two or more clusters with --context or --socket; or this one, and --invite TOKEN for the other"
    );
    let progress = Progress::new();
    let (members, plan) = planned(clusters, args, &progress).await?;
    if args.dry_run {
        show::plan(&members, &plan, output)?;
        return refuse(&plan);
    }
    show::plan(&members, &plan, output)?;
    refuse(&plan)?;
    if plan.changes() {
        let names: Vec<_> = members.iter().map(|member| member.name().as_str()).collect();
        confirm(args.yes, &format!("Make {} peers?", names.join(" and ")))?;
    }
    apply(clusters, &members, &plan, &progress).await?;
    if !args.no_wait {
        wait(clusters, &members, args, &progress).await?;
    }
    progress.say("joined; `clustermesh status` shows how the clusters are");
    Ok(())
}

/// Asks everybody, and makes a plan of what they say.
async fn planned<C: Cluster>(
    clusters: &[C],
    args: &JoinArgs,
    progress: &Progress,
) -> Result<(Vec<Member>, Plan)> {
    progress.say("asking the clusters who they are");
    let members = describe::settled(clusters, &args.endpoint, progress).await?;
    let mut plan = Plan::of(&members);
    // Who is called like another can't be told from it, and who has no certificate can't dial.
    if !args.no_probe && plan.is_allowed() {
        progress.say("letting them dial each other");
        let asked = probes(&members);
        let asked = asked.iter().map(|order| probe(clusters, &members, order));
        let found = futures::future::try_join_all(asked).await?;
        plan.found(found.into_iter().flatten());
    }
    Ok((members, plan))
}

async fn probe<C: Cluster>(
    clusters: &[C],
    members: &[Member],
    order: &ProbeOrder,
) -> Result<Option<mesh_membership::plan::Finding>> {
    let from = of(clusters, members, &order.from)?;
    let answers: List<Probe> = call(from, &Request::post("/v1/probe", &order.request)).await?;
    Ok(judge(order, &answers.items))
}

/// The cluster with a name.
fn of<'a, C>(clusters: &'a [C], members: &[Member], name: &mesh_model::name::ClusterName) -> Result<&'a C> {
    let named = members.iter().zip(clusters).find(|(member, _)| member.name() == name);
    named.map(|(_, cluster)| cluster).with_context(|| format!("{name} is none of the clusters"))
}

fn refuse(plan: &Plan) -> Result<()> {
    ensure!(plan.is_allowed(), "nothing was changed: put right what is found above, then run this again");
    Ok(())
}

async fn apply<C: Cluster>(
    clusters: &[C],
    members: &[Member],
    plan: &Plan,
    progress: &Progress,
) -> Result<()> {
    for step in plan.steps.iter().filter(|step| step.changes()) {
        write(of(clusters, members, &step.at)?, step).await?;
        progress.say(&format!("{}: wrote the peer file of {}", step.at, step.peer));
    }
    Ok(())
}

async fn write(cluster: &impl Cluster, step: &Step) -> Result<()> {
    let request = Request::put(format!("/v1/peers/{}", step.peer), &step.file);
    let written: Result<Changed, _> = call(cluster, &request).await;
    written.map(drop).with_context(|| {
        format!("writing the peer file of {} at {}; run the same command again to go on", step.peer, step.at)
    })
}

async fn wait<C: Cluster>(
    clusters: &[C],
    members: &[Member],
    args: &JoinArgs,
    progress: &Progress,
) -> Result<()> {
    let known = members.iter().zip(clusters).map(|(member, cluster)| {
        let others = members.iter().map(Member::name).filter(|name| *name != member.name());
        Known { cluster, name: member.name().clone(), peers: others.cloned().collect() }
    });
    let known: Vec<_> = known.collect();
    wait::until(Wanted::Synced, &known, args.timeout, progress).await.context(
        "the peer files are written, and the nodes go on by themselves: `clustermesh status --wait` waits for them",
    )
}

#[cfg(test)]
#[path = "join/tests.rs"]
mod tests;
