//! Many records at once.

use etcd_client::{Client, Txn, TxnOp};

use super::Etcd;

/// Puts of one transaction, and about how many bytes.
const PUTS: usize = 100;
const BYTES: usize = 1 << 20;

impl Etcd {
    /// Writes entries, many in one transaction.
    pub async fn fill(&self, entries: impl IntoIterator<Item = (String, String)>) {
        Self::fill_at(&self.endpoint().to_string(), entries).await;
    }

    /// The same where only the endpoint is at hand.
    pub async fn fill_at(endpoint: &str, entries: impl IntoIterator<Item = (String, String)>) {
        let mut client = Client::connect([endpoint], None).await.unwrap();
        let (mut puts, mut bytes) = (Vec::new(), 0);
        for (key, value) in entries {
            bytes += key.len() + value.len();
            puts.push(TxnOp::put(key, value, None));
            if puts.len() == PUTS || bytes > BYTES / 2 {
                client.txn(Txn::new().and_then(std::mem::take(&mut puts))).await.unwrap();
                bytes = 0;
            }
        }
        client.txn(Txn::new().and_then(puts)).await.unwrap();
    }
}
