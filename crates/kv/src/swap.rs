//! Single keys that several processes change: by compare-and-swap, so that of two that try at once one succeeds.

use std::time::Duration;

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};

use crate::entry::Entry;
use crate::fault::CallError;
use crate::session::Session;

impl Session {
    /// Creates a key that goes by itself after `lifetime`, counted in whole seconds. False where it is there already.
    pub async fn create_expiring(
        &self,
        action: &'static str,
        (key, value): (&str, Vec<u8>),
        lifetime: Duration,
    ) -> Result<bool, CallError> {
        let seconds = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
        let lease = self.call(action, self.lease().grant(seconds, None)).await?.id();
        let absent = Compare::create_revision(key, CompareOp::Equal, 0);
        let put = TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease)));
        Ok(self.commit(action, Txn::new().when([absent]).and_then([put])).await?.is_some())
    }

    /// Replaces a value that is still as it was read; the key's lease stays. False where it was changed meanwhile.
    pub async fn replace(
        &self,
        action: &'static str,
        read: &Entry,
        value: Vec<u8>,
    ) -> Result<bool, CallError> {
        let put = TxnOp::put(read.key.as_str(), value, Some(PutOptions::new().with_lease(read.lease)));
        Ok(self.commit(action, Txn::new().when([unchanged(read)]).and_then([put])).await?.is_some())
    }

    /// Removes a key that is still as it was read. False where it was changed meanwhile.
    pub async fn remove(&self, action: &'static str, read: &Entry) -> Result<bool, CallError> {
        let delete = TxnOp::delete(read.key.as_str(), None);
        Ok(self.commit(action, Txn::new().when([unchanged(read)]).and_then([delete])).await?.is_some())
    }
}

fn unchanged(read: &Entry) -> Compare {
    Compare::mod_revision(read.key.as_str(), CompareOp::Equal, read.mod_revision)
}
