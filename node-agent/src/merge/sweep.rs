//! Holds the maps against the mirror, a little at a time, round after round: whoever else writes them, or a write that the
//! kernel lost, is found and repaired without a restart.

use mesh_abi::ServiceKey;
use mesh_model::desired::Frontend;

use super::metrics::Map;
use crate::datapath::actual::{Actual, service_key};
use crate::datapath::inspect::Inspect;
use crate::datapath::maps::MapError;
use crate::datapath::plan::Plan;

/// The most that one step looks at: about a millisecond's work.
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

/// The differences by map, and the writes that repair them.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::apply::{apply, release};
    use crate::merge::history_tests::kernel::Kernel;
    use crate::merge::merger::Merger;
    use crate::merge::testing;

    /// Maps with two services, and the merger that wrote them.
    fn written() -> (Kernel, Merger) {
        let (mut kernel, mut merger) = (Kernel::new(), testing::merger());
        merger.observe(Some(&testing::local(&[(1, &[1, 2]), (2, &[2, 3])])), &testing::no_peers());
        while let Some(mut planned) = merger.next_plan() {
            apply(&mut kernel, &planned.plan).unwrap();
            merger.actual_mut().written(&mut planned.plan);
        }
        (kernel, merger)
    }

    /// Steps until a whole round is over, with the repairs written; the differences that were found.
    fn round(kernel: &mut Kernel, merger: &mut Merger) -> Vec<(Map, usize)> {
        let (mut sweep, mut wrong) = (Sweep::default(), Vec::new());
        // The first round begins without frontends.
        while sweep.rounds() < 2 {
            let mut found = sweep.step(kernel, merger.actual_mut()).unwrap();
            apply(kernel, &found.plan).unwrap();
            let retired = merger.actual_mut().written(&mut found.plan);
            assert!(release(kernel, merger.actual_mut(), retired).is_empty());
            wrong.append(&mut found.wrong);
        }
        wrong
    }

    #[test]
    fn a_round_over_sound_maps_finds_and_writes_nothing() {
        let (mut kernel, mut merger) = written();
        let before = kernel.content();
        assert_eq!(round(&mut kernel, &mut merger), []);
        assert_eq!(kernel.content(), before);
    }

    #[test]
    fn each_kind_of_damage_is_found_in_its_map_and_repaired() {
        use Map::{Backends, Services, Slots};
        let maps = [Services, Services, Services, Slots, Backends, Backends, Backends, Services];
        for (kind, map) in maps.into_iter().enumerate() {
            let (mut kernel, mut merger) = written();
            let before = kernel.content();
            let first = kernel.contents().services[0].1.groups[0].first;
            let place = if map == Slots { first } else { 0 };
            kernel.damage(kind.try_into().unwrap(), place.try_into().unwrap());
            let wrong = round(&mut kernel, &mut merger);
            assert!(wrong.iter().any(|(found, _)| *found == map), "kind {kind}: {wrong:?}");
            assert_eq!(kernel.content(), before, "kind {kind}");
            assert_eq!(round(&mut kernel, &mut merger), [], "kind {kind} is found once");
        }
    }
}
