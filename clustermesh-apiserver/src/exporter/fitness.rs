//! Whether this replica could lead: its source is synced and followed, and etcd lets it write.
//!
//! Judges; whoever competes for the lead acts on it.

use std::convert::Infallible;
use std::time::Duration;

use mesh_runtime::Condition;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::Source;
use super::metrics::ExportMetrics;

/// How often what nobody announces (time that passes) is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// For so long a replica that resigned because its writes failed does not stand by, the first time.
const FIRST_HOLD: Duration = Duration::from_secs(10);
/// The same after many times without a success between them, so that two such replicas don't take turns.
const LAST_HOLD: Duration = Duration::from_secs(30 * 60);

/// What a source has to have said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Of one that leads.
    Leader,
    /// Of one that tells a leader to resign: heard so lately that it does not share the leader's trouble.
    Standby,
}

/// Why a replica could not lead, or should not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("waiting for the source's first full list")]
    Unlisted,
    #[error("waiting for the cluster's address ranges")]
    Unranged,
    #[error("the source has confirmed nothing for {seconds} s")]
    Silent { seconds: u64 },
    #[error("etcd has not said yet whether this replica may write")]
    Unasked,
    #[error("etcd does not take what this replica writes: {text}")]
    Denied { text: String },
}

/// What etcd said of this replica's writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Writes {
    #[default]
    Unasked,
    Allowed,
    Denied(String),
}

/// What decides.
#[derive(Clone, Debug, Default)]
struct Facts {
    listed: bool,
    ranged: bool,
    /// Of what the source confirmed last; none where it can't tell.
    age: Option<Duration>,
    writes: Writes,
}

impl Facts {
    /// `resign_after`: for how long a leader's source may be silent; zero: for ever.
    fn judge(self, role: Role, resign_after: Duration) -> Result<(), Unfit> {
        let limit = match role {
            Role::Leader => resign_after,
            Role::Standby => resign_after / 2,
        };
        let silent = self.age.filter(|age| !limit.is_zero() && *age > limit);
        match self {
            Self { listed: false, .. } => Err(Unfit::Unlisted),
            Self { ranged: false, .. } => Err(Unfit::Unranged),
            Self { writes: Writes::Denied(text), .. } => Err(Unfit::Denied { text }),
            Self { writes: Writes::Unasked, .. } if role == Role::Standby => Err(Unfit::Unasked),
            _ => silent.map_or(Ok(()), |age| Err(Unfit::Silent { seconds: age.as_secs() })),
        }
    }
}

/// After writes that failed: for how long this replica stays away.
#[derive(Clone, Debug)]
struct Hold {
    text: String,
    length: Duration,
    until: Instant,
}

/// Knows whether this replica could lead, and shows it.
pub(super) struct Fitness {
    source: Source,
    resign_after: Duration,
    writes: watch::Sender<Writes>,
    hold: watch::Sender<Option<Hold>>,
    leading: watch::Receiver<bool>,
    condition: Condition,
    metrics: ExportMetrics,
}

impl Fitness {
    /// `condition` holds while this replica could lead.
    pub(super) fn new(
        source: Source,
        resign_after: Duration,
        leading: watch::Receiver<bool>,
        condition: Condition,
        metrics: ExportMetrics,
    ) -> Self {
        let (writes, hold) = (watch::Sender::default(), watch::Sender::default());
        Self { source, resign_after, writes, hold, leading, condition, metrics }
    }

    /// The same with another limit, before anything else is asked of it.
    pub(super) fn with_limit(&self, resign_after: Duration) -> Self {
        let Self { source, leading, condition, metrics, .. } = self;
        Self::new(source.clone(), resign_after, leading.clone(), condition.clone(), metrics.clone())
    }

    /// Whether this replica may have a role.
    pub(super) fn judge(&self, role: Role) -> Result<(), Unfit> {
        self.facts().judge(role, self.resign_after)
    }

    /// Whether the source has said what the cluster consists of, however long ago.
    pub(super) fn has_list(&self) -> bool {
        let Facts { listed, ranged, .. } = self.facts();
        listed && ranged
    }

