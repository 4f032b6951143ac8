//! The list and watch protocol of the Kubernetes API: what comes back. Pure.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::api::{ApiError, Status};

/// Tokens of the server's, for a query.
pub fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// A page of a list.
#[derive(Debug)]
pub struct ListPage<'a> {
    /// Where a watch goes on.
    pub resource_version: String,
    /// Token for the next page.
    pub next: Option<String>,
    pub items: Vec<&'a RawValue>,
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

pub fn parse_page(body: &[u8]) -> Result<ListPage<'_>, ApiError> {
    let list: WireList<'_> = serde_json::from_slice(body).map_err(ApiError::Malformed)?;
    let ListMeta { resource_version, next } = list.metadata;
    let next = next.filter(|token| !token.is_empty());
    Ok(ListPage { resource_version, next, items: list.items.unwrap_or_default() })
}

/// What a watch says.
#[derive(Debug)]
pub enum Event<'a> {
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

pub fn parse_event(line: &[u8]) -> Result<Event<'_>, ApiError> {
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
