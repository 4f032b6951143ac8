//! Files of a manifest folder: Services, EndpointSlices and Nodes, as YAML and as JSON.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    for json in [false, true] {
        for line in mesh_source::manifests::describe(text, json) {
            assert!(line.len() < 100_000, "{line}");
        }
    }
});
