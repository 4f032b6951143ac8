//! The list and watch protocol of the Kubernetes API: what is asked, and what comes back. Pure.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::api::{ApiError, Status};
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

/// Tokens of the server's, for a query.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// A page of a list.
#[derive(Debug)]
pub(crate) struct ListPage<'a> {
    /// Where a watch goes on.
    pub(crate) resource_version: String,
    /// Token for the next page.
    pub(crate) next: Option<String>,
    pub(crate) items: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct WireList<'a> {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ListMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    next: Option<String>,
}

pub(crate) fn parse_page(body: &[u8]) -> Result<ListPage<'_>, ApiError> {
    let list: WireList<'_> = serde_json::from_slice(body).map_err(ApiError::Malformed)?;
    let ListMeta { resource_version, next } = list.metadata;
    let next = next.filter(|token| !token.is_empty());
    Ok(ListPage { resource_version, next, items: list.items.unwrap_or_default() })
}

/// What a watch says.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// An object is new or has changed.
    Apply(&'a str),
    /// An object was deleted; this is how it was.
    Delete(&'a str),
    /// Nothing else happened up to here.
    Bookmark {
        resource_version: String,
        /// All objects of a streamed list have been said.
        ends_list: bool,
    },
    Error(ApiError),
}

#[derive(Deserialize)]
struct WireEvent<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: BookmarkMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BookmarkMeta {
    resource_version: String,
    #[serde(default)]
    annotations: Option<Ends>,
}

#[derive(Deserialize)]
struct Ends {
    #[serde(rename = "k8s.io/initial-events-end")]
    initial_events: Option<String>,
}

pub(crate) fn parse_event(line: &[u8]) -> Result<Event<'_>, ApiError> {
    let event: WireEvent<'_> = serde_json::from_slice(line).map_err(ApiError::Malformed)?;
    let json = event.object.get();
    match event.kind {
        "ADDED" | "MODIFIED" => Ok(Event::Apply(json)),
        "DELETED" => Ok(Event::Delete(json)),
        "BOOKMARK" => {
            let Bookmark { metadata } = serde_json::from_str(json).map_err(ApiError::Malformed)?;
            let ends = metadata.annotations.and_then(|it| it.initial_events);
            Ok(Event::Bookmark {
                resource_version: metadata.resource_version,
                ends_list: ends.as_deref() == Some("true"),
            })
        }
        _ => {
            let status: Status = serde_json::from_str(json).map_err(ApiError::Malformed)?;
            Ok(Event::Error(status.into()))
        }
    }
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

    #[test]
    fn events_are_told_apart() {
        let event = |line: &'static str| parse_event(line.as_bytes()).unwrap();
        assert!(matches!(event(r#"{"type":"ADDED","object":{"a":1}}"#), Event::Apply(r#"{"a":1}"#)));
        assert!(matches!(event(r#"{"type":"DELETED","object":{}}"#), Event::Delete("{}")));
        let plain = event(r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"7"}}}"#);
        assert!(
            matches!(plain, Event::Bookmark { ref resource_version, ends_list: false } if resource_version == "7")
        );
        let end = event(
            r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"7","annotations":{"k8s.io/initial-events-end":"true"}}}}"#,
        );
        assert!(matches!(end, Event::Bookmark { ends_list: true, .. }));
        let gone = event(r#"{"type":"ERROR","object":{"code":410,"reason":"Expired","message":"too old"}}"#);
        assert!(matches!(gone, Event::Error(ref error) if error.code() == Some(410)));
        assert!(parse_event(b"{\"type\":\"ADDED\"").is_err());
    }

    #[test]
    fn a_page_says_whether_another_follows() {
        let page = parse_page(br#"{"metadata":{"resourceVersion":"9","continue":"t"},"items":[{},{"a":1}]}"#)
            .unwrap();
        assert_eq!(
            (page.resource_version.as_str(), page.next.as_deref(), page.items.len()),
            ("9", Some("t"), 2)
        );
        let last = parse_page(br#"{"metadata":{"resourceVersion":"9","continue":""},"items":null}"#).unwrap();
        assert_eq!((last.next, last.items.len()), (None, 0));
    }
}
