//! What real connections and echoes show of one node.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use crate::signal::Outcome;
use crate::time::Monotonic;

/// So many unanswered connects to so many of its backends are a node's fault.
const UNANSWERED: u32 = 3;
const BACKENDS: usize = 2;
/// An echo that came back speaks for the node this long, whatever its backends do.
const VOUCHED: Duration = Duration::from_secs(2);
/// How often a node under suspicion is asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long a node has to answer before its backends are used again.
const GOOD: Duration = Duration::from_secs(5);
/// How long a node is left alone that never answered an echo: its backends are tried again after that.
const SILENT_FOR: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(crate) struct Node {
    pub(crate) backends: BTreeSet<SocketAddr>,
    /// Of its backends, since anything of it answered.
    unanswered: BTreeSet<SocketAddr>,
    failures: u32,
    asked: Option<Monotonic>,
    /// When it last answered an echo, and since when it has answered all of them.
    answered: Option<Monotonic>,
    good: Option<Monotonic>,
    down: Option<Monotonic>,
}

impl Node {
    pub(crate) fn is_down(&self) -> bool {
        self.down.is_some()
    }

    pub(crate) fn is_suspect(&self) -> bool {
        self.is_down() || !self.unanswered.is_empty()
    }

    pub(crate) fn connect(&mut self, now: Monotonic, backend: SocketAddr, outcome: Outcome) {
        match outcome {
            Outcome::Unanswered => {
                self.unanswered.insert(backend);
                self.failures = self.failures.saturating_add(1);
                let vouched = self.answered.is_some_and(|at| now.since(at) < VOUCHED);
                if self.unanswered.len() >= BACKENDS && self.failures >= UNANSWERED && !vouched {
                    self.fell(now);
                }
            }
            // A host that refuses is there.
            Outcome::Connected | Outcome::Refused => {
                self.forget();
                self.down = None;
            }
        }
    }

    pub(crate) fn echo(&mut self, now: Monotonic, answered: bool) {
        if answered {
            self.answered = Some(now);
            self.good.get_or_insert(now);
            self.forget();
        } else {
            self.good = None;
            // Of a node that never answered, silence says nothing.
            if self.answered.is_some() && !self.unanswered.is_empty() {
                self.fell(now);
            }
        }
    }

    fn fell(&mut self, now: Monotonic) {
        if self.down.is_none() {
            self.down = Some(now);
            self.good = None;
        }
    }

    /// What says nothing any more is forgotten.
    pub(crate) fn forget(&mut self) {
        self.unanswered.clear();
        self.failures = 0;
    }

    /// Whether to ask it now.
    pub(crate) fn tick(&mut self, now: Monotonic) -> bool {
        let back = self.good.is_some_and(|good| now.since(good) >= GOOD);
        let tried = self.answered.is_none() && self.down.is_some_and(|at| now.since(at) >= SILENT_FOR);
        if self.is_down() && (back || tried) {
            self.down = None;
            self.good = None;
            self.forget();
        }
        let ask = self.is_suspect() && self.asked.is_none_or(|asked| now.since(asked) >= ASK_EVERY);
        if ask {
            self.asked = Some(now);
        }
        ask
    }
}
