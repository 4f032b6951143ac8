//! What is held of a certificate and its key, whatever becomes of their files.
#![allow(clippy::unwrap_used)]

use mesh_kv::Credentials;
use mesh_kv::testing::Ca;

#[test]
fn what_cannot_be_used_leaves_what_could_be() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), Ca::new("hoth"));
    let folder = dir.path().join("own");
    let credentials = Credentials::in_folder(&folder);
    assert!(credentials.read().unwrap_err().is_missing());
    assert!(credentials.expires().is_none());
    ca.issue("agent", &folder);
    assert!(credentials.read().unwrap());
    assert!(!credentials.read().unwrap(), "nothing is new");
    let held = credentials.expires();
    assert!(held.is_some());
    let key = std::fs::read(folder.join("tls.key")).unwrap();
    ca.issue("agent", &folder);
    // The new certificate beside the old key.
    let new_key = std::fs::read(folder.join("tls.key")).unwrap();
    std::fs::write(folder.join("tls.key"), key).unwrap();
    let error = credentials.read().unwrap_err();
    assert!(error.to_string().contains("can't be used together"), "{error}");
    assert_eq!(credentials.expires(), held);
    std::fs::write(folder.join("tls.key"), new_key).unwrap();
    assert!(credentials.read().unwrap(), "what is right again is new");
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(credentials.read().is_err());
    assert!(credentials.expires().is_some());
}
