//! What pinned maps may hold: whatever an earlier agent, or somebody else, wrote. They are read back after a restart and
//! shown by `bpf dump`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_abi::{
    BackendEntry, ClusterStates, Group, MAX_CLUSTERS, MAX_GROUPS, ServiceEntry, ServiceKey, SlotEntry, Stamp,
    mapped,
};
use mesh_admin::api::Names;
use node_agent::datapath::actual::Capacity;
use node_agent::datapath::dump;
use node_agent::datapath::plan::Retired;
use node_agent::datapath::restore::{Contents, restore};

const CAPACITY: Capacity = Capacity { services: 64, slots: 256, backends: 64, counters: 64 };

fuzz_target!(|data: &[u8]| {
    let contents = Bytes(data).contents();
    let states = Box::new(ClusterStates { state: [0; MAX_CLUSTERS] });
    dump::lines(&contents, &states, &Names::default());

    let restored = restore(&contents, CAPACITY);
    let (mut actual, leftover) = (restored.actual, restored.leftover);
    let (moved, _) = actual.moved_to(CAPACITY);
    assert!(moved.frontend_count() <= actual.frontend_count());
    // Whatever it was, it can be deleted, and then nothing is left of it.
    let all: Vec<_> = actual.frontends().map(|(frontend, _)| (*frontend, None)).collect();
    let mut plan = actual.plan(&all);
    let mut retired: Retired = actual.written(&mut plan);
    retired.append(leftover);
    actual.release(retired);
    assert_eq!(actual.frontend_count(), 0);
});

/// Reads numbers; zeros behind the end.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn u8(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes([self.u8(), self.u8(), self.u8(), self.u8()])
    }

    /// Usually small; any at times.
    fn size(&mut self) -> u32 {
        match self.u8() {
            255 => self.u32(),
            small => u32::from(small),
        }
    }

    fn contents(&mut self) -> Contents {
        let (services, slots, backends) = (self.u8() % 8, self.u8() % 128, self.u8() % 32);
        let mut services: Vec<_> = (0..services).map(|_| self.service()).collect();
        // A map has each key once.
        services.sort_by_key(|(key, _)| *key);
        services.dedup_by_key(|(key, _)| *key);
        let mut backends: Vec<_> =
            (0..backends).map(|_| (self.size() % CAPACITY.backends, self.backend())).collect();
        backends.sort_by_key(|(id, _)| *id);
        backends.dedup_by_key(|(id, _)| *id);
        backends.retain(|(_, backend)| backend.state != mesh_abi::STATE_FREE);
        let slots = (0..slots).map(|_| SlotEntry { backend: self.size(), service: self.size() }).collect();
        let tables = (0..self.u8() % 4).map(|_| self.size()).collect();
        Contents { services, slots, backends, tables }
    }

    fn address(&mut self) -> [u8; 16] {
        match self.u8() {
            255 => std::array::from_fn(|_| self.u8()),
            last => {
                let words = mapped(u32::from_ne_bytes([10, 96, 0, last]));
                let mut bytes = [0; 16];
                words
                    .iter()
                    .zip(bytes.chunks_mut(8))
                    .for_each(|(word, to)| to.copy_from_slice(&word.to_ne_bytes()));
                bytes
            }
        }
    }

    fn key(&mut self) -> ServiceKey {
        let protocol = [6, 17, 6, self.u8()][usize::from(self.u8() % 4)];
        ServiceKey { zero: 0, ..ServiceKey::new(self.address(), self.u16(), protocol) }
    }

    fn service(&mut self) -> (ServiceKey, ServiceEntry) {
        let key = self.key();
        let head = Stamp { id: self.size(), generation: self.u32() };
        let is_torn = self.u8() == 255;
        let groups = self.u8();
        let mut entry = ServiceEntry {
            head,
            key: if is_torn { self.key() } else { key },
            group_count: groups,
            flags: self.u8(),
            groups: [Group::default(); MAX_GROUPS],
            tail: if is_torn { Stamp::default() } else { head },
        };
        for group in entry.groups.iter_mut().take(usize::from(groups)) {
            *group = Group {
                cluster: self.u16(),
                tier: self.u8(),
                zero: 0,
                weight: self.u32(),
                first: self.size(),
                count: self.size(),
                counter: self.size(),
            };
        }
        (key, entry)
    }

    fn backend(&mut self) -> BackendEntry {
        BackendEntry {
            address: self.address(),
            port: self.u16().to_be_bytes(),
            cluster: self.u16(),
            protocol: self.u8(),
            state: self.size(),
            epoch: self.u32(),
            ..BackendEntry::default()
        }
    }
}
