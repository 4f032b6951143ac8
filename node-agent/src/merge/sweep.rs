//! Holds the maps against the mirror, a little at a time, round after round: whoever else writes them, or a write that the
//! kernel lost, is found and repaired without a restart.

use mesh_abi::ServiceKey;
use mesh_model::desired::Frontend;

use super::metrics::Map;
use crate::datapath::actual::{Actual, service_key};
use crate::datapath::inspect::Inspect;
use crate::datapath::maps::MapError;
use crate::datapath::plan::Plan;

/// What one step looks at, at most: about a millisecond's work.
const FRONTENDS: usize = 128;
const SLOTS: u32 = 4096;
const KEYS: usize = 256;
const BACKENDS: u32 = 2048;

/// Where in a round it is.
#[derive(Debug)]
enum Place {
    /// Frontends that are left, and how many slots of the last of them have been seen.
    Frontends(Vec<Frontend>, u32),
    /// The last key that was seen, and how many there were.
    Keys(Option<ServiceKey>, usize),
    /// The next backend.
    Backends(u32),
}

/// The sweep.
#[derive(Debug)]
pub(super) struct Sweep {
    place: Place,
    /// Rounds that are over.
    rounds: u64,
}

/// What differed, by map, and the writes that make up for it.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) plan: Plan,
    pub(super) wrong: Vec<(Map, usize)>,
}

impl Default for Sweep {
    fn default() -> Self {
        Self { place: Place::Frontends(Vec::new(), 0), rounds: 0 }
    }
}

impl Found {
    fn add(&mut self, map: Map, wrong: usize) {
        if wrong > 0 {
            self.wrong.push((map, wrong));
        }
    }
}

impl Sweep {
    pub(super) fn rounds(&self) -> u64 {
        self.rounds
    }

    /// Looks at a few elements.
    pub(super) fn step(&mut self, maps: &impl Inspect, actual: &mut Actual) -> Result<Found, MapError> {
        let mut found = Found::default();
        let next = match &mut self.place {
            Place::Frontends(left, seen) => frontends(left, seen, maps, actual, &mut found)?,
            Place::Keys(last, seen) => keys(last, seen, maps, actual, &mut found)?,
            Place::Backends(next) => {
                let read = maps.read_backends(*next, BACKENDS)?;
                let wrong = actual.repair_backends(*next, &read, &mut found.plan);
                found.add(Map::Backends, wrong);
                *next += u32::try_from(read.len()).unwrap_or(BACKENDS);
                (*next >= actual.capacity().backends || read.is_empty()).then(|| {
                    self.rounds += 1;
                    Place::Frontends(actual.all_frontends(), 0)
                })
            }
        };
        if let Some(next) = next {
            self.place = next;
        }
        Ok(found)
    }
}

fn frontends(
    left: &mut Vec<Frontend>,
    seen: &mut u32,
    maps: &impl Inspect,
    actual: &mut Actual,
    found: &mut Found,
) -> Result<Option<Place>, MapError> {
    let mut slots = SLOTS;
    for _ in 0..FRONTENDS {
        let Some(frontend) = left.last().copied() else { return Ok(Some(Place::Keys(None, 0))) };
        if *seen == 0 {
            let entry = maps.read_services(&[service_key(&frontend)])?.pop().flatten();
            let wrong = actual.repair_entry(&frontend, entry.as_ref(), &mut found.plan);
            found.add(Map::Services, wrong.into());
        }
        while let Some(range) = actual.slots_of(&frontend, *seen, slots) {
            if slots == 0 {
                return Ok(None);
            }
            let read = maps.read_slots(range.first, range.count)?;
            let wrong = actual.repair_slots(&frontend, range.first, &read, &mut found.plan);
            found.add(Map::Slots, wrong);
            *seen += range.count;
            slots -= range.count;
        }
        left.pop();
        *seen = 0;
    }
    Ok(None)
}

fn keys(
    last: &mut Option<ServiceKey>,
    seen: &mut usize,
    maps: &impl Inspect,
    actual: &Actual,
    found: &mut Found,
) -> Result<Option<Place>, MapError> {
    let keys = maps.keys_after(last.as_ref(), KEYS)?;
    let wrong = actual.repair_keys(&keys, &mut found.plan);
    found.add(Map::Services, wrong);
    *seen += keys.len();
    // Behind a key that has gone meanwhile the kernel begins anew.
    let limit = 2 * usize::try_from(actual.capacity().services).unwrap_or(usize::MAX / 2);
    let is_over = keys.len() < KEYS || *seen > limit;
    *last = keys.last().copied();
    Ok(is_over.then_some(Place::Backends(0)))
}
