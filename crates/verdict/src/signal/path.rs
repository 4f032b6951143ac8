//! P: whether the data path to a cluster works, as this node sees it.
//!
//! A sign of life is an echo's answer or a real connection that succeeded, at the time at which the kernel saw it. Silence
//! counts only where something was sent that should have been answered.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use mesh_model::name::NodeName;

use super::rtt::Rtt;
use crate::settings::Settings;
use crate::time::Monotonic;

/// So many probes, or connects, without an answer make a loss.
const ENOUGH: usize = 3;
/// How many of them are remembered.
const REMEMBERED: usize = 16;
/// An echo that is silent for so long while connections succeed is blocked, and says nothing of the path.
const BLOCKED_AFTER: Duration = Duration::from_secs(10);

/// Signs of life that are farther apart don't show that the path worked between them.
const PAUSE: Duration = Duration::from_millis(500);

/// How an attempt to connect ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Connected,
    /// The host answered that nobody listens: the backend's fault, not the path's.
    Refused,
    /// Nobody answered, or the network said that the host can't be reached.
    Unanswered,
}

/// What the data path shows. Stamps are the kernel's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathEvent {
    /// An echo was sent to a node.
    Sent { node: NodeName, at: Monotonic },
    /// What was sent at `sent` came back.
    Answered { sent: Monotonic, received: Monotonic },
    /// A connection to a backend ended its attempt: an application's, or one made on suspicion.
    Connect { backend: SocketAddr, outcome: Outcome, began: Monotonic, at: Monotonic },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathState {
    /// Nothing has ever succeeded. Counts as ok: a blocked probe port demotes nobody.
    Unknown,
    Ok,
    Failed,
}

/// P of one cluster.
#[derive(Debug)]
pub(crate) struct Path {
    rtt: Rtt,
    echo: Option<Monotonic>,
    connected: Option<Monotonic>,
    /// Since when signs of life have followed one another without a pause.
    alive_since: Option<Monotonic>,
    /// Silence before this doesn't count.
    since: Monotonic,
    /// It worked once, says what a predecessor left behind.
    presumed: bool,
    /// Echoes sent after the last sign of life, first ones first.
    sent: VecDeque<(NodeName, Monotonic)>,
    /// Connects that nobody answered after the last sign of life.
    unanswered: VecDeque<Unanswered>,
}

#[derive(Debug)]
struct Unanswered {
    backend: SocketAddr,
    began: Monotonic,
    at: Monotonic,
}

impl Path {
    /// `presumed`: a predecessor had declared this path failed, so that it has worked before.
    pub(crate) fn new(now: Monotonic, presumed: bool) -> Self {
        Self {
            rtt: Rtt::default(),
            echo: None,
            connected: None,
            alive_since: None,
            since: now,
            presumed,
            sent: VecDeque::new(),
            unanswered: VecDeque::new(),
        }
    }

    pub(crate) fn observe(&mut self, event: PathEvent) {
        match event {
            PathEvent::Sent { node, at } => remember(&mut self.sent, (node, at)),
            PathEvent::Answered { sent, received } => {
                self.rtt.measured(received.since(sent));
                self.lived(received);
                self.echo = self.echo.max(Some(received));
            }
            PathEvent::Connect { outcome: Outcome::Connected, at, .. } => {
                self.lived(at);
                self.connected = self.connected.max(Some(at));
            }
            PathEvent::Connect { outcome: Outcome::Unanswered, backend, began, at } => {
                remember(&mut self.unanswered, Unanswered { backend, began, at });
            }
            PathEvent::Connect { outcome: Outcome::Refused, .. } => {}
        }
    }

    fn lived(&mut self, at: Monotonic) {
        if self.last_life().is_none_or(|before| at.since(before) > PAUSE) {
            self.alive_since = Some(at);
        }
        self.sent.retain(|(_, sent)| *sent > at);
        self.unanswered.retain(|connect| connect.at > at);
    }

    /// From when to when it has been alive, without a pause.
    pub(crate) fn alive(&self) -> Option<(Monotonic, Monotonic)> {
        self.alive_since.zip(self.last_life())
    }

