//! The list and watch protocol of the Kubernetes API: what is asked. Pure.

use mesh_kube::encoded;

use crate::kinds::Kind;

/// Objects per page of a list; client-go's size.
const PAGE: usize = 500;

/// How new a list must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// What the server's cache holds, whatever it is. Costs the server's storage nothing.
    Cached,
    /// What the cache holds once it has reached this resource version.
    NotOlderThan(String),
    /// As of now. Servers before 1.31 read it from their storage.
    Latest,
}

/// A question about all objects of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Query {
    /// A list, or its first page: caches tell all at once.
    List(Freshness),
    /// The page after the one that gave this token.
    NextPage(String),
    /// What happens after a resource version.
    Watch { resource_version: String },
    /// All objects one by one, then what happens after (KEP-3157). The latest, and yet from the cache.
    StreamedList,
    /// How far the server's history goes: a list of at most one object, as of now. Caches may be behind.
    Newest,
}

impl Query {
    pub(crate) fn is_streamed_list(&self) -> bool {
        *self == Self::StreamedList
    }

    /// Path and query of a request.
    pub(crate) fn path(&self, kind: Kind) -> String {
        let query = match self {
            // Where there is no cache the limit counts.
            Self::List(Freshness::Cached) => {
                format!("limit={PAGE}&resourceVersion=0&resourceVersionMatch=NotOlderThan")
            }
            // With a limit servers read it from their storage.
            Self::List(Freshness::NotOlderThan(resource_version)) => not_older_than(resource_version),
            Self::List(Freshness::Latest) => format!("limit={PAGE}"),
            Self::NextPage(token) => format!("limit={PAGE}&continue={}", encoded(token)),
            Self::Newest => "limit=1".into(),
            Self::Watch { resource_version } => {
                format!("watch=1&allowWatchBookmarks=true&resourceVersion={}", encoded(resource_version))
            }
            Self::StreamedList => "watch=1&allowWatchBookmarks=true&sendInitialEvents=true\
                                   &resourceVersionMatch=NotOlderThan"
                .into(),
        };
        let api = kind.api();
        format!("{}?{query}{}", api.path(), api.selector)
    }
}

fn not_older_than(resource_version: &str) -> String {
    format!("resourceVersion={}&resourceVersionMatch=NotOlderThan", encoded(resource_version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_encoded() {
        let query = Query::NextPage("a+b/c=".into());
        assert_eq!(query.path(Kind::Node), "/api/v1/nodes?limit=500&continue=a%2Bb%2Fc%3D");
    }

    #[test]
    fn only_the_latest_list_is_asked_from_the_storage() {
        let query = |freshness| Query::List(freshness).path(Kind::Node);
        let cached = "/api/v1/nodes?limit=500&resourceVersion=0&resourceVersionMatch=NotOlderThan";
        assert_eq!(query(Freshness::Cached), cached);
        let newer = "/api/v1/nodes?resourceVersion=7&resourceVersionMatch=NotOlderThan";
        assert_eq!(query(Freshness::NotOlderThan("7".into())), newer);
        assert_eq!(query(Freshness::Latest), "/api/v1/nodes?limit=500");
    }
}
