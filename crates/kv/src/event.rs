//! What happens to a peer's records, and what that does to a view of them.

use std::collections::BTreeSet;

use mesh_model::name::ServiceName;
use mesh_model::view::PeerView;

use crate::entry::{Entry, text_of};
use crate::etcd_endpoint::EtcdEndpoint;
use crate::fault::KvError;
use crate::raw::RawChange;

/// What happens to a watch, in order.
#[derive(Clone, Debug)]
pub enum Event {
    /// Connected and answered; a list or a resumption follows.
    Connected {
        endpoint: EtcdEndpoint,
    },
    /// What is listed from here on replaces everything known.
    ListBegin,
    ListPage(Vec<Entry>),
    /// What is listed goes on beyond so many records, and is not read further.
    ListCut {
        records: u64,
    },
    /// The list is complete; what it did not contain does not exist at this revision.
    ListEnd {
        revision: i64,
    },
    /// No list is needed: changes go on behind the revision known.
    Resumed {
        revision: i64,
    },
    /// All changes of one or more whole revisions, up to this one.
    Changed {
        revision: i64,
        changes: Vec<Change>,
    },
    /// All records of services that were asked for, as they are at the revision known.
    Read {
        services: BTreeSet<ServiceName>,
        entries: Vec<Entry>,
    },
    /// The connection is lost; what is known stays. Another attempt follows.
    Disconnected {
        reason: KvError,
    },
}

/// A changed key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Put { key: String, value: Vec<u8> },
    Delete { key: String },
}

impl From<RawChange> for Change {
    fn from(raw: RawChange) -> Self {
        match raw {
            RawChange::Put(entry) => Self::Put { key: text_of(entry.key), value: entry.value },
            RawChange::Delete { key } => Self::Delete { key: text_of(key) },
        }
    }
}

impl Change {
    pub(crate) fn key(&self) -> &str {
        self.parts().0
    }

    /// The key, and its value where it was not deleted.
    fn parts(&self) -> (&str, Option<&[u8]>) {
        match self {
            Self::Put { key, value } => (key, Some(value)),
            Self::Delete { key } => (key, None),
        }
    }
}

impl Event {
    /// How many records it is about, or a view has to look at because of it.
    pub fn records(&self) -> usize {
        match self {
            Self::ListPage(entries) | Self::Read { entries, .. } => entries.len(),
            Self::Changed { changes, .. } => changes.len(),
            // All that were listed.
            Self::ListEnd { .. } => usize::MAX,
            _ => 0,
        }
    }

    /// Does to a view what the event says. Take the view's snapshot afterwards.
    pub fn feed(&self, view: &mut PeerView) {
        match self {
            Self::ListBegin => view.begin_list(),
            Self::ListPage(entries) => {
                entries.iter().for_each(|entry| view.list_entry(&entry.key, &entry.value))
            }
            Self::ListCut { records } => view.cut_list(*records),
            Self::ListEnd { .. } => view.end_list(),
            Self::Read { services, entries } => {
                view.read(services, entries.iter().map(|entry| (entry.key.as_str(), entry.value.as_slice())))
            }
            Self::Changed { changes, .. } => view.apply(changes.iter().map(Change::parts)),
            Self::Connected { .. } | Self::Resumed { .. } | Self::Disconnected { .. } => {}
        }
    }
}
