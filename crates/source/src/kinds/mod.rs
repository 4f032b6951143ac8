//! The kinds of Kubernetes objects that are read: one file for each, and one line here.
//!
//! A kind says how the API server and manifests name it, how it is converted, how its table keeps it, and what of the
//! snapshot a change of it concerns. Sources never ask which kind an object is of.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use mesh_model::name::{NodeName, ServiceName};
use mesh_model::snapshot::{Service, Unread};
use mesh_model::table::{Knowledge, Table};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::convert::{Converted, NodeEntry, Note, OwnedSlice, SliceKey};
use crate::kubernetes::{self, Options};
use crate::manifests;
use crate::objects::Objects;
use crate::wire::Meta;

/// How a kind is named and asked for.
pub(crate) struct Api {
    /// As objects name it.
    pub(crate) kind: &'static str,
    /// `apiVersion`.
    pub(crate) version: &'static str,
    /// In the API server's paths, and in labels of metrics.
    pub(crate) resource: &'static str,
    pub(crate) namespaced: bool,
    /// Which objects the API server is asked for: further parameters of a query.
    pub(crate) selector: &'static str,
    /// Whether a source that is asked for these options needs it from the API server.
    pub(crate) is_wanted: fn(&Options) -> bool,
    /// Whether a supported API server may not know it.
    pub(crate) may_be_absent: bool,
    /// Whether it is read from manifests.
    pub(crate) in_manifests: bool,
    /// Under which label the objects of a snapshot are counted; none: it is in no snapshot.
    pub(crate) counted_as: Option<&'static str>,
    /// Whether address ranges follow from it.
    pub(crate) has_ranges: bool,
}

impl Api {
    /// Where the API server has all objects of the kind.
    pub(crate) fn path(&self) -> String {
        let root = if self.version.contains('/') { "apis" } else { "api" };
        format!("/{root}/{}/{}", self.version, self.resource)
    }
}

/// What a kind's file says.
pub(crate) trait OfKind {
    type Key: Clone + Ord;
    /// What an object is converted to.
    type Value;
    /// As the table keeps it.
    type Stored: Clone + PartialEq;
    /// The fields that are read.
    type Wire: DeserializeOwned;

    const API: Api;

    fn meta(object: &Self::Wire) -> &Meta;
    fn key(meta: &Meta) -> Result<Self::Key, Note>;
    fn convert(object: &Self::Wire) -> Converted<Self::Value>;
    fn store(value: &Arc<Self::Value>) -> Self::Stored;

    /// What is visible of an object has changed: notes what of the snapshot has to be made anew.
    fn changed(objects: &mut Objects, key: &Self::Key, old: Option<&Self::Stored>);

    /// An object exists that can't be read, and no earlier value of it is known.
    fn unread(_objects: &Objects, _key: &Self::Key, _unread: &mut Unread) {}

    /// The Service that the object belongs to.
    fn owner(_meta: &Meta) -> Option<ServiceName> {
        None
    }
}

/// A kind's place among all kinds.
pub(crate) trait Variant: OfKind {
    fn object_key(key: Self::Key) -> ObjectKey;
    fn object(key: Self::Key, value: Arc<Self::Value>) -> Object;
    fn table(tables: &Tables) -> &Table<Self::Key, Self::Stored>;
    fn table_mut(tables: &mut Tables) -> &mut Table<Self::Key, Self::Stored>;
}

