//! The verdict on one peer.

use std::time::Duration;

use mesh_model::name::ClusterId;

use crate::judge::Override;
use crate::ramp::{self, Relapses};
use crate::report::{Report, Share, Verdict};
use crate::settings::Settings;
use crate::signal::{Control, ControlState, Path, PathState};
use crate::time::Monotonic;

/// What a peer's machine wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ask the peer itself, and all witnesses.
    Ask,
    Cut,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Serving,
    Broken {
        /// Signs of life before this are of the time before.
        since: Monotonic,
        round: Round,
    },
    Gone {
        since: Monotonic,
        /// Since when connections have been waiting to be cut; `None` after that.
        uncut: Option<Monotonic>,
    },
    Returning {
        /// Since when probes have been good.
        good: Monotonic,
        /// How long they have to be before the ramp begins.
        hold: Duration,
    },
}

/// Asking the peer and the witnesses, once.
#[derive(Clone, Copy, Debug)]
struct Round {
    asked: Option<Monotonic>,
    /// A witness reaches the peer.
    reached: bool,
}

impl Round {
    const NOT_ASKED: Self = Self { asked: None, reached: false };
}

/// How many deadlines after a round that ended otherwise than in *gone* the next one begins.
const ROUND_EVERY: u32 = 2;

/// One peer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) control: Control,
    pub(crate) path: Path,
    /// How many nodes there are to probe.
    pub(crate) nodes: usize,
    pub(crate) overridden: Option<Override>,
    phase: Phase,
    relapses: Relapses,
    was_demoted: bool,
    /// What the owner was told last of share and verdict.
    pub(crate) told: (Share, Verdict),
    pub(crate) changed: Monotonic,
}

impl Peer {
    /// `share`: what the map says.
    pub(crate) fn resume(now: Monotonic, share: Share) -> Self {
        let demoted = share == Share::NONE;
        let (phase, verdict) = if demoted {
            (Phase::Broken { since: now, round: Round::NOT_ASKED }, Verdict::PathBroken)
        } else if share == Share::ALL {
            (Phase::Serving, Verdict::Healthy)
        } else {
            (Phase::Returning { good: now, hold: Duration::ZERO }, Verdict::Returning)
        };
        Self {
            control: Control::default(),
            path: Path::new(now, demoted),
            nodes: 0,
            overridden: None,
            phase,
            relapses: Relapses::default(),
            was_demoted: share != Share::ALL,
            told: (share, verdict),
            changed: now,
        }
    }

    pub(crate) fn path_state(&self, now: Monotonic, settings: &Settings) -> PathState {
        self.path.state(now, self.nodes, settings)
    }

    /// It has connections to lose, or is about to.
    pub(crate) fn is_in_play(&self) -> bool {
        matches!(self.phase, Phase::Serving | Phase::Returning { .. })
    }

    pub(crate) fn is_demoted(&self) -> bool {
        !matches!(self.phase, Phase::Serving)
    }

    /// A witness answered.
    pub(crate) fn witness(&mut self, now: Monotonic, reaches: bool) {
        match &mut self.phase {
            _ if !reaches => {}
            Phase::Broken { round, .. } => round.reached |= round.asked.is_some(),
            // It answered late.
            Phase::Gone { since, .. } => {
                let round = Round { asked: Some(now), reached: true };
                self.phase = Phase::Broken { since: *since, round };
            }
            Phase::Serving | Phase::Returning { .. } => {}
        }
    }

    /// Time passed in which nobody listened: whatever counts time counts from now.
    pub(crate) fn start_over(&mut self, now: Monotonic) {
        self.path.start_over(now);
        self.control.start_over();
        match &mut self.phase {
            Phase::Serving => {}
            Phase::Broken { round, .. } => *round = Round::NOT_ASKED,
            // What has not been cut yet has to be found gone once more: maybe nobody could say otherwise.
            Phase::Gone { since, uncut: Some(_) } => {
                self.phase = Phase::Broken { since: *since, round: Round::NOT_ASKED };
            }
            Phase::Gone { .. } => {}
            // Its hold begins again, unless the ramp has begun.
            Phase::Returning { good, hold } if now.since(*good) < *hold => *good = now,
            Phase::Returning { .. } => {}
        }
    }

    pub(crate) fn override_by(&mut self, now: Monotonic, overridden: Option<Override>) {
        let drained = matches!(self.overridden, Some(Override::Drain { .. }));
        self.overridden = overridden;
        // What a drain kept away comes back by the ramp.
        if drained && overridden.is_none() && matches!(self.phase, Phase::Serving) {
            self.phase = Phase::Returning { good: now, hold: Duration::ZERO };
        }
    }

