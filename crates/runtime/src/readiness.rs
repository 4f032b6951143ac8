//! What must hold before this process calls itself ready, by name, and why it does not hold yet.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The named conditions of this process; ready means that all of them hold. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    /// For each condition, why it doesn't hold; `None` when it does.
    conditions: Arc<Mutex<BTreeMap<&'static str, Option<String>>>>,
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
