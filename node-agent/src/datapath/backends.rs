//! Backend ids: which id stands for which backend, who uses it, and when it may be given away again.
//!
//! Services share a backend's entry. An id is given away only when nobody uses it *and* a grace period has
//! passed since the last user went, so a program in the middle of a lookup never finds another backend there.

use std::hash::{BuildHasher, Hash, Hasher};

use hashbrown::{DefaultHashBuilder, HashTable};
use mesh_abi::{BackendEntry, STATE_ACTIVE, STATE_FREE, STATE_TERMINATING};
use mesh_model::desired::BackendState;

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

/// One id. 36 bytes, so a backend costs 36 bytes here, 6 in the index, and 4 in each group that holds it.
#[derive(Clone, Copy, Debug)]
struct Row {
    /// The key's parts, for a key of its own would end in padding.
    address: [u8; 16],
    port: u16,
    cluster: u16,
    protocol: u8,
    /// The state that the maps hold, `STATE_FREE` for an id that stands for nothing.
    written: u8,
    /// Removals that still wait for their grace period.
    pending: u16,
    epoch: u32,
    /// Groups that hold the backend.
    users: u32,
    /// Of these, those that call it active.
    active_users: u32,
}

const FREE_ROW: Row = Row {
    address: [0; 16],
    port: 0,
    cluster: 0,
    protocol: 0,
    written: 0,
    pending: 0,
    epoch: 0,
    users: 0,
    active_users: 0,
};

impl Row {
    fn of(key: BackendKey) -> Self {
        let BackendKey { address, port, cluster, protocol } = key;
        Self { address, port, cluster, protocol, ..FREE_ROW }
    }

    fn key(&self) -> BackendKey {
        let Self { address, port, cluster, protocol, .. } = *self;
        BackendKey { address, port, cluster, protocol }
    }
}

/// All backend ids of one instance. Id 0 is never used.
#[derive(Debug)]
pub(crate) struct Backends {
    rows: Vec<Row>,
    ids: HashTable<u32>,
    hasher: DefaultHashBuilder,
    free: Vec<u32>,
    capacity: u32,
}

impl Backends {
    /// Room for ids 1 to `capacity - 1`.
    pub(crate) fn new(capacity: u32) -> Self {
        Self {
            rows: vec![FREE_ROW],
            ids: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            free: Vec::new(),
            capacity,
        }
    }

    /// Takes over what the maps hold: pairs of id and entry that is not free.
    pub(crate) fn restored(capacity: u32, entries: &[(u32, BackendEntry)]) -> Self {
        let mut backends = Self::new(capacity);
        let ids = entries.iter().map(|(id, _)| *id).max().unwrap_or(0);
        backends.rows = vec![FREE_ROW; as_index(ids) + 1];
        for (id, entry) in entries {
            let written = u8::try_from(entry.state).unwrap_or(u8::MAX);
            let row = Row { epoch: entry.epoch, written, ..Row::of(BackendKey::of(entry)) };
            *backends.row_mut(*id) = row;
            backends.index(*id);
        }
        let unused = |id: &u32| backends.rows[as_index(*id)].written == FREE_ROW.written;
        backends.free = (1..=ids).rev().filter(unused).collect();
        backends
    }

    /// Number of backends that somebody uses or that wait for their grace period.
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// How many more ids can be taken.
    pub(crate) fn room(&self) -> usize {
        self.free.len() + as_index(self.capacity).saturating_sub(self.rows.len())
    }

    pub(crate) fn key(&self, id: u32) -> BackendKey {
        self.row(id).key()
    }

    /// The state that the maps hold for the id.
    pub(crate) fn state(&self, id: u32) -> u32 {
        u32::from(self.row(id).written)
    }

