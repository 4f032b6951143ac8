//! The rows of the mirror's backends, by id, in as few bytes as will do: most backends have an IPv4 address.
//!
//! The one place where a desired backend becomes an entry of the maps, an entry a row, and either of them the other again.

use mesh_abi::{BackendEntry, STATE_FREE};
use mesh_model::address::Address;
use mesh_model::desired::{BackendState, DesiredBackend};
use mesh_model::name::ClusterId;

/// In [`Row::written`]: the address stands in the list of long ones.
const LONG: u8 = 1 << 7;

/// One id. 24 bytes, so an IPv4 backend costs 24 bytes here, 6 in the index, and 4 in each group that holds it; an IPv6
/// one costs 16 more.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Row {
    /// An IPv4 address, else the index of the address in the list of long ones.
    address: [u8; 4],
    port: u16,
    pub(super) cluster: u16,
    protocol: u8,
    /// The state that the maps hold, `STATE_FREE` for an id that stands for nothing; and [`LONG`].
    written: u8,
    /// Removals that still wait for their grace period.
    pub(super) pending: u16,
    pub(super) epoch: u32,
    /// Groups that hold the backend.
    pub(super) users: u32,
    /// Of these, those that call it active.
    pub(super) active_users: u32,
}

const _: () = assert!(size_of::<Row>() == 24);

impl Row {
    /// The state that the maps hold.
    pub(super) fn state(&self) -> u32 {
        u32::from(self.written & !LONG)
    }

    /// States of nobody's are all the same: whoever wrote the maps may have used any number.
    pub(super) fn set_state(&mut self, state: u32) {
        let state = u8::try_from(state).unwrap_or(u8::MAX).min(!LONG);
        self.written = self.written & LONG | state;
    }

    pub(super) fn is_free(&self) -> bool {
        self.state() == STATE_FREE
    }

    fn is_long(&self) -> bool {
        self.written & LONG != 0
    }
}

/// Rows by id. Id 0 is never used.
#[derive(Debug)]
pub(super) struct Rows {
    rows: Vec<Row>,
    long: Vec<Address>,
    /// Places in `long` that nobody uses.
    free: Vec<u32>,
}

impl Rows {
    /// Rows up to the given id, all free.
    pub(super) fn up_to(id: u32) -> Self {
        Self { rows: vec![Row::default(); as_index(id) + 1], long: Vec::new(), free: Vec::new() }
    }

    /// Number of rows, that of id 0 among them.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn push(&mut self) {
        self.rows.push(Row::default());
    }

    pub(super) fn get(&self, id: u32) -> &Row {
        &self.rows[as_index(id)]
    }

    pub(super) fn get_mut(&mut self, id: u32) -> &mut Row {
        &mut self.rows[as_index(id)]
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Row)> {
        let ids = 0..u32::try_from(self.rows.len()).expect("ids are u32");
        ids.zip(&mut self.rows)
    }

    /// What the id stands for.
    pub(super) fn identity(&self, id: u32) -> Identity {
        identity(&self.entry(id, STATE_FREE))
    }

    /// The id stands for this from now on, with the entry's epoch, and nobody uses it yet. The maps don't hold it.
    pub(super) fn set(&mut self, id: u32, entry: &BackendEntry) {
        let BackendEntry { address, port, cluster, protocol, epoch, .. } = *entry;
        let address = Address::from(address);
        let (address, written) = match address.v4_octets() {
            Some(v4) => (v4, 0),
            None => (self.keep(address).to_ne_bytes(), LONG),
        };
        let port = u16::from_be_bytes(port);
        *self.get_mut(id) = Row { address, port, cluster, protocol, written, epoch, ..Row::default() };
    }

    /// The id stands for nothing any more; only its epoch stays.
    pub(super) fn clear(&mut self, id: u32) {
        let Row { address, epoch, .. } = *self.get(id);
        if self.get(id).is_long() {
            self.free.push(u32::from_ne_bytes(address));
        }
        *self.get_mut(id) = Row { epoch, ..Row::default() };
    }

    /// The entry to write for the id in this state.
    pub(super) fn entry(&self, id: u32, state: u32) -> BackendEntry {
        let Row { port, cluster, protocol, epoch, .. } = *self.get(id);
        let (address, port) = (self.address(id).octets(), port.to_be_bytes());
        BackendEntry { address, port, cluster, protocol, zero: [0; 3], state, epoch }
    }

    /// The backend as a group wants it that calls it this.
    pub(super) fn desired(&self, id: u32, state: BackendState) -> DesiredBackend {
        DesiredBackend::new(self.address(id), self.get(id).port, state)
    }

    fn address(&self, id: u32) -> Address {
        let row = self.get(id);
        if row.is_long() { self.long[as_index(u32::from_ne_bytes(row.address))] } else { row.address.into() }
    }

    fn keep(&mut self, address: Address) -> u32 {
        if let Some(place) = self.free.pop() {
            self.long[as_index(place)] = address;
            return place;
        }
        self.long.push(address);
        u32::try_from(self.long.len() - 1).expect("there are no more addresses than ids")
    }
}

