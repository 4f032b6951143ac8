//! `clustermesh cert rotate --ca`: ask everybody, do what can be done next, ask again. A second run goes on where the first one
//! ended.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mesh_admin::cluster::{AdvanceRequest, AuthorityRotation, Obstacle, RotationPhase};
use mesh_membership::rotation::{Named, Rotation, Step, is_unfinished, knows_another};
use mesh_model::name::ClusterName;
use serde::Serialize;
use tokio::time::Instant;

use super::{Site, left_at_peers, named, sites, tell};
use crate::args::{Output, RotateArgs};
use crate::cluster::{Cluster, Request, call_leader};
use crate::confirm::confirm;
use crate::progress::Progress;
use crate::render;
use crate::wait::{self, Known, Wanted};

/// Between two questions, while what stands in the way passes by itself.
const PAUSE: Duration = if cfg!(test) { Duration::from_millis(5) } else { Duration::from_secs(1) };

const ROTATION: &str = "/v1/certificates/ca/rotate";

/// What all clusters say at one moment.
struct Seen {
    /// By the order of the clusters whose authorities are replaced.
    states: Vec<AuthorityRotation>,
    named: Vec<Named>,
}

/// Clusters whose authorities are replaced.
struct Walk<'a, C> {
    sites: Vec<Site<'a, C>>,
    rotating: Vec<Target>,
    args: &'a RotateArgs,
    progress: Progress,
}

#[derive(Clone, Debug)]
struct Target {
    name: ClusterName,
    /// Whether another authority has been asked for already.
    is_begun: bool,
}

/// What became of it, or would.
#[derive(Debug, Serialize)]
struct Outcome {
    cluster: ClusterName,
    phase: RotationPhase,
    /// SHA-256 of the authorities that count.
    fingerprints: Vec<String>,
    /// What comes next.
    next: Step,
    /// What somebody has to do, one line each.
    left: Vec<String>,
}

pub(super) async fn rotate<C: Cluster>(clusters: &[C], args: &RotateArgs, output: Output) -> Result<()> {
    let progress = Progress::new();
    progress.say("asking the clusters for their authorities");
    let sites = sites(clusters).await?;
    let rotating = targets(&sites, args)?;
    let mut walk = Walk { sites, rotating, args, progress };
    let seen = walk.look().await?;
    walk.refuse_strangers(&seen)?;
    for (target, state) in walk.rotating.iter_mut().zip(&seen.states) {
        let is_settled = state.phase == RotationPhase::Settled;
        target.is_begun = !is_settled || is_unfinished(&target.name, &state.trust, &seen.named);
    }
    if args.dry_run {
        return show(walk.outcomes(&seen), output);
    }
    confirm(args.yes, &walk.question(&seen))?;
    let ended = walk.go().await?;
    let outcomes = walk.outcomes(&ended);
    let is_done = outcomes.iter().all(|outcome| outcome.next == Step::Done);
    show(outcomes, output)?;
    ensure!(is_done, "the rotation is not finished: do what is left, then run the same command again");
    walk.until_synced().await
}

