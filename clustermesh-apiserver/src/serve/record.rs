//! A record as it is kept and sent: encoded once, when it comes from etcd, as the event of its last change.
//!
//! The encoded event holds the encoded record, and that holds key and value: all of them are slices of one allocation,
//! which the cache, its log and every answer share.

use bytes::{BufMut, Bytes, BytesMut};
use mesh_kv::RawEntry;
use mesh_model::audience::Audience;
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};

use super::wire::KeyValue;

/// Tag and wire type of the fields of etcd's `Event`: `type` (a varint), `kv` and `prev_kv` (messages).
const TYPE: u8 = 1 << 3;
const KV: u8 = 2 << 3 | 2;
const PREV_KV: u8 = 3 << 3 | 2;
/// The type of a deletion; a put's is 0, which is not written.
const DELETE: u8 = 1;

/// One key with its value.
#[derive(Debug)]
pub(crate) struct Stored {
    event: Bytes,
    /// Where the record begins within its event.
    record_at: usize,
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    pub(crate) create_revision: i64,
    pub(crate) mod_revision: i64,
    pub(crate) version: i64,
    pub(crate) lease: i64,
    pub(crate) audience: Audience,
}

impl Stored {
    pub(crate) fn new(raw: RawEntry, audience: Audience) -> Self {
        let RawEntry { key, value, create_revision, mod_revision, version, lease } = raw;
        let (key_len, value_len) = (key.len(), value.len());
        let pair =
            KeyValue { key: key.into(), value: value.into(), create_revision, mod_revision, version, lease };
        let event = event_of(&[], &pair);
        let record_at = event.len() - pair.encoded_len();
        // The key is the record's first field, the value its last but the lease.
        let key_at = record_at + 1 + encoded_len_varint(key_len as u64);
        let lease_len = if lease == 0 { 0 } else { 1 + encoded_len_varint(lease.cast_unsigned()) };
        let value_end = event.len() - lease_len;
        let (key, value) = match key_len {
            0 => (Bytes::new(), event.slice(value_end - value_len..value_end)),
            _ => (event.slice(key_at..key_at + key_len), event.slice(value_end - value_len..value_end)),
        };
        Self { event, record_at, key, value, create_revision, mod_revision, version, lease, audience }
    }

    /// The record, encoded.
    pub(crate) fn record(&self) -> Bytes {
        self.event.slice(self.record_at..)
    }

    /// The record without its value, encoded.
    pub(crate) fn record_without_value(&self) -> Bytes {
        let pair = KeyValue {
            key: self.key.clone(),
            value: Bytes::new(),
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            version: self.version,
            lease: self.lease,
        };
        pair.encode_to_vec().into()
    }

    /// The event of its last change, encoded.
    pub(crate) fn event(&self) -> Bytes {
        self.event.clone()
    }

    /// Bytes that it takes, about.
    pub(crate) fn size(&self) -> usize {
        self.event.len() + size_of::<Self>()
    }
}

/// The event of a key's deletion, encoded.
pub(crate) fn deletion(key: &[u8], revision: i64) -> Bytes {
    let pair = KeyValue { key: Bytes::copy_from_slice(key), mod_revision: revision, ..KeyValue::default() };
    event_of(&[TYPE, DELETE], &pair)
}

fn event_of(start: &[u8], pair: &KeyValue) -> Bytes {
    let len = pair.encoded_len();
    let mut event = BytesMut::with_capacity(start.len() + 1 + encoded_len_varint(len as u64) + len);
    event.put_slice(start);
    event.put_u8(KV);
    encode_varint(len as u64, &mut event);
    pair.encode(&mut event).expect("the buffer grows");
    event.freeze()
}

/// An encoded event together with what stood there before.
pub(crate) fn with_previous(event: &Bytes, previous: &Stored) -> Bytes {
    let record = previous.record();
    let mut both = BytesMut::with_capacity(event.len() + record.len() + 1 + 10);
    both.put_slice(event);
    both.put_u8(PREV_KV);
    encode_varint(record.len() as u64, &mut both);
    both.put_slice(&record);
    both.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn key_value_and_record_are_slices_of_the_event(
            key in proptest::collection::vec(any::<u8>(), 0..200),
            value in proptest::collection::vec(any::<u8>(), 0..300),
            numbers in any::<[u32; 3]>(),
            lease in any::<i64>(),
        ) {
            let [create_revision, mod_revision, version] = numbers.map(i64::from);
            let raw = RawEntry { key: key.clone(), value: value.clone(), create_revision, mod_revision, version, lease };
            let stored = Stored::new(raw, Audience::Everybody);
            prop_assert_eq!(&stored.key[..], &key[..]);
            prop_assert_eq!(&stored.value[..], &value[..]);
            let pair = KeyValue::decode(stored.record()).unwrap();
            let whole = KeyValue { key: key.into(), value: value.into(), create_revision, mod_revision, version, lease };
            prop_assert_eq!(&pair, &whole);
            let bare = KeyValue::decode(stored.record_without_value()).unwrap();
            prop_assert_eq!(bare, KeyValue { value: Bytes::new(), ..whole });
        }
    }
}