    /// What happened until now says nothing any more: time passed in which nobody listened.
    pub(crate) fn start_over(&mut self, now: Monotonic) {
        self.since = now;
        self.sent.clear();
        self.unanswered.clear();
    }

    /// Gives up an echo that is blocked while connections succeed.
    pub(crate) fn review(&mut self, now: Monotonic, settings: &Settings) {
        let works = self.connected.is_some_and(|at| now.since(at) < settings.veto);
        if works && self.echo.is_some_and(|at| now.since(at.max(self.since)) >= BLOCKED_AFTER) {
            self.echo = None;
        }
    }

    pub(crate) fn last_life(&self) -> Option<Monotonic> {
        self.echo.max(self.connected)
    }

    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.rtt.smoothed()
    }

    /// The nodes whose answers are overdue, one entry for each probe.
    fn overdue(&self, now: Monotonic, settings: &Settings) -> impl Iterator<Item = &NodeName> {
        let echoes = self.echo.is_some() || self.presumed;
        let deadline = self.rtt.deadline(settings);
        let overdue = self.sent.iter().filter(move |(_, at)| echoes && now.since(*at) >= deadline);
        overdue.map(|(node, _)| node)
    }

    /// Something is overdue, so that a closer look is worth its packets.
    pub(crate) fn is_suspect(&self, now: Monotonic, settings: &Settings) -> bool {
        !self.unanswered.is_empty() || self.overdue(now, settings).next().is_some()
    }

    /// Since when this path has certainly been silent, and when it was last asked without an answer.
    pub(crate) fn silence(&self, now: Monotonic, settings: &Settings) -> Option<(Monotonic, Monotonic)> {
        let deadline = self.rtt.deadline(settings);
        let overdue = |at: &Monotonic| now.since(*at) >= deadline;
        let mut echoes = self.sent.iter().map(|(_, at)| *at).filter(overdue);
        let echo = echoes.clone().next().map(|at| at + deadline);
        let connect = self.unanswered.front().map(|connect| connect.at);
        let asked = echoes.next_back().max(self.unanswered.iter().map(|connect| connect.began).max());
        echo.into_iter().chain(connect).min().zip(asked)
    }

    /// `nodes`: how many nodes there are to probe.
    pub(crate) fn state(&self, now: Monotonic, nodes: usize, settings: &Settings) -> PathState {
        let Some(life) = self.last_life().or(self.presumed.then_some(self.since)) else {
            return PathState::Unknown;
        };
        let life = self.echo.unwrap_or(life).max(self.since);
        let patience = self.rtt.lost_after(settings);
        let vetoed = self.connected.is_some_and(|at| now.since(at.max(self.since)) < settings.veto);
        // Where probes are rare, silence is old before the first of them is missed.
        let missed = |at: Monotonic| now.since(at) + patience / 3 >= patience;
        let silent = now.since(life) >= patience && self.first_unanswered().is_some_and(missed);
        if silent && !vetoed && self.is_evident(now, nodes, settings) {
            PathState::Failed
        } else {
            PathState::Ok
        }
    }

    fn first_unanswered(&self) -> Option<Monotonic> {
        let (sent, connect) = (self.sent.front(), self.unanswered.front());
        sent.map(|(_, at)| *at).into_iter().chain(connect.map(|connect| connect.at)).min()
    }

    /// Enough was sent to different nodes, or backends, that should have been answered.
    fn is_evident(&self, now: Monotonic, nodes: usize, settings: &Settings) -> bool {
        let probes = self.overdue(now, settings).count();
        let probed: BTreeSet<&NodeName> = self.overdue(now, settings).collect();
        let backends: BTreeSet<&SocketAddr> =
            self.unanswered.iter().map(|connect| &connect.backend).collect();
        probes >= ENOUGH && probed.len() >= ENOUGH.min(nodes)
            || self.unanswered.len() >= ENOUGH && backends.len() > 1
    }
}

/// Keeps the first one, and the latest ones.
fn remember<T>(list: &mut VecDeque<T>, item: T) {
    if list.len() >= REMEMBERED {
        list.remove(1);
    }
    list.push_back(item);
}
