//! Keys with their values, as etcd holds them.

use etcd_client::KeyValue;

/// A key as it stands in etcd, with all that etcd keeps of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawEntry {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    /// The revision at which the key was created, since it was last deleted.
    pub create_revision: i64,
    /// The revision of its last change.
    pub mod_revision: i64,
    /// How often it was written since it was created, from 1.
    pub version: i64,
    /// 0 where none is attached.
    pub lease: i64,
}

impl From<KeyValue> for RawEntry {
    fn from(pair: KeyValue) -> Self {
        let (create_revision, mod_revision) = (pair.create_revision(), pair.mod_revision());
        let (version, lease) = (pair.version(), pair.lease());
        let (key, value) = pair.into_key_value();
        Self { key, value, create_revision, mod_revision, version, lease }
    }
}

/// A key with its value, as etcd holds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Bytes that are no text are replaced: such a key is none of ours, and is refused as such.
    pub key: String,
    pub value: Vec<u8>,
    pub mod_revision: i64,
    pub create_revision: i64,
    /// 0 where none is attached.
    pub lease: i64,
}

impl From<RawEntry> for Entry {
    fn from(raw: RawEntry) -> Self {
        let RawEntry { key, value, create_revision, mod_revision, lease, .. } = raw;
        Self { key: text_of(key), value, mod_revision, create_revision, lease }
    }
}

impl From<KeyValue> for Entry {
    fn from(pair: KeyValue) -> Self {
        RawEntry::from(pair).into()
    }
}

/// A key as text.
pub(crate) fn text_of(key: Vec<u8>) -> String {
    String::from_utf8(key).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
