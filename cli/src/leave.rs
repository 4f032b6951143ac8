//! `clustermesh leave`: the others forget the cluster first, so that none of their clients is sent there; then it forgets them.

use anyhow::{Context, Result, ensure};
use mesh_admin::cluster::{Changed, Cluster as Described, PeerEntry};
use mesh_model::name::ClusterName;
use serde::Serialize;

use crate::args::{AgentArgs, LeaveArgs, Output};
use crate::cluster::{self, CallError, Cluster, Request, call, list};
use crate::confirm::confirm;
use crate::progress::Progress;
use crate::render;
use crate::wait::{self, Known, Wanted};

/// A cluster that was named, as far as it can be asked.
struct Named<'a, C> {
    cluster: &'a C,
    /// None where nobody answers there.
    known: Option<Answer>,
}

/// The name of a cluster, and its peers.
type Answer = (ClusterName, Vec<String>);

/// What is done, and what is left undone.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Farewell {
    /// Peer files that go, in this order.
    removed: Vec<Removal>,
    /// What stays behind where nobody can be asked.
    stays: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Removal {
    at: ClusterName,
    peer: ClusterName,
}

pub(crate) fn run(agent: &AgentArgs, args: &LeaveArgs, output: Output) -> Result<()> {
    mesh_runtime::process::block_on(async {
        let clusters = cluster::reached(&args.clusters, agent).await?;
        leave(&clusters, args, output).await
    })?
}

async fn leave<C: Cluster>(clusters: &[C], args: &LeaveArgs, output: Output) -> Result<()> {
    let progress = Progress::new();
    progress.say("asking the clusters who they are");
    let mut named = Vec::new();
    for cluster in clusters {
        named.push(asked(cluster, args.force).await?);
    }
    let farewell = planned(&named, args)?;
    show(&farewell, output)?;
    if args.dry_run {
        return Ok(());
    }
    if !farewell.removed.is_empty() {
        confirm(args.yes, &format!("Take {} out of the mesh?", args.name))?;
    }
    carry_out(&named, &farewell, args, &progress).await?;
    progress.say(&format!("{} has left", args.name));
    Ok(())
}

async fn asked<C: Cluster>(cluster: &C, force: bool) -> Result<Named<'_, C>> {
    let answer: Result<Described, CallError> = call(cluster, &Request::get("/v1/cluster")).await;
    match answer {
        Err(error) if force && error.is_unreachable() => Ok(Named { cluster, known: None }),
        Err(error) if error.is_unreachable() => Err(error)
            .context("a cluster can't be asked; --force leaves it as it is and says what stays behind there"),
        answer => {
            let peers: Vec<PeerEntry> = list(cluster, &Request::get("/v1/peers")).await?;
            let peers = peers.into_iter().map(|entry| entry.name).collect();
            Ok(Named { cluster, known: Some((answer?.name, peers)) })
        }
    }
}