/// What a backend is known by, in two words: planning a large service hashes each of its backends.
pub(super) type Identity = (u128, u64);

pub(super) fn identity(entry: &BackendEntry) -> Identity {
    let BackendEntry { address, port, cluster, protocol, .. } = *entry;
    let rest = u64::from(u16::from_ne_bytes(port)) | u64::from(cluster) << 16 | u64::from(protocol) << 32;
    (u128::from_ne_bytes(address), rest)
}

/// The entry of a cluster's backend, but for its state and its epoch.
pub(super) fn entry_of(cluster: ClusterId, protocol: u8, backend: &DesiredBackend) -> BackendEntry {
    let &DesiredBackend { address, port, state: _ } = backend;
    let (address, port) = (address.octets(), port.to_be_bytes());
    BackendEntry { address, port, cluster: cluster.value(), protocol, ..BackendEntry::default() }
}

/// Where the backend listens.
pub(crate) fn place(entry: &BackendEntry) -> (Address, u16) {
    (entry.address.into(), u16::from_be_bytes(entry.port))
}

fn as_index(id: u32) -> usize {
    usize::try_from(id).expect("u32 fits usize")
}

#[cfg(test)]
mod tests {
    use mesh_abi::STATE_ACTIVE;

    use super::*;

    fn entry(address: impl Into<Address>) -> BackendEntry {
        let backend = DesiredBackend::new(address, 8080, BackendState::Active);
        let entry = entry_of(ClusterId::new(4095).unwrap(), 17, &backend);
        BackendEntry { state: STATE_ACTIVE, epoch: 7, ..entry }
    }

    #[test]
    fn both_families_come_out_as_they_went_in_and_long_addresses_make_room() {
        let [v4, v6, other] =
            ["10.0.0.1", "fd00::1", "fd00::2"].map(|text| entry(text.parse::<Address>().unwrap()));
        let mut rows = Rows::up_to(3);
        for (id, entry) in [(1, &v4), (2, &v6), (3, &other)] {
            rows.set(id, entry);
            rows.get_mut(id).set_state(STATE_ACTIVE);
            assert_eq!((rows.entry(id, rows.get(id).state()), rows.identity(id)), (*entry, identity(entry)));
            let desired = rows.desired(id, BackendState::Active);
            assert_eq!((desired.address, desired.port), place(entry));
        }
        rows.clear(2);
        assert!(rows.get(2).is_free() && rows.get(2).epoch == 7);
        rows.set(2, &BackendEntry { epoch: 8, ..v6 });
        assert_eq!(
            (rows.identity(2), rows.identity(3), rows.long.len()),
            (identity(&v6), identity(&other), 2)
        );
    }

    #[test]
    fn a_state_that_is_none_changes_no_address() {
        let entry = entry([0xfd; 16]);
        let mut rows = Rows::up_to(1);
        rows.set(1, &entry);
        rows.get_mut(1).set_state(u32::MAX);
        assert_eq!(rows.identity(1), identity(&entry));
        assert!(!rows.get(1).is_free());
    }

    #[test]
    fn backends_are_told_apart_by_address_port_cluster_and_protocol() {
        let one = entry([10, 0, 0, 1]);
        let others = [
            entry([10, 0, 0, 2]),
            entry([0xfd; 16]),
            BackendEntry { port: [1, 2], ..one },
            BackendEntry { cluster: 1, ..one },
            BackendEntry { protocol: 6, ..one },
        ];
        assert!(others.iter().all(|other| identity(other) != identity(&one)));
        assert_eq!(identity(&BackendEntry { state: 0, epoch: 1, ..one }), identity(&one));
    }
}