/// Those that were named by `--of`, or all.
fn targets<C>(sites: &[Site<'_, C>], args: &RotateArgs) -> Result<Vec<Target>> {
    for of in &args.of {
        ensure!(
            sites.iter().any(|site| site.name() == of),
            "{of} is none of the clusters; name its --context or --socket, too"
        );
    }
    let is_meant = |site: &&Site<'_, C>| args.of.is_empty() || args.of.contains(site.name());
    let mut targets: Vec<Target> = Vec::new();
    for site in sites.iter().filter(is_meant) {
        let name = site.name().clone();
        ensure!(
            targets.iter().all(|other| other.name != name),
            "{name} was named twice; name each cluster once"
        );
        if let Some(why) = &site.certificates.foreign {
            bail!("the authority of {name} can't be replaced here: {why}");
        }
        targets.push(Target { name, is_begun: false });
    }
    Ok(targets)
}

impl<C: Cluster> Walk<'_, C> {
    async fn look(&self) -> Result<Seen> {
        let mut states = Vec::new();
        for target in &self.rotating {
            states.push(call_leader(self.site(&target.name)?, &Request::get(ROTATION)).await?);
        }
        Ok(Seen { states, named: named(&self.sites).await? })
    }

    fn site(&self, name: &ClusterName) -> Result<&C> {
        let found = self.sites.iter().find(|site| site.name() == name);
        Ok(found.context("it is one of those that were named")?.cluster)
    }

    /// Whoever trusts another authority under the same name decides that; here nobody does.
    fn refuse_strangers(&self, seen: &Seen) -> Result<()> {
        for (target, state) in self.rotating.iter().zip(&seen.states) {
            let name = &target.name;
            let stranger = seen.named.iter().find(|at| knows_another(name, &state.trust, at));
            if let Some(Named { name: at, .. }) = stranger {
                bail!(
                    "{at} knows {name} by another authority than it has: first make them peers again (clustermesh join), or \
                     leave {at} out"
                );
            }
        }
        Ok(())
    }

    fn next(&self, seen: &Seen, at: usize) -> Step {
        let Target { name, is_begun } = &self.rotating[at];
        let without = &self.args.without;
        let rotation = Rotation { cluster: name, state: &seen.states[at], is_begun: *is_begun, without };
        rotation.next(&seen.named)
    }

    fn question(&self, seen: &Seen) -> String {
        let goes_on = |(target, state): (&Target, &AuthorityRotation)| match (target.is_begun, state.phase) {
            (false, _) => format!("Replace the authority of {}", target.name),
            (true, RotationPhase::Settled) => {
                format!("Tell the others of the new authority of {}", target.name)
            }
            (true, phase) => format!("Go on replacing the authority of {} ({phase})", target.name),
        };
        let all: Vec<_> = self.rotating.iter().zip(&seen.states).map(goes_on).collect();
        format!("{}?", all.join("; "))
    }

    /// Until nothing can be done any more from here.
    async fn go(&mut self) -> Result<Seen> {
        let deadline = Instant::now() + self.args.timeout;
        loop {
            let seen = self.look().await?;
            let (mut has_acted, mut waits) = (false, Vec::new());
            for at in 0..self.rotating.len() {
                match self.next(&seen, at) {
                    Step::Wait(obstacles) => waits.extend(obstacles),
                    Step::Done | Step::Blocked(_) => {}
                    step => {
                        self.act(at, &step).await?;
                        has_acted = true;
                    }
                }
            }
            if has_acted {
                continue;
            }
            if waits.is_empty() || Instant::now() >= deadline {
                return Ok(seen);
            }
            self.progress.say(&format!("waiting: {}", errors(&waits)));
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn act(&mut self, at: usize, step: &Step) -> Result<()> {
        let name = self.rotating[at].name.clone();
        match step {
            Step::Tell { at, file } => {
                tell(&self.sites, at, (&name, file)).await?;
                self.progress.say(&format!("{at}: wrote whom to trust for {name}"));
            }
            Step::Advance(to) => {
                let request = AdvanceRequest { to: *to, without: self.args.without.clone() };
                let advanced: Result<AuthorityRotation, _> =
                    call_leader(self.site(&name)?, &Request::post(ROTATION, &request)).await;
                advanced.context("the same command again goes on where this was interrupted")?;
                self.rotating[at].is_begun = true;
                self.progress.say(&format!("{name}: {}", told(*to)));
            }
            Step::Wait(_) | Step::Blocked(_) | Step::Done => {}
        }
        Ok(())
    }

    fn outcomes(&self, seen: &Seen) -> Vec<Outcome> {
        let outcome = |at: usize| {
            let (name, state, next) = (&self.rotating[at].name, &seen.states[at], self.next(seen, at));
            let mut left = Vec::new();
            if let Step::Blocked(obstacles) | Step::Wait(obstacles) = &next {
                left.extend(obstacles.iter().map(line));
            }
            if next == Step::Done {
                left = left_at_peers(name, &seen.named, "so that the old authority counts no more there");
            }
            Outcome {
                cluster: name.clone(),
                phase: state.phase,
                fingerprints: state.fingerprints.clone(),
                next,
                left,
            }
        };
        (0..self.rotating.len()).map(outcome).collect()
    }

    /// Every node of the clusters knows its peers by what these show now.
    async fn until_synced(&self) -> Result<()> {
        let seen = named(&self.sites).await?;
        let names: Vec<&ClusterName> = self.sites.iter().map(Site::name).collect();
        let known = self.sites.iter().zip(&seen).map(|(site, at)| {
            let is_known = |name: &&&ClusterName| at.peers.iter().any(|entry| entry.name == name.as_str());
            let peers = names.iter().filter(is_known).map(|name| (*name).clone()).collect();
            Known { cluster: site.cluster, name: site.name().clone(), peers }
        });
        let known: Vec<_> = known.filter(|known| !known.peers.is_empty()).collect();
        if !known.is_empty() {
            wait::until(Wanted::Synced, &known, self.args.timeout, &self.progress).await.context(
                "the authority is replaced, and the nodes go on by themselves: `clustermesh status --wait` waits for them",
            )?;
        }
        self.progress.say("the authority is replaced; `clustermesh cert show` shows it");
        Ok(())
    }
}

/// What a phase means.
fn told(phase: RotationPhase) -> &'static str {
    match phase {
        RotationPhase::Announced => "there is another authority, which issues nothing yet",
        RotationPhase::Switched => "the new authority issues, and the old one still counts",
        RotationPhase::Settled => "the old authority is gone",
    }
}

fn errors(obstacles: &[Obstacle]) -> String {
    let errors: Vec<&str> = obstacles.iter().map(|it| it.problem.error.as_str()).collect();
    errors.join("; ")
}

fn line(obstacle: &Obstacle) -> String {
    format!("{}: {}", obstacle.problem.error, obstacle.problem.remedy)
}

fn show(outcomes: Vec<Outcome>, output: Output) -> Result<()> {
    let left: String =
        outcomes.iter().flat_map(|it| &it.left).map(|line| format!("LEFT TO DO {line}\n")).collect();
    let row = |it: &Outcome| {
        vec![it.cluster.to_string(), it.phase.to_string(), next(it), it.fingerprints.join(", ")]
    };
    render::items(outcomes, output, &["CLUSTER", "PHASE", "NEXT", "AUTHORITIES"], |all| {
        all.iter().map(row).collect()
    })?;
    match output {
        Output::Table | Output::Wide => render::print(&left),
        Output::Json | Output::Yaml => Ok(()),
    }
}

fn next(outcome: &Outcome) -> String {
    match &outcome.next {
        Step::Tell { at, .. } => format!("tell {at}"),
        Step::Advance(to) => to.to_string(),
        Step::Wait(_) => "wait".into(),
        Step::Blocked(_) => "blocked".into(),
        Step::Done => "-".into(),
    }
}
