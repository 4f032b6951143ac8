//! Backend ids: which id stands for which backend, who uses it, and when it may be given away again.
//!
//! Services share a backend's entry. An id is given away only when nobody uses it *and* a grace period has
//! passed since the last user went, so a program in the middle of a lookup never finds another backend there.

use std::hash::{BuildHasher, Hash, Hasher};

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use mesh_abi::{BackendEntry, STATE_ACTIVE, STATE_FREE, STATE_QUARANTINED, STATE_TERMINATING};
use mesh_model::desired::BackendState;

use super::rows::Rows;

/// What a backend is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BackendKey {
    /// Network order, IPv4 v4-mapped.
    pub address: [u8; 16],
    pub port: u16,
    /// Cluster id.
    pub cluster: u16,
    /// IANA protocol number.
    pub protocol: u8,
}

/// In two words, for planning a large service hashes each of its backends.
impl Hash for BackendKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { address, port, cluster, protocol } = *self;
        state.write_u128(u128::from_ne_bytes(address));
        state.write_u64(u64::from(port) | u64::from(cluster) << 16 | u64::from(protocol) << 32);
    }
}

impl BackendKey {
    /// The key of what stands in the maps.
    pub fn of(entry: &BackendEntry) -> Self {
        Self {
            address: entry.address,
            port: u16::from_be_bytes(entry.port),
            cluster: entry.cluster,
            protocol: entry.protocol,
        }
    }
}

/// No state of the maps: a write failed.
const UNKNOWN: u32 = u32::MAX;

/// All backend ids of one instance. Id 0 is never used.
#[derive(Debug)]
pub(crate) struct Backends {
    rows: Rows,
    ids: HashTable<u32>,
    hasher: DefaultHashBuilder,
    free: Vec<u32>,
    capacity: u32,
    /// Ids that are not free, by cluster.
    taken: HashMap<u16, u32>,
}

impl Backends {
    /// Room for ids 1 to `capacity - 1`.
    pub(crate) fn new(capacity: u32) -> Self {
        Self {
            rows: Rows::up_to(0),
            ids: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            free: Vec::new(),
            capacity,
            taken: HashMap::new(),
        }
    }

    /// Takes over what the maps hold: pairs of id and entry that is not free.
    pub(crate) fn restored(capacity: u32, entries: &[(u32, BackendEntry)]) -> Self {
        let mut backends = Self::new(capacity);
        let ids = entries.iter().map(|(id, _)| *id).max().unwrap_or(0);
        backends.rows = Rows::up_to(ids);
        for (id, entry) in entries {
            backends.rows.set(*id, &BackendKey::of(entry), entry.epoch);
            backends.rows.get_mut(*id).set_state(entry.state);
            backends.index(*id);
        }
        backends.free = (1..=ids).rev().filter(|id| backends.rows.get(*id).is_free()).collect();
        backends
    }

    /// Number of backends that somebody uses or that wait for their grace period.
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Number of the cluster's backends that somebody uses or that wait for their grace period.
    pub(crate) fn count_of(&self, cluster: u16) -> u32 {
        self.taken.get(&cluster).copied().unwrap_or(0)
    }

    /// How many more ids can be taken.
    pub(crate) fn room(&self) -> usize {
        self.free.len() + as_index(self.capacity).saturating_sub(self.rows.len())
    }

    pub(crate) fn key(&self, id: u32) -> BackendKey {
        self.rows.key(id)
    }

    /// The state that the maps hold for the id.
    pub(crate) fn state(&self, id: u32) -> u32 {
        self.rows.get(id).state()
    }

