//! Carries plans out: the only place that writes service entries, slots and backends.

use std::time::SystemTime;

use super::actual::Actual;
use super::maps::{Datapath, MapError};
use super::plan::{Freed, Plan};

/// When a plan's writes happened.
#[derive(Clone, Copy, Debug)]
pub struct Applied {
    /// After the first write.
    pub first_write: SystemTime,
    /// After the last write.
    pub last_write: SystemTime,
}

/// Writes a plan in its order. `None` where there was nothing to write.
///
/// # Errors
/// A write that the kernel refused; what came before it stands, what comes after it was not tried, and the
/// mirror has to be restored from the maps.
pub fn apply(maps: &mut impl Datapath, plan: &Plan) -> Result<Option<Applied>, MapError> {
    if plan.is_empty() {
        return Ok(None);
    }
    let mut first_write = None;
    let mut written = || {
        first_write.get_or_insert_with(SystemTime::now);
    };
    if !plan.backends.is_empty() {
        maps.write_backends(&plan.backends)?;
        written();
    }
    if !plan.slots.is_empty() {
        maps.write_slots(&plan.slots)?;
        written();
    }
    if !plan.services.is_empty() {
        maps.write_services(&plan.services)?;
        written();
    }
    if !plan.deleted.is_empty() {
        maps.delete_services(&plan.deleted)?;
        written();
    }
    let last_write = SystemTime::now();
    Ok(Some(Applied { first_write: first_write.unwrap_or(last_write), last_write }))
}

/// Clears what plans no longer need, after a grace period.
///
/// # Errors
/// As [`apply`].
pub fn release(maps: &mut impl Datapath, actual: &mut Actual, freed: Freed) -> Result<usize, MapError> {
    let cleared = actual.release(freed);
    if !cleared.is_empty() {
        maps.write_backends(&cleared)?;
    }
    Ok(cleared.len())
}
