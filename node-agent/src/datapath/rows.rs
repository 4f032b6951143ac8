//! The rows of the mirror's backends, by id, in as few bytes as will do: most backends have an IPv4 address.

use mesh_abi::{BackendEntry, STATE_FREE};
use mesh_model::address::Address;

use super::backends::BackendKey;

/// In [`Row::written`]: the address stands in the list of long ones.
const LONG: u8 = 1 << 7;

/// One id. 24 bytes, so an IPv4 backend costs 24 bytes here, 6 in the index, and 4 in each group that holds it; an IPv6
/// one costs 16 more.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Row {
    /// An IPv4 address, else the index of the address in the list of long ones.
    address: [u8; 4],
    port: u16,
    cluster: u16,
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
    long: Vec<[u8; 16]>,
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
    pub(super) fn key(&self, id: u32) -> BackendKey {
        let row = self.get(id);
        let address = if row.is_long() {
            self.long[as_index(u32::from_ne_bytes(row.address))]
        } else {
            Address::v4(row.address).octets()
        };
        BackendKey { address, port: row.port, cluster: row.cluster, protocol: row.protocol }
    }

    /// The id stands for this from now on, and nobody uses it yet.
    pub(super) fn set(&mut self, id: u32, key: &BackendKey, epoch: u32) {
        let BackendKey { address, port, cluster, protocol } = *key;
        let (address, written) = match Address::from(address).v4_octets() {
            Some(v4) => (v4, 0),
            None => (self.keep(address).to_ne_bytes(), LONG),
        };
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
        let BackendKey { address, port, cluster, protocol } = self.key(id);
        let (port, epoch) = (port.to_be_bytes(), self.get(id).epoch);
        BackendEntry { address, port, cluster, protocol, zero: [0; 3], state, epoch }
    }

    fn keep(&mut self, address: [u8; 16]) -> u32 {
        if let Some(place) = self.free.pop() {
            self.long[as_index(place)] = address;
            return place;
        }
        self.long.push(address);
        u32::try_from(self.long.len() - 1).expect("there are no more addresses than ids")
    }
}

fn as_index(id: u32) -> usize {
    usize::try_from(id).expect("u32 fits usize")
}

#[cfg(test)]
mod tests {
    use mesh_abi::STATE_ACTIVE;

    use super::*;

    #[test]
    fn both_families_come_out_as_they_went_in_and_long_addresses_make_room() {
        let key = |address: &str| BackendKey {
            address: address.parse::<Address>().unwrap().octets(),
            port: 8080,
            cluster: 4095,
            protocol: 17,
        };
        let (v4, v6, other) = (key("10.0.0.1"), key("fd00::1"), key("fd00::2"));
        let mut rows = Rows::up_to(3);
        for (id, key) in [(1, &v4), (2, &v6), (3, &other)] {
            rows.set(id, key, 7);
            rows.get_mut(id).set_state(STATE_ACTIVE);
            assert_eq!((rows.key(id), rows.get(id).state()), (*key, STATE_ACTIVE));
        }
        rows.clear(2);
        assert!(rows.get(2).is_free() && rows.get(2).epoch == 7);
        rows.set(2, &v6, 8);
        assert_eq!((rows.key(2), rows.key(3), rows.long.len()), (v6, other, 2));
    }

    #[test]
    fn a_state_that_is_none_changes_no_address() {
        let key = BackendKey { address: [0xfd; 16], port: 1, cluster: 2, protocol: 6 };
        let mut rows = Rows::up_to(1);
        rows.set(1, &key, 1);
        rows.get_mut(1).set_state(u32::MAX);
        assert_eq!(rows.key(1), key);
        assert!(!rows.get(1).is_free());
    }
}