    /// `somebody_else`: it is not this node that fell silent, as far as anybody can tell.
    pub(crate) fn tick(&mut self, now: Monotonic, somebody_else: bool, settings: &Settings) -> Option<Step> {
        self.path.review(now, settings);
        let failed = self.path_state(now, settings) == PathState::Failed;
        let certain = failed && somebody_else;
        match self.phase {
            Phase::Serving if certain => self.demote(now, settings),
            Phase::Serving => None,
            Phase::Broken { since, .. } | Phase::Gone { since, .. } if self.answered(since) => {
                self.phase = Phase::Returning { good: now, hold: self.relapses.hold(settings) };
                None
            }
            Phase::Broken { since, round } => self.broken(now, (since, round), failed, settings),
            Phase::Gone { uncut, .. } => self.gone(now, uncut.filter(|_| failed), settings),
            Phase::Returning { .. } if certain => self.demote(now, settings),
            Phase::Returning { good, hold } => {
                self.returning(now, (good, hold), failed, settings);
                None
            }
        }
    }

    fn answered(&self, since: Monotonic) -> bool {
        self.path.last_life().is_some_and(|life| life > since)
    }

    fn demote(&mut self, now: Monotonic, settings: &Settings) -> Option<Step> {
        // What fails before it got anything back has not relapsed.
        if self.own_share(now, settings) != Share::NONE {
            self.relapses.demoted(now, self.was_demoted, settings);
        }
        self.was_demoted = true;
        // The silence began before: an answer that is only read now counts.
        let since = self.path.last_life().unwrap_or(now);
        self.ask(now, since)
    }

    fn ask(&mut self, now: Monotonic, since: Monotonic) -> Option<Step> {
        self.control.ask(now);
        self.phase = Phase::Broken { since, round: Round { asked: Some(now), reached: false } };
        Some(Step::Ask)
    }

    fn broken(
        &mut self,
        now: Monotonic,
        (since, round): (Monotonic, Round),
        failed: bool,
        settings: &Settings,
    ) -> Option<Step> {
        // A path that only looks silent since nothing is sent there says nothing.
        let Some(asked) = round.asked else {
            return if failed { self.ask(now, since) } else { None };
        };
        if now.since(asked) < settings.answer_due {
            return None;
        }
        let stale = self.control.state(now, settings) != ControlState::Fresh;
        if failed && stale && !round.reached {
            self.phase = Phase::Gone { since, uncut: Some(now) };
            return None;
        }
        let over = now.since(asked) >= settings.answer_due * ROUND_EVERY;
        if failed && over { self.ask(now, since) } else { None }
    }

    fn gone(&mut self, now: Monotonic, uncut: Option<Monotonic>, settings: &Settings) -> Option<Step> {
        if self.control.state(now, settings) == ControlState::Fresh {
            let since = self.path.last_life().unwrap_or(now);
            self.phase = Phase::Broken { since, round: Round::NOT_ASKED };
            return None;
        }
        let gone = uncut?;
        if now.since(gone) < settings.cut_after {
            return None;
        }
        if let Phase::Gone { uncut, .. } = &mut self.phase {
            *uncut = None;
        }
        Some(Step::Cut)
    }

    fn returning(
        &mut self,
        now: Monotonic,
        (good, hold): (Monotonic, Duration),
        failed: bool,
        settings: &Settings,
    ) {
        // Good are probes that are answered; a path of which nothing is heard may not be.
        let recent = self.path.last_life().is_some_and(|life| now.since(life) < settings.lost_after.1);
        let held = now.since(good) < hold;
        if held && (failed || !recent) {
            self.phase = Phase::Returning { good: now, hold };
        } else if self.own_share(now, settings) == Share::ALL {
            self.phase = Phase::Serving;
            self.relapses.restored(now);
        }
    }

    fn own_share(&self, now: Monotonic, settings: &Settings) -> Share {
        match self.phase {
            Phase::Serving => Share::ALL,
            Phase::Broken { .. } | Phase::Gone { .. } => Share::NONE,
            Phase::Returning { good, hold } => match now.since(good).checked_sub(hold) {
                None => Share::NONE,
                Some(after_hold) => ramp::share(after_hold, settings),
            },
        }
    }

    /// What the map is to say.
    pub(crate) fn share(&self, now: Monotonic, settings: &Settings) -> Share {
        self.overridden.map_or_else(|| self.own_share(now, settings), Override::share)
    }

    pub(crate) fn verdict(&self, now: Monotonic, settings: &Settings) -> Verdict {
        match self.phase {
            Phase::Serving if self.control.state(now, settings) == ControlState::Fresh => Verdict::Healthy,
            Phase::Serving => Verdict::Stale,
            Phase::Broken { .. } => Verdict::PathBroken,
            Phase::Gone { .. } => Verdict::Gone,
            Phase::Returning { .. } => Verdict::Returning,
        }
    }

    pub(crate) fn report(&self, cluster: ClusterId, now: Monotonic, settings: &Settings) -> Report {
        Report {
            cluster,
            verdict: self.told.1,
            age: now.since(self.changed),
            control: self.control.state(now, settings),
            control_age: self.control.age(now),
            path: self.path_state(now, settings),
            path_age: self.path.last_life().map(|life| now.since(life)),
            rtt: self.path.rtt(),
            witnessed: matches!(self.phase, Phase::Broken { round, .. } if round.reached),
            share: self.told.0,
            overridden: self.overridden,
        }
    }
}
