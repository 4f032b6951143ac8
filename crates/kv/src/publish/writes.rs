//! Writes, packed into transactions that etcd takes. Pure.

use etcd_client::TxnOp;
use mesh_model::export::ServiceOps;
use mesh_model::record::{Entry as Record, MAX_VALUE_BYTES};

/// Of a transaction; etcd takes 128 by default.
pub(crate) const MAX_OPERATIONS: usize = 100;
/// Of a transaction's keys and values; etcd takes 1.5 MiB of everything by default.
pub const MAX_BYTES: usize = 1_000_000;
/// Framing of one operation, generously.
const OPERATION_BYTES: usize = 32;

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    Put(Record),
    Delete(String),
}

impl Write {
    fn bytes(&self) -> usize {
        OPERATION_BYTES
            + match self {
                Self::Put((key, value)) => key.len() + value.len(),
                Self::Delete(key) => key.len(),
            }
    }

    pub fn key(&self) -> &str {
        let (Self::Put((key, _)) | Self::Delete(key)) = self;
        key
    }

    pub(super) fn operation(&self) -> TxnOp {
        match self {
            Self::Put((key, value)) => TxnOp::put(key.as_str(), value.as_slice(), None),
            Self::Delete(key) => TxnOp::delete(key.as_str(), None),
        }
    }

    /// Whether peers would take it.
    pub(super) fn is_acceptable(&self) -> bool {
        match self {
            Self::Put((_, value)) => value.len() <= MAX_VALUE_BYTES,
            Self::Delete(_) => true,
        }
    }
}

/// A write that fits into no transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oversized {
    pub key: String,
    /// Of key and value.
    pub bytes: usize,
    /// What was to be written.
    pub value: Vec<u8>,
}

impl Oversized {
    pub(super) fn of(write: &Write) -> Self {
        let value = match write {
            Write::Put((_, value)) => value.clone(),
            Write::Delete(_) => Vec::new(),
        };
        Self { key: write.key().to_owned(), bytes: write.bytes() - OPERATION_BYTES, value }
    }
}

/// Packs operations into transactions. Those of one subject stay together where they fit into one transaction;
/// where they don't, puts go before deletes.
pub fn transactions(all: Vec<ServiceOps>) -> Vec<Vec<Write>> {
    let mut packed = Packer::default();
    for ops in all {
        let puts = ops.puts.into_iter().map(Write::Put);
        let writes: Vec<Write> = puts.chain(ops.deletes.into_iter().map(Write::Delete)).collect();
        let bytes = writes.iter().map(Write::bytes).sum();
        if !packed.has_room(writes.len(), bytes) {
            packed.close();
        }
        for write in writes {
            packed.push(write);
        }
    }
    packed.close();
    packed.closed
}

#[derive(Default)]
struct Packer {
    closed: Vec<Vec<Write>>,
    open: Vec<Write>,
    open_bytes: usize,
}

impl Packer {
    fn has_room(&self, operations: usize, bytes: usize) -> bool {
        self.open.len() + operations <= MAX_OPERATIONS && self.open_bytes + bytes <= MAX_BYTES
    }

    fn push(&mut self, write: Write) {
        let bytes = write.bytes();
        if !self.has_room(1, bytes) {
            self.close();
        }
        self.open.push(write);
        self.open_bytes += bytes;
    }

    fn close(&mut self) {
        self.open_bytes = 0;
        if !self.open.is_empty() {
            self.closed.push(std::mem::take(&mut self.open));
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_model::export::Subject;

    use super::*;

    fn ops(subject: &str, puts: usize, put_bytes: usize, deletes: usize) -> ServiceOps {
        ServiceOps {
            subject: Subject::Unknown(subject.into()),
            puts: (0..puts).map(|index| (format!("{subject}/{index}"), vec![0; put_bytes])).collect(),
            deletes: (0..deletes).map(|index| format!("{subject}/old/{index}")).collect(),
        }
    }

    fn sizes(transactions: &[Vec<Write>]) -> Vec<usize> {
        transactions.iter().map(Vec::len).collect()
    }

    #[test]
    fn small_subjects_share_a_transaction_and_stay_whole() {
        let packed = transactions(vec![ops("a", 40, 1, 0), ops("b", 40, 1, 10), ops("c", 20, 1, 0)]);
        assert_eq!(sizes(&packed), [90, 20]);
        assert!(transactions(Vec::new()).is_empty());
    }

    #[test]
    fn a_large_subject_is_split_with_puts_before_deletes() {
        let packed = transactions(vec![ops("a", 1, 1, 0), ops("b", 150, 1, 60), ops("c", 1, 1, 0)]);
        assert_eq!(sizes(&packed), [1, 100, 100, 11]);
        let writes: Vec<&Write> = packed.iter().flatten().collect();
        let last_put =
            writes.iter().rposition(|write| matches!(write, Write::Put((key, _)) if key.starts_with('b')));
        let first_delete = writes.iter().position(|write| matches!(write, Write::Delete(_)));
        assert!(last_put < first_delete);
    }

    #[test]
    fn bytes_of_keys_and_values_are_bounded() {
        let packed = transactions(vec![ops("a", 100, 20_000, 0)]);
        assert_eq!(packed.len(), 3);
        for writes in &packed {
            assert!(writes.iter().map(Write::bytes).sum::<usize>() <= MAX_BYTES);
        }
        // One that fits into no transaction goes alone; etcd has the last word on it.
        assert_eq!(sizes(&transactions(vec![ops("a", 1, 1, 0), ops("b", 1, 1_200_000, 0)])), [1, 1]);
    }
}
