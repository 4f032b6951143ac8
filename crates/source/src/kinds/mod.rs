//! The kinds of Kubernetes objects that are read: one file for each, and one line here.
//!
//! A kind says how the API server and manifests name it, of which fields it consists, how its table keeps it, and what of the
//! snapshot it is. Sources never ask which kind an object is of, and kinds know no source.

mod operations;

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use mesh_model::name::{NodeName, ServiceName};
use mesh_model::snapshot::Service;
use mesh_model::table::Table;
use serde::{Deserialize, Serialize};

use crate::convert::{Convert, Identify, NodeEntry, OwnedSlice, SliceKey};

use self::operations::Operations;
pub(crate) use self::operations::{NotRead, Reading};

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
    /// Whether the API server is asked for it only where the ranges of ClusterIPs are wanted.
    pub(crate) for_service_ranges: bool,
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

/// What of the snapshot an object is.
#[derive(Debug)]
pub(crate) enum Part {
    Service(ServiceName),
    /// `was_of`: the Service that it belonged to before it changed.
    Slice {
        key: SliceKey,
        was_of: Option<ServiceName>,
    },
    Node(NodeName),
}

/// What a kind's file says.
pub(crate) trait OfKind: Sync + 'static {
    type Key: Identify + Clone + Ord;
    /// The fields that are read.
    type Wire: Convert;
    /// As the table keeps it.
    type Stored: Stored<Value<Self>>;

    const API: Api;

    /// `old`: as the table kept the object before it changed. None where the object is in no snapshot.
    fn part(_key: &Self::Key, _old: Option<&Self::Stored>) -> Option<Part> {
        None
    }
}

/// What an object is converted to.
type Value<K> = <<K as OfKind>::Wire as Convert>::Value;

/// As a table keeps what was converted.
pub(crate) trait Stored<V>: Clone + PartialEq {
    fn store(value: &Arc<V>) -> Self;
}

impl<V: PartialEq> Stored<V> for Arc<V> {
    fn store(value: &Self) -> Self {
        value.clone()
    }
}

/// A kind's place among all kinds.
trait Variant: OfKind {
    fn object_key(key: Self::Key) -> ObjectKey;
    fn key(key: &ObjectKey) -> Option<&Self::Key>;
    fn object(key: Self::Key, value: Arc<Value<Self>>) -> Object;
    fn parts(object: Object) -> Option<(Self::Key, Arc<Value<Self>>)>;
    fn table(tables: &Tables) -> &Table<Self::Key, Self::Stored>;
    fn table_mut(tables: &mut Tables) -> &mut Table<Self::Key, Self::Stored>;
}

/// Makes of each line a kind, a key, an object and a table. What is done with them is in [`Operations`], once for all kinds.
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

        impl Kind {
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            pub(crate) fn operations(self) -> &'static dyn Operations {
                match self { $(Self::$variant => &$module::Of),+ }
            }
        }

        impl ObjectKey {
            pub(crate) fn kind(&self) -> Kind {
                match self { $(Self::$variant(_) => Kind::$variant),+ }
            }
        }

        impl Object {
            pub(crate) fn key(&self) -> ObjectKey {
                match self { $(Self::$variant(key, _) => ObjectKey::$variant(key.clone())),+ }
            }
        }

        impl fmt::Display for ObjectKey {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let kind = self.kind().api().kind;
                match self { $(Self::$variant(key) => write!(f, "{kind} {key}")),+ }
            }
        }

        $(
            impl Variant for $module::Of {
                fn object_key(key: $key) -> ObjectKey {
                    ObjectKey::$variant(key)
                }

                fn key(key: &ObjectKey) -> Option<&$key> {
                    if let ObjectKey::$variant(key) = key { Some(key) } else { None }
                }

                fn object(key: $key, value: Arc<$value>) -> Object {
                    Object::$variant(key, value)
                }

                fn parts(object: Object) -> Option<($key, Arc<$value>)> {
                    if let Object::$variant(key, value) = object { Some((key, value)) } else { None }
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
    };
}

kinds! {
    service: Service(ServiceName, Service),
    slice: Slice(SliceKey, OwnedSlice),
    node: Node(NodeName, NodeEntry),
    service_cidr: ServiceCidr(String, Vec<IpNet>),
}

impl Kind {
    pub(crate) fn api(self) -> &'static Api {
        self.operations().api()
    }

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
