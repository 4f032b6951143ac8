//! What must hold before this process calls itself ready, by name, and why it does not hold yet; and what is wrong although
//! it is ready.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Remarks about one subject that are shown; of more only their number is.
const MAX_REMARKS: usize = 100;

/// The named conditions of this process; ready means that all of them hold. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    /// For each condition, why it doesn't hold; `None` when it does.
    conditions: Arc<Mutex<BTreeMap<&'static str, Option<String>>>>,
    remarks: Arc<Mutex<BTreeMap<&'static str, Vec<String>>>>,
}

/// A condition that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    pub condition: &'static str,
    pub reason: String,
}

impl Readiness {
    /// Adds a condition, which does not hold until its owner says so; `waiting_for` is shown until then.
    /// Register all of them before the admin server starts, or the process looks ready for a moment.
    pub fn condition(&self, name: &'static str, waiting_for: impl Into<String>) -> Condition {
        self.lock().insert(name, Some(waiting_for.into()));
        Condition { name, readiness: self.clone() }
    }

    /// The conditions that don't hold; empty means ready.
    pub fn missing(&self) -> Vec<Missing> {
        let missing = |(name, reason): (&&'static str, &Option<String>)| {
            reason.as_ref().map(|reason| Missing { condition: name, reason: reason.clone() })
        };
        self.lock().iter().filter_map(missing).collect()
    }

    /// Whether every condition holds.
    pub fn is_ready(&self) -> bool {
        self.lock().values().all(Option::is_none)
    }

    /// What is wrong although the process is ready, one line each, such as what stays because it can't be read. Replaces what
    /// was said about the same before.
    pub(crate) fn remark(&self, about: &'static str, mut lines: Vec<String>) {
        if lines.len() > MAX_REMARKS {
            let more = lines.len() - MAX_REMARKS;
            lines.truncate(MAX_REMARKS);
            lines.push(format!("and {more} more, which the log has"));
        }
        self.remarks.lock().unwrap_or_else(PoisonError::into_inner).insert(about, lines);
    }

    /// All remarks, each with what it is about.
    pub(crate) fn remarks(&self) -> Vec<(&'static str, String)> {
        let all = self.remarks.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = all.iter().flat_map(|(about, lines)| lines.iter().map(|line| (*about, line.clone())));
        lines.collect()
    }

    /// Remarks on what comes until the token is cancelled.
    pub async fn remark_on<T: Send + Sync>(
        self,
        about: &'static str,
        mut values: watch::Receiver<T>,
        mut lines: impl FnMut(&T) -> Vec<String> + Send,
        token: CancellationToken,
    ) {
        loop {
            let said = lines(&values.borrow_and_update());
            self.remark(about, said);
            tokio::select! {
                Ok(()) = values.changed() => {}
                () = token.cancelled() => return,
                // Who says something has ended, which is its supervisor's business.
                else => return token.cancelled().await,
            }
        }
    }

    fn set(&self, name: &'static str, reason: Option<String>) {
        let before = self.lock().insert(name, reason.clone());
        if before.as_ref().is_some_and(Option::is_none) == reason.is_none() {
            return;
        }
        match reason {
            None => tracing::info!(condition = name, "condition holds"),
            Some(reason) => tracing::warn!(condition = name, reason, "condition no longer holds"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Option<String>>> {
        // A writer only ever replaces one value, so the map is whole even if one panicked.
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The owner's handle on one condition.
#[derive(Clone, Debug)]
pub struct Condition {
    name: &'static str,
    readiness: Readiness,
}

impl Condition {
    /// Whether it holds.
    pub fn holds(&self) -> bool {
        self.readiness.lock().get(self.name).is_some_and(Option::is_none)
    }

    /// The condition holds.
    pub fn ready(&self) {
        self.readiness.set(self.name, None);
    }

    /// The condition does not hold, and why.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.readiness.set(self.name, Some(reason.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn remarks_follow_what_comes_and_change_no_readiness() {
        let readiness = Readiness::default();
        let (say, said) = watch::channel(vec!["a.yaml is broken".to_owned()]);
        let token = CancellationToken::new();
        let task = readiness.clone().remark_on("source", said, |lines| lines.clone(), token.clone());
        let task = tokio::spawn(task);
        for lines in [1, 0, MAX_REMARKS, 3 * MAX_REMARKS] {
            say.send_replace(vec!["a.yaml is broken".into(); lines]);
            while readiness.remarks().len() != lines.min(MAX_REMARKS + 1) {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(readiness.remarks()[MAX_REMARKS], ("source", "and 200 more, which the log has".into()));
        assert!(readiness.is_ready());
        drop(say);
        token.cancel();
        task.await.unwrap();
    }

    #[test]
    fn ready_means_that_every_condition_holds() {
        let readiness = Readiness::default();
        let maps = readiness.condition("maps", "the first plan");
        let canary = readiness.condition("canary", "the first dial");
        assert!(!readiness.is_ready());
        maps.ready();
        canary.ready();
        assert!(readiness.is_ready());
        canary.not_ready("EPERM was expected");
        assert_eq!(
            readiness.missing(),
            [Missing { condition: "canary", reason: "EPERM was expected".into() }]
        );
    }
}
