//! How the endpoints of a service differ from what they were, at the price of the slices that did.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::service::{PeerService, PeerSlice};
use crate::address::Address;
use crate::endpoint::ServingEndpoint;

/// How far a slice is looked for behind the last one that was found: so many neighbours may go at once until the rest
/// counts as changed, which costs time and nothing else.
const LOOK_AHEAD: usize = 32;
/// So few lookups are always worth it.
const FEW_LOOKUPS: usize = 64;
/// A lookup of an address in a slice costs as much as so many endpoints do in a pass over all.
const LOOKUP_COST: usize = 8;

/// The addresses that are not what they were, each in its best state over all slices, in their order. One that came or went
/// is in one of the lists, one that changed in both.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct EndpointChanges {
    pub(crate) before: Vec<ServingEndpoint>,
    pub(crate) after: Vec<ServingEndpoint>,
}

/// Finds slices of one list in another of the same order, by place and not by content.
pub(super) struct Finder<'a> {
    rest: &'a [Arc<PeerSlice>],
}

impl<'a> Finder<'a> {
    pub(super) fn new(slices: &'a [Arc<PeerSlice>]) -> Self {
        Self { rest: slices }
    }

    /// Whether the slice stands in what is left of the list, not far from where the last one stood; and what was passed
    /// over for it.
    fn find(&mut self, slice: &Arc<PeerSlice>) -> Option<&'a [Arc<PeerSlice>]> {
        let at = self.rest.iter().take(LOOK_AHEAD).position(|other| Arc::ptr_eq(other, slice))?;
        let passed = &self.rest[..at];
        self.rest = &self.rest[at + 1..];
        Some(passed)
    }

    pub(super) fn has(&mut self, slice: &Arc<PeerSlice>) -> bool {
        self.find(slice).is_some()
    }
}

/// The best that an address is in the slices that went and in those that came.
#[derive(Clone, Copy, Default)]
struct Sides {
    gone: Option<ServingEndpoint>,
    come: Option<ServingEndpoint>,
}

/// What two forms of a service have and don't have in common.
struct Alignment<'a> {
    gone: Vec<&'a Arc<PeerSlice>>,
    stayed: Vec<&'a Arc<PeerSlice>>,
    come: Vec<&'a Arc<PeerSlice>>,
}

impl<'a> Alignment<'a> {
    fn of(before: &'a [Arc<PeerSlice>], after: &'a [Arc<PeerSlice>]) -> Self {
        let (mut gone, mut stayed, mut come) = (Vec::new(), Vec::new(), Vec::new());
        let mut finder = Finder::new(before);
        for slice in after {
            match finder.find(slice) {
                Some(passed) => {
                    gone.extend(passed);
                    stayed.push(slice);
                }
                None => come.push(slice),
            }
        }
        gone.extend(finder.rest);
        Self { gone, stayed, come }
    }

    /// The addresses that are not the same in what went and in what came.
    fn touched(&self) -> BTreeMap<Address, Sides> {
        let mut all: BTreeMap<Address, Sides> = BTreeMap::new();
        for endpoint in self.gone.iter().flat_map(|slice| slice.endpoints()) {
            let side = &mut all.entry(endpoint.address).or_default().gone;
            *side = best(*side, Some(endpoint));
        }
        for endpoint in self.come.iter().flat_map(|slice| slice.endpoints()) {
            let side = &mut all.entry(endpoint.address).or_default().come;
            *side = best(*side, Some(endpoint));
        }
        // Where both say the same, so do they together with what stayed.
        all.retain(|_, sides| sides.gone != sides.come);
        all
    }

    fn note(&self, address: Address, sides: Sides, changes: &mut EndpointChanges) {
        let stayed = self.stayed.iter().map(|slice| slice.find(address)).fold(None, best);
        let (before, after) = (best(sides.gone, stayed), best(sides.come, stayed));
        if before != after {
            changes.before.extend(before);
            changes.after.extend(after);
        }
    }
}

/// The better of two at the same address, and either before nothing.
fn best(one: Option<ServingEndpoint>, other: Option<ServingEndpoint>) -> Option<ServingEndpoint> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

impl PeerService {
    /// How the endpoints differ from what they were; none where looking at everything costs less.
    pub(crate) fn changes_since(&self, before: &Self) -> Option<EndpointChanges> {
        let alignment = Alignment::of(before.slices(), self.slices());
        let touched = alignment.touched();
        let lookups = touched.len() * alignment.stayed.len();
        if lookups > FEW_LOOKUPS && lookups * LOOKUP_COST > before.endpoint_count() {
            return None;
        }
        let mut changes = EndpointChanges::default();
        touched.into_iter().for_each(|(address, sides)| alignment.note(address, sides, &mut changes));
        Some(changes)
    }
}
