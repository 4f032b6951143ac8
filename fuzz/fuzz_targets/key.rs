//! Keys of a peer's etcd.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_model::record::RecordKey;

fuzz_target!(|text: &str| {
    if let Ok(key) = text.parse::<RecordKey>() {
        assert_eq!(key.to_string(), text);
    }
});
