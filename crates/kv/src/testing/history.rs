//! What happened in an etcd, change by change.
#![allow(clippy::unwrap_used, clippy::panic, clippy::missing_panics_doc)]

use std::sync::Arc;

use crate::dial::Dialer;
use crate::entry::text_of;
use crate::session::Session;

use super::Etcd;

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    pub revision: i64,
    pub key: String,
    /// None where it was deleted.
    pub value: Option<Vec<u8>>,
}

impl Past {
    /// The value as text.
    pub fn text(&self) -> String {
        text_of(self.value.clone().unwrap_or_default())
    }
}

impl Etcd {
    /// The revision of the last change.
    pub async fn revision(&self) -> i64 {
        let session = self.session().await;
        session.read("asking for the revision", "history/end").await.unwrap().0
    }

    /// All changes from a revision on until now, of all keys.
    pub async fn history(&self, from: i64) -> Vec<Past> {
        let session = self.session().await;
        // So that there is something to wait for.
        self.ctl(&["put", "history/end", ""]);
        let end = self.revision().await;
        let mut stream = session.watch_all(from - 1).await.unwrap();
        let mut past = Vec::new();
        loop {
            let response = stream.message().await.unwrap().expect("etcd ended the watch");
            assert!(!response.canceled(), "{response:?}");
            for pair in response.events().iter().filter_map(|event| event.kv()) {
                let (revision, key) = (pair.mod_revision(), text_of(pair.key().to_vec()));
                // A deletion resets a key's version to 0.
                let value = (pair.version() != 0).then(|| pair.value().to_vec());
                past.push(Past { revision, key, value });
            }
            if past.last().is_some_and(|last| last.revision >= end) {
                past.retain(|change| change.key != "history/end");
                return past;
            }
        }
    }

    async fn session(&self) -> Session {
        let dialer = Arc::new(Dialer::new(vec![self.endpoint()], None).unwrap());
        Session::open(&dialer).await.unwrap()
    }
}
