//! Peer files: YAML or JSON that an administrator, or a Secret, puts there.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_kv::PeerFile;

fuzz_target!(|text: &str| {
    let name = "empire".parse().expect("a name");
    if let Err(error) = PeerFile::parse(&name, "empire.yaml", text) {
        let text = error.to_string();
        assert!(text.len() < 4000 && !text.contains('\n'), "{text}");
    }
});