    fn facts(&self) -> Facts {
        let now = Instant::now();
        let held = self.hold.borrow().as_ref().filter(|hold| now < hold.until).map(|hold| hold.text.clone());
        Facts {
            listed: self.source.snapshots.borrow().is_some(),
            ranged: self.source.ranges.borrow().is_some(),
            age: self.source.confirmed.borrow().map(|at| at.elapsed()),
            writes: held.map_or_else(|| self.writes.borrow().clone(), Writes::Denied),
        }
    }

    /// Waits until this replica may have a role.
    pub(super) async fn until_fit(&self, role: Role) {
        self.until(|| self.judge(role).is_ok()).await;
    }

    /// Waits until it may not, and says why.
    pub(super) async fn until_unfit(&self, role: Role) -> Unfit {
        self.until(|| self.judge(role).is_err()).await;
        self.judge(role).err().unwrap_or(Unfit::Unlisted)
    }

    async fn until(&self, holds: impl Fn() -> bool) {
        let mut snapshots = self.source.snapshots.clone();
        while !holds() {
            // A first list is worth no delay.
            tokio::select! {
                Ok(()) = snapshots.changed() => {}
                () = sleep(LOOK) => {}
            }
        }
    }

    /// Writes have failed: this replica stays away from the lead for a while, each time twice as long.
    pub(super) fn stay_away(&self, text: &str) {
        let before = self.hold.borrow().as_ref().map(|hold| hold.length);
        let length = before.map_or(FIRST_HOLD, |length| (length * 2).min(LAST_HOLD));
        self.hold.send_replace(Some(Hold { text: text.into(), length, until: Instant::now() + length }));
    }

    /// Etcd would take this replica's writes.
    pub(super) fn allow(&self) {
        self.writes.send_replace(Writes::Allowed);
    }

    /// Etcd would not.
    pub(super) fn deny(&self, text: String) {
        self.writes.send_replace(Writes::Denied(text));
    }

    /// Etcd holds all that the source says.
    pub(super) fn wrote(&self) {
        self.hold.send_replace(None);
        self.allow();
    }

    /// Shows in readiness and metrics how this replica fares.
    pub(super) async fn show(&self) -> Infallible {
        loop {
            let judged = self.judge(Role::Leader);
            self.metrics.fit.set(judged.is_ok().into());
            match judged {
                Ok(()) => self.condition.ready(),
                Err(unfit @ (Unfit::Unlisted | Unfit::Unranged)) => {
                    self.condition.not_ready(unfit.to_string())
                }
                Err(unfit) if *self.leading.borrow() => {
                    self.condition.not_ready(format!("{unfit}; this replica leads until another stands by"));
                }
                Err(unfit) => self.condition.not_ready(format!("{unfit}; this replica does not stand by")),
            }
            sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn facts(age_seconds: u64) -> Facts {
        let age = Some(Duration::from_secs(age_seconds));
        Facts { listed: true, ranged: true, age, writes: Writes::Allowed }
    }

    #[test]
    fn a_replica_could_lead_while_its_source_is_complete_and_heard_and_etcd_takes_its_writes() {
        let denied = Writes::Denied("permission denied".into());
        for (facts, leader, standby) in [
            (facts(30), "", ""),
            (facts(31), "", "confirmed nothing for 31 s"),
            (facts(61), "confirmed nothing for 61 s", "confirmed nothing for 61 s"),
            (Facts { age: None, ..facts(0) }, "", ""),
            (Facts { listed: false, ..facts(0) }, "first full list", "first full list"),
            (Facts { ranged: false, ..facts(0) }, "address ranges", "address ranges"),
            (Facts { writes: Writes::Unasked, ..facts(0) }, "", "has not said yet"),
            (Facts { writes: denied, ..facts(0) }, "permission denied", "permission denied"),
        ] {
            for (role, part) in [(Role::Leader, leader), (Role::Standby, standby)] {
                let judged = facts.clone().judge(role, LIMIT).err().map(|unfit| unfit.to_string());
                assert_eq!(judged.is_some(), !part.is_empty(), "{facts:?} as {role:?}: {judged:?}");
                assert!(judged.unwrap_or_default().contains(part), "{facts:?} as {role:?}");
            }
        }
        assert_eq!(facts(6000).judge(Role::Leader, Duration::ZERO), Ok(()), "never is never");
    }
}
