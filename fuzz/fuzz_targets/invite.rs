//! Tokens and records of invites: whatever is read says the same when it is written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_admin::cluster::JoinRequest;
use mesh_membership::invite::{InviteId, InviteRecord, Token};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(token) = text.parse::<Token>()
    {
        assert_eq!(token.encode().parse(), Ok(token));
    }
    if let Ok(record) = InviteRecord::decode(InviteId::new([0; 8]), bytes) {
        assert_eq!(InviteRecord::decode(InviteId::new([0; 8]), &record.encode()).expect("written"), record);
    }
    if let Ok(request) = serde_json::from_slice::<JoinRequest>(bytes) {
        let text = serde_json::to_vec(&request).expect("plain data");
        assert_eq!(serde_json::from_slice::<JoinRequest>(&text).expect("written"), request);
    }
});
