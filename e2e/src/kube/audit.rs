//! Requests of the mesh's service accounts to an API server, by its audit log.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::chart::NAMESPACE;

/// Only the mesh's own requests, without their bodies.
pub(super) fn policy() -> String {
    let rule = format!("{{level: Metadata, userGroups: [\"system:serviceaccounts:{NAMESPACE}\"]}}");
    let stages = "omitStages: [RequestReceived]";
    format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{stages}\nrules: [{rule}, {{level: None}}]\n")
}

/// A request that was answered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    /// The service account's name, without its namespace.
    pub account: String,
    pub verb: String,
    /// Empty for the core group, and for paths that are no resources.
    pub group: String,
    /// With the subresource behind a slash; the path where it is no resource.
    pub resource: String,
    pub is_resource: bool,
    /// The HTTP status.
    pub code: u64,
}

/// All requests in a log. A line that is still being written is left out.
pub(super) fn read(log: &Path) -> Result<Vec<Request>> {
    let text = fs::read_to_string(log).with_context(|| format!("reading {}", log.display()))?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).map(|event| request(&event)).collect())
}

fn request(event: &Value) -> Request {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let object = &event["objectRef"];
    let is_resource = object["resource"].is_string();
    let resource = match object["subresource"].as_str() {
        Some(subresource) => format!("{}/{subresource}", text(&object["resource"])),
        None if is_resource => text(&object["resource"]),
        None => text(&event["requestURI"]),
    };
    Request {
        account: text(&event["user"]["username"]).rsplit(':').next().unwrap_or_default().to_owned(),
        verb: text(&event["verb"]),
        group: text(&object["apiGroup"]),
        resource,
        is_resource,
        code: event["responseStatus"]["code"].as_u64().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_becomes_a_request() {
        let event = serde_json::json!({
            "verb": "watch",
            "user": {"username": "system:serviceaccount:clustermesh:clustermesh-node-agent"},
            "objectRef": {"resource": "endpointslices", "apiGroup": "discovery.k8s.io", "apiVersion": "v1"},
            "responseStatus": {"code": 200},
        });
        let found = request(&event);
        assert_eq!((found.account.as_str(), found.verb.as_str()), ("clustermesh-node-agent", "watch"));
        assert_eq!((found.group.as_str(), found.resource.as_str()), ("discovery.k8s.io", "endpointslices"));
        assert!(found.is_resource && found.code == 200);
    }
}