    pub(crate) fn find(&self, key: &BackendKey) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        self.ids.find(hash, |id| self.row(*id).key() == *key).copied()
    }

    /// One more group holds the backend. None where there is no room for another id.
    pub(crate) fn add_user(&mut self, key: BackendKey, state: BackendState) -> Option<u32> {
        let id = match self.find(&key) {
            Some(id) => id,
            None => self.take_id(key)?,
        };
        let row = self.row_mut(id);
        row.users += 1;
        row.active_users += u32::from(state == BackendState::Active);
        Some(id)
    }

    /// The group still holds the backend, and calls it something else than before.
    pub(crate) fn change_user(&mut self, id: u32, before: BackendState, after: BackendState) {
        let row = self.row_mut(id);
        row.active_users -= u32::from(before == BackendState::Active);
        row.active_users += u32::from(after == BackendState::Active);
    }

    /// The group no longer holds the backend. True where it was the last one: [`Self::release`] is owed after
    /// a grace period.
    pub(crate) fn remove_user(&mut self, id: u32, state: BackendState) -> bool {
        let row = self.row_mut(id);
        row.users -= 1;
        row.active_users -= u32::from(state == BackendState::Active);
        if row.users == 0 {
            row.pending += 1;
        }
        row.users == 0
    }

    /// The entry to write if the maps hold another one; remembers it as written.
    pub(crate) fn write(&mut self, id: u32) -> Option<BackendEntry> {
        let row = self.row_mut(id);
        let state = if row.active_users > 0 { STATE_ACTIVE } else { STATE_TERMINATING };
        let state_byte = u8::try_from(state).expect("states are below 256");
        if row.users == 0 || row.written == state_byte {
            return None;
        }
        row.written = state_byte;
        Some(BackendEntry {
            address: row.address,
            port: row.port.to_be_bytes(),
            cluster: row.cluster,
            protocol: row.protocol,
            zero: [0; 3],
            state,
            epoch: row.epoch,
        })
    }

    /// A grace period has passed since the removal. Frees the id unless somebody uses it again or a later
    /// removal still waits, and gives the entry that says so.
    pub(crate) fn release(&mut self, id: u32) -> Option<BackendEntry> {
        let row = self.row_mut(id);
        row.pending -= 1;
        if row.users > 0 || row.pending > 0 {
            return None;
        }
        let (key, epoch) = (row.key(), row.epoch);
        *row = Row { epoch, ..FREE_ROW };
        let hash = self.hasher.hash_one(key);
        if let Ok(entry) = self.ids.find_entry(hash, |other| *other == id) {
            entry.remove();
        }
        self.free.push(id);
        Some(BackendEntry { state: STATE_FREE, epoch, ..BackendEntry::default() })
    }

    /// Counts a user of a restored id.
    pub(crate) fn restore_user(&mut self, id: u32, state: BackendState) {
        let row = self.row_mut(id);
        row.users += 1;
        row.active_users += u32::from(state == BackendState::Active);
    }

    /// The ids that stand for a backend and that nobody uses: left over by a crash before their service was
    /// written. Each is marked as removed, so [`Self::release`] is owed for it after a grace period.
    pub(crate) fn orphans(&mut self) -> Vec<u32> {
        let mut orphans = Vec::new();
        for (id, row) in self.rows.iter_mut().enumerate() {
            if row.written != FREE_ROW.written && row.users == 0 && row.pending == 0 {
                row.pending = 1;
                orphans.push(u32::try_from(id).expect("ids are u32"));
            }
        }
        orphans
    }

    fn take_id(&mut self, key: BackendKey) -> Option<u32> {
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                let next = u32::try_from(self.rows.len()).ok().filter(|next| *next < self.capacity)?;
                self.rows.push(FREE_ROW);
                next
            }
        };
        let row = self.row_mut(id);
        *row = Row { epoch: row.epoch.wrapping_add(1), ..Row::of(key) };
        self.index(id);
        Some(id)
    }

    fn index(&mut self, id: u32) {
        let hash = self.hasher.hash_one(self.row(id).key());
        let Self { rows, ids, hasher, .. } = self;
        ids.insert_unique(hash, id, |other| hasher.hash_one(rows[as_index(*other)].key()));
    }

    fn row(&self, id: u32) -> &Row {
        &self.rows[as_index(id)]
    }

    fn row_mut(&mut self, id: u32) -> &mut Row {
        &mut self.rows[as_index(id)]
    }
}

fn as_index(id: u32) -> usize {
    usize::try_from(id).expect("u32 fits usize")
}