/// The others forget first.
fn planned<C: Cluster>(named: &[Named<'_, C>], args: &LeaveArgs) -> Result<Farewell> {
    let (leaver, others): (Vec<&Answer>, Vec<&Answer>) =
        named.iter().filter_map(|named| named.known.as_ref()).partition(|(name, _)| *name == args.name);
    let knowing = others.iter().filter(|(_, peers)| peers.iter().any(|peer| peer == args.name.as_str()));
    let removed = knowing.map(|(at, _)| Removal { at: at.clone(), peer: args.name.clone() }).collect();
    let mut farewell = Farewell { removed, stays: Vec::new() };
    match leaver.first() {
        Some((_, peers)) => farewell.of_leaver(args, peers, &others)?,
        None => farewell.without_leaver(args)?,
    }
    Ok(farewell)
}

impl Farewell {
    /// The leaver can be asked: it forgets all of its peers.
    fn of_leaver(&mut self, args: &LeaveArgs, peers: &[String], others: &[&Answer]) -> Result<()> {
        let is_named = |peer: &String| others.iter().any(|(name, _)| name.as_str() == peer);
        let missing: Vec<&str> = peers.iter().filter(|peer| !is_named(peer)).map(String::as_str).collect();
        ensure!(
            missing.is_empty() || args.force,
            "{0} also has the peers {1}, which were not named or can't be asked; name them, or --force: then they go on \
             sending connections to {0} until its peer file is removed there",
            args.name,
            missing.join(", "),
        );
        self.stays.extend(missing.iter().map(|peer| {
            format!(
                "at {peer}: the peer file of {0}; clients there are still sent to its backends. Run there: clustermesh \
                 peer remove {0}",
                args.name
            )
        }));
        let files = peers.iter().filter_map(|peer| ClusterName::new(peer).ok());
        self.removed.extend(files.map(|peer| Removal { at: args.name.clone(), peer }));
        Ok(())
    }

    fn without_leaver(&mut self, args: &LeaveArgs) -> Result<()> {
        ensure!(
            args.force,
            "{} is none of the clusters that were named; name its --context or --socket, too, or, if it does not exist any \
             more, --force",
            args.name
        );
        self.stays.push(format!(
            "at {}: the peer files of the others; its clients are still sent to their backends. When it is back, run there: \
             clustermesh peer remove NAME",
            args.name
        ));
        Ok(())
    }
}

fn show(farewell: &Farewell, output: Output) -> Result<()> {
    match output {
        Output::Json => return render::print(&(serde_json::to_string_pretty(farewell)? + "\n")),
        Output::Yaml => return render::print(&serde_saphyr::to_string(farewell)?),
        Output::Table | Output::Wide => {}
    }
    let removed = farewell.removed.iter().map(|it| format!("{}: remove the peer {}\n", it.at, it.peer));
    let stays = farewell.stays.iter().map(|stays| format!("STAYS BEHIND {stays}\n"));
    let told: String = removed.chain(stays).collect();
    render::print(if told.is_empty() { "nothing is left to do\n" } else { &told })
}

async fn carry_out<C: Cluster>(
    named: &[Named<'_, C>],
    farewell: &Farewell,
    args: &LeaveArgs,
    progress: &Progress,
) -> Result<()> {
    let (own, others): (Vec<_>, Vec<_>) =
        farewell.removed.iter().partition(|removal| removal.at == args.name);
    for removal in &others {
        remove(named, removal, progress).await?;
    }
    let forgetting: Vec<_> = others
        .iter()
        .map(|removal| {
            let cluster = of(named, &removal.at)?;
            Ok(Known { cluster, name: removal.at.clone(), peers: vec![removal.peer.clone()] })
        })
        .collect::<Result<_>>()?;
    if !forgetting.is_empty() {
        let forgotten = wait::until(Wanted::Gone, &forgetting, args.timeout, progress).await;
        let forgotten = forgotten
            .context("run the same command again to go on, or with --force to go on without these nodes");
        forgotten.or_else(|error| if args.force { Ok(()) } else { Err(error) })?;
    }
    for removal in &own {
        remove(named, removal, progress).await?;
    }
    Ok(())
}

fn of<'a, C>(named: &[Named<'a, C>], name: &ClusterName) -> Result<&'a C> {
    let found = named.iter().find(|named| named.known.as_ref().is_some_and(|(known, _)| known == name));
    found.map(|named| named.cluster).with_context(|| format!("{name} is none of the clusters"))
}

async fn remove<C: Cluster>(named: &[Named<'_, C>], removal: &Removal, progress: &Progress) -> Result<()> {
    let Removal { at, peer } = removal;
    let request = Request::delete(format!("/v1/peers/{peer}"));
    let removed: Result<Changed, CallError> = call(of(named, at)?, &request).await;
    match removed {
        Err(error) if !error.is_unknown() => Err(error).with_context(|| {
            format!("removing the peer file of {peer} at {at}; run the same command again to go on")
        }),
        // Somebody else was faster.
        Err(_) | Ok(_) => {
            progress.say(&format!("{at}: removed the peer file of {peer}"));
            Ok(())
        }
    }
}

#[cfg(test)]
#[path = "leave_tests.rs"]
mod tests;
