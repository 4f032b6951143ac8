//! What the CLI reads: the agent's answers, its events, and the file of names for `bpf dump`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_abi::{ClusterStates, MAX_CLUSTERS};
use mesh_admin::api::{Backend, Event, List, Names, Peer, Service};
use node_agent::datapath::dump;
use node_agent::datapath::restore::Contents;
use serde_json::{from_slice, to_vec};

/// What was read is written and read back as the same.
macro_rules! again {
    ($data:expr, $($type:ty),+) => {$(
        if let Ok(read) = from_slice::<$type>($data) {
            let written = to_vec(&read).expect("it was JSON");
            assert_eq!(from_slice::<$type>(&written).expect("it is JSON"), read);
        }
    )+};
}

fuzz_target!(|data: &[u8]| {
    again!(data, List<Service>, List<Backend>, List<Peer>, List<String>, Event, Names);
    if let Ok(names) = from_slice::<Names>(data) {
        let states = Box::new(ClusterStates { state: [1; MAX_CLUSTERS] });
        assert_eq!(dump::lines(&Contents::default(), &states, &names).len(), MAX_CLUSTERS);
    }
});
