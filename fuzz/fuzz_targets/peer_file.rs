//! Peer files: YAML or JSON that an administrator, or a Secret, puts there.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_peers::PeerFile;

fuzz_target!(|text: &str| {
    let name = "empire".parse().expect("a name");
    match PeerFile::parse(&name, "empire.yaml", text) {
        // What was read is written and read back as the same.
        Ok(file) => assert_eq!(PeerFile::parse(&name, "empire.yaml", &file.text()), Ok(file)),
        Err(error) => {
            let text = error.to_string();
            assert!(text.len() < 4000 && !text.contains('\n'), "{text}");
        }
    }
});
