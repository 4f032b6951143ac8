//! What clients send to the mesh API.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| clustermesh_apiserver::answer_bytes(data));
