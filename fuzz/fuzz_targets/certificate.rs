//! What says whose certificates count, and the certificates that are shown: PEM bundles with lists of revoked ones, and DER.

#![no_main]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use mesh_trust::{Bundle, Certificate, Side, Trust};
use rustls_pki_types::{CertificateDer, UnixTime};

fuzz_target!(|data: &[u8]| {
    let shown = CertificateDer::from(data);
    let _ = Certificate::read(&shown);
    let text = String::from_utf8_lossy(data);
    match Bundle::from_pem(&text) {
        Ok(bundle) => {
            let name = "empire".parse().expect("a name");
            let trust = Trust::new(BTreeMap::from([(name, Arc::new(bundle))]));
            let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
            let _ = trust.admit(&shown, &[], Side::Client, now);
        }
        Err(error) => assert!(error.to_string().len() < 4000),
    }
});