macro_rules! kinds {
    ($($module:ident: $variant:ident($key:ty, $value:ty)),+ $(,)?) => {
        $(mod $module;)+

        /// A kind of objects.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $($variant),+ }

        /// Identifies an object of a kind that we read.
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum ObjectKey { $($variant($key)),+ }

        /// An object that counts.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Object { $($variant($key, Arc<$value>)),+ }

        /// The objects of a source, by kind.
        #[derive(Debug, Default)]
        pub(crate) struct Tables {
            $(pub(crate) $module: Table<$key, <$module::Of as OfKind>::Stored>),+
        }

        $(
            impl Variant for $module::Of {
                fn object_key(key: $key) -> ObjectKey {
                    ObjectKey::$variant(key)
                }

                fn object(key: $key, value: Arc<$value>) -> Object {
                    Object::$variant(key, value)
                }

                fn table(tables: &Tables) -> &Table<$key, Self::Stored> {
                    &tables.$module
                }

                fn table_mut(tables: &mut Tables) -> &mut Table<$key, Self::Stored> {
                    &mut tables.$module
                }
            }

            impl From<$key> for ObjectKey {
                fn from(key: $key) -> Self {
                    Self::$variant(key)
                }
            }
        )+

        impl Kind {
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            pub(crate) fn api(self) -> &'static Api {
                match self { $(Self::$variant => const { &<$module::Of as OfKind>::API }),+ }
            }

            pub(crate) fn begin_list(self, tables: &mut Tables) {
                match self { $(Self::$variant => tables.$module.begin_list()),+ }
            }

            pub(crate) fn end_list(self, objects: &mut Objects, knowledge: Knowledge) {
                match self { $(Self::$variant => objects.end_list_of::<$module::Of>(knowledge)),+ }
            }

            /// How many objects there are.
            pub(crate) fn count(self, tables: &Tables) -> usize {
                match self { $(Self::$variant => tables.$module.entries().len()),+ }
            }

            /// The key of an object with this metadata.
            pub(crate) fn key(self, meta: &Meta) -> Result<ObjectKey, Note> {
                match self { $(Self::$variant => $module::Of::key(meta).map(ObjectKey::$variant)),+ }
            }

            /// An object from the API server; none where it can't be read or has no usable name.
            pub(crate) fn read(self, json: &str) -> Option<kubernetes::Reading> {
                match self { $(Self::$variant => kubernetes::reading_of::<$module::Of>(json)),+ }
            }

            /// An object from a manifest: what it changes, and what is wrong with it.
            pub(crate) fn read_manifest(self, value: Value) -> (manifests::Effect, Vec<Note>) {
                match self { $(Self::$variant => manifests::effect_of::<$module::Of>(value)),+ }
            }
        }

        impl ObjectKey {
            pub(crate) fn kind(&self) -> Kind {
                match self { $(Self::$variant(_) => Kind::$variant),+ }
            }

            /// Whether there is such an object.
            pub(crate) fn is_in(&self, tables: &Tables) -> bool {
                match self { $(Self::$variant(key) => tables.$module.get(key).is_some()),+ }
            }

            pub(crate) fn keep(&self, tables: &mut Tables) {
                match self { $(Self::$variant(key) => tables.$module.keep(key)),+ }
            }

            pub(crate) fn delete(&self, objects: &mut Objects) {
                match self { $(Self::$variant(key) => objects.delete_of::<$module::Of>(key)),+ }
            }

            pub(crate) fn note_unread(&self, objects: &Objects, unread: &mut Unread) {
                match self { $(Self::$variant(key) => $module::Of::unread(objects, key, unread)),+ }
            }
        }

        impl Object {
            pub fn key(&self) -> ObjectKey {
                match self { $(Self::$variant(key, _) => ObjectKey::$variant(key.clone())),+ }
            }

            pub(crate) fn put(self, objects: &mut Objects) {
                match self { $(Self::$variant(key, value) => objects.put_of::<$module::Of>(key, &value)),+ }
            }
        }

        impl fmt::Display for ObjectKey {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let kind = self.kind().api().kind;
                match self { $(Self::$variant(key) => write!(f, "{kind} {key}")),+ }
            }
        }
    };
}

kinds! {
    service: Service(ServiceName, Service),
    slice: Slice(SliceKey, OwnedSlice),
    node: Node(NodeName, NodeEntry),
    service_cidr: ServiceCidr(String, Vec<IpNet>),
}

impl Kind {
    /// The kind that objects name so.
    pub(crate) fn named(kind: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|known| known.api().kind == kind)
    }

    /// Whether snapshots hold it.
    pub(crate) fn is_in_snapshots(self) -> bool {
        self.api().counted_as.is_some()
    }
}

/// By the name of its resource at the API server.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.api().resource)
    }
}
