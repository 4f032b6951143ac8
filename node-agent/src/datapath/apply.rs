//! Carries plans out: the only place that writes service entries, slots and backends.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::SystemTime;

use mesh_abi::ServiceKey;
use mesh_model::desired::Frontend;

use super::actual::{Actual, frontend_of};
use super::maps::{Datapath, MapError, Refused};
use super::plan::{Cleared, Plan, Retired};

/// When a plan's writes happened.
#[derive(Clone, Copy, Debug)]
pub struct Applied {
    /// After the first write.
    pub first_write: SystemTime,
    /// After the last write.
    pub last_write: SystemTime,
}

/// What became of a plan.
#[derive(Debug, Default)]
pub struct Outcome {
    /// None where nothing was written.
    pub applied: Option<Applied>,
    /// Why writes failed.
    pub errors: Vec<MapError>,
    /// Frontends that a write failed of, and the first of the errors. Nothing was written that relies on it.
    pub failed: BTreeMap<Frontend, usize>,
    /// Backends that a write failed of.
    pub failed_backends: Vec<u32>,
}

/// Writes a plan in its order. A write that the kernel refuses is its frontend's: what comes later of the same frontend is
/// left out, and everything else goes on.
pub(crate) fn carry_out(maps: &mut impl Datapath, plan: &Plan) -> Outcome {
    let mut pass = Pass { plan, outcome: Outcome::default() };
    pass.backends(maps);
    pass.slots(maps);
    pass.services(maps);
    pass.deletions(maps);
    pass.outcome
}

/// Writes a plan in its order, or says why not all of it could be written.
///
/// # Errors
/// A write that the kernel refused.
pub fn apply(maps: &mut impl Datapath, plan: &Plan) -> Result<Option<Applied>, MapError> {
    let Outcome { applied, errors, .. } = carry_out(maps, plan);
    match errors.into_iter().next() {
        None => Ok(applied),
        Some(error) => Err(error),
    }
}

/// Clears what plans no longer need, after a grace period. Gives what could not be cleared; the ids are free
/// all the same, for nothing leads there.
pub fn release(maps: &mut impl Datapath, actual: &mut Actual, retired: Retired) -> Vec<Refused> {
    let Cleared { backends, tables } = actual.release(retired);
    let mut refused = if backends.is_empty() { Vec::new() } else { maps.write_backends(&backends) };
    if !tables.is_empty() {
        refused.extend(maps.delete_tables(&tables));
    }
    refused
}

/// A plan on its way into the maps.
struct Pass<'a> {
    plan: &'a Plan,
    outcome: Outcome,
}

impl Pass<'_> {
    fn backends(&mut self, maps: &mut impl Datapath) {
        let plan = self.plan;
        let refused = maps.write_backends(&plan.backends);
        self.written(plan.backends.len() - refused.len());
        if refused.is_empty() {
            return;
        }
        let mut failed: HashMap<u32, usize> = HashMap::new();
        for Refused { index, error } in refused {
            let error = self.error(error);
            failed.insert(plan.backends[index].0, error);
            self.fail(plan.parts.of_backend(index).copied(), error);
        }
        let owners = plan.parts.by_service();
        for (_, slot) in &plan.slots {
            if let Some(error) = failed.get(&slot.backend) {
                self.fail(owners.get(&slot.service).copied(), *error);
            }
        }
        self.outcome.failed_backends = failed.into_keys().collect();
    }

    fn slots(&mut self, maps: &mut impl Datapath) {
        let failed = &self.outcome.failed;
        let left_out: HashSet<u32> = if failed.is_empty() {
            HashSet::new()
        } else {
            let owners = self.plan.parts.by_service();
            owners.into_iter().filter(|(_, owner)| failed.contains_key(owner)).map(|(id, _)| id).collect()
        };
        let slots =
            remaining(&self.plan.slots, !left_out.is_empty(), |(_, slot)| !left_out.contains(&slot.service));
        let refused = maps.write_slots(&slots);
        self.written(slots.len() - refused.len());
        if refused.is_empty() {
            return;
        }
        let owners = self.plan.parts.by_service();
        for Refused { index, error } in refused {
            let error = self.error(error);
            self.fail(owners.get(&slots[index].1.service).copied(), error);
        }
    }

    fn services(&mut self, maps: &mut impl Datapath) {
        let services = remaining(&self.plan.services, self.has_failures(), |(key, _)| !self.has_failed(key));
        let refused = maps.write_services(&services);
        self.written(services.len() - refused.len());
        for Refused { index, error } in refused {
            let error = self.error(error);
            self.fail(frontend_of(&services[index].0), error);
        }
    }

    fn deletions(&mut self, maps: &mut impl Datapath) {
        let keys = remaining(&self.plan.deleted, self.has_failures(), |key| !self.has_failed(key));
        let refused = maps.delete_services(&keys);
        self.written(keys.len() - refused.len());
        for Refused { index, error } in refused {
            let error = self.error(error);
            self.fail(frontend_of(&keys[index]), error);
        }
    }

    fn has_failures(&self) -> bool {
        !self.outcome.failed.is_empty()
    }

    fn has_failed(&self, key: &ServiceKey) -> bool {
        frontend_of(key).is_some_and(|frontend| self.outcome.failed.contains_key(&frontend))
    }

    fn error(&mut self, error: MapError) -> usize {
        self.outcome.errors.push(error);
        self.outcome.errors.len() - 1
    }

    fn fail(&mut self, frontend: Option<Frontend>, error: usize) {
        if let Some(frontend) = frontend {
            self.outcome.failed.entry(frontend).or_insert(error);
        }
    }

    fn written(&mut self, elements: usize) {
        if elements == 0 {
            return;
        }
        let now = SystemTime::now();
        self.outcome.applied.get_or_insert(Applied { first_write: now, last_write: now }).last_write = now;
    }
}

/// What may still be written: everything where nothing has failed.
fn remaining<T: Clone>(all: &[T], some_failed: bool, keep: impl Fn(&T) -> bool) -> Cow<'_, [T]> {
    if some_failed {
        all.iter().filter(|element| keep(element)).cloned().collect()
    } else {
        Cow::Borrowed(all)
    }
}