    pub(crate) fn find(&self, key: &BackendKey) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        self.ids.find(hash, |id| self.rows.key(*id) == *key).copied()
    }

    /// One more group holds the backend. None where there is no room for another id.
    pub(crate) fn add_user(&mut self, key: BackendKey, state: BackendState) -> Option<u32> {
        let id = match self.find(&key) {
            Some(id) => id,
            None => self.take_id(key)?,
        };
        let row = self.rows.get_mut(id);
        row.users += 1;
        row.active_users += u32::from(state == BackendState::Active);
        Some(id)
    }

    /// The group still holds the backend, and calls it something else than before.
    pub(crate) fn change_user(&mut self, id: u32, before: BackendState, after: BackendState) {
        let row = self.rows.get_mut(id);
        row.active_users -= u32::from(before == BackendState::Active);
        row.active_users += u32::from(after == BackendState::Active);
    }

    /// The group no longer holds the backend. True where it was the last one: [`Self::release`] is owed after
    /// a grace period.
    pub(crate) fn remove_user(&mut self, id: u32, state: BackendState) -> bool {
        let row = self.rows.get_mut(id);
        row.users -= 1;
        row.active_users -= u32::from(state == BackendState::Active);
        if row.users == 0 {
            row.pending += 1;
        }
        row.users == 0
    }

    /// The group holds the backend after all; `was_last` undoes that [`Self::remove_user`] owed its release.
    pub(crate) fn rejoin(&mut self, id: u32, state: BackendState, was_last: bool) {
        self.restore_user(id, state);
        self.rows.get_mut(id).pending -= u16::from(was_last);
    }

    /// Whatever state the maps hold, the next plan that touches the backend writes it.
    pub(crate) fn forget_state(&mut self, id: u32) {
        let row = self.rows.get_mut(id);
        if row.users > 0 {
            row.set_state(UNKNOWN);
        }
    }

    /// Ids from here on have never been used.
    pub(super) fn end(&self) -> u32 {
        u32::try_from(self.rows.len()).expect("ids are u32")
    }

    pub(super) fn is_free(&self, id: u32) -> bool {
        self.rows.get(id).is_free()
    }

    pub(super) fn epoch(&self, id: u32) -> u32 {
        self.rows.get(id).epoch
    }

    /// What the maps hold under the id, unless nobody knows.
    pub(super) fn entry(&self, id: u32) -> Option<BackendEntry> {
        let state = self.rows.get(id).state();
        (state <= STATE_QUARANTINED).then(|| self.rows.entry(id, state))
    }

    /// The entry to write if the maps hold another one; remembers it as written.
    pub(crate) fn write(&mut self, id: u32) -> Option<BackendEntry> {
        let row = self.rows.get_mut(id);
        let desired = if row.active_users > 0 { STATE_ACTIVE } else { STATE_TERMINATING };
        let state = worse(desired, row.state());
        if row.users == 0 || row.state() == state {
            return None;
        }
        row.set_state(state);
        Some(self.rows.entry(id, state))
    }

    /// The backend is quarantined in maps that take the place of others. Gives its entry.
    pub(crate) fn quarantine(&mut self, id: u32) -> BackendEntry {
        self.rows.get_mut(id).set_state(STATE_QUARANTINED);
        self.rows.entry(id, STATE_QUARANTINED)
    }

    /// A grace period has passed since the removal. Frees the id unless somebody uses it again or a later
    /// removal still waits, and gives the entry that says so.
    pub(crate) fn release(&mut self, id: u32) -> Option<BackendEntry> {
        let row = self.rows.get_mut(id);
        row.pending -= 1;
        if row.users > 0 || row.pending > 0 {
            return None;
        }
        let (hash, epoch) = (self.hasher.hash_one(self.rows.key(id)), self.rows.get(id).epoch);
        if let Ok(entry) = self.ids.find_entry(hash, |other| *other == id) {
            entry.remove();
        }
        if let Some(taken) = self.taken.get_mut(&self.rows.key(id).cluster) {
            *taken -= 1;
        }
        self.rows.clear(id);
        self.free.push(id);
        Some(BackendEntry { state: STATE_FREE, epoch, ..BackendEntry::default() })
    }

    /// Counts a user of a restored id.
    pub(crate) fn restore_user(&mut self, id: u32, state: BackendState) {
        let row = self.rows.get_mut(id);
        row.users += 1;
        row.active_users += u32::from(state == BackendState::Active);
    }

    /// The ids that stand for a backend and that nobody uses: left over by a crash before their service was
    /// written. Each is marked as removed, so [`Self::release`] is owed for it after a grace period.
    pub(crate) fn orphans(&mut self) -> Vec<u32> {
        let mut orphans = Vec::new();
        for (id, row) in self.rows.iter_mut() {
            if !row.is_free() && row.users == 0 && row.pending == 0 {
                row.pending = 1;
                orphans.push(id);
            }
        }
        orphans
    }

    fn take_id(&mut self, key: BackendKey) -> Option<u32> {
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                let next = u32::try_from(self.rows.len()).ok().filter(|next| *next < self.capacity)?;
                self.rows.push();
                next
            }
        };
        self.rows.set(id, &key, self.rows.get(id).epoch.wrapping_add(1));
        self.index(id);
        Some(id)
    }

    fn index(&mut self, id: u32) {
        *self.taken.entry(self.rows.key(id).cluster).or_default() += 1;
        let hash = self.hasher.hash_one(self.rows.key(id));
        let Self { rows, ids, hasher, .. } = self;
        ids.insert_unique(hash, id, |other| hasher.hash_one(rows.key(*other)));
    }
}

/// The state that the maps are to hold: the worse of what services desire and what the maps say of the backend's health.
/// So no plan and no restart lifts a quarantine.
fn worse(desired: u32, held: u32) -> u32 {
    if held == STATE_QUARANTINED { held } else { desired }
}

fn as_index(id: u32) -> usize {
    usize::try_from(id).expect("u32 fits usize")
}
