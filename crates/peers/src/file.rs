//! A peer file: who a peer is, where it is reached, which addresses it may announce and whom to trust for it.
//!
//! Turns the text of one file into validated values. Never reads files; see [`crate::folder`].

use std::sync::Arc;

use mesh_kv::DialerError;
use mesh_kv::{Credentials, Dialer, EtcdEndpoint, Tls, share_roots};
use mesh_model::address_policy::{AddressPolicy, OwnRanges, PeerRanges};
use mesh_model::name::{ClusterId, ClusterName};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::policy;

/// Kubernetes allows no bigger Secret.
pub(crate) const MAX_FILE_BYTES: u64 = 1 << 20;

/// What a peer file says, validated. As JSON it is a peer file again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerFile {
    /// From the file's stem.
    #[serde(skip)]
    pub name: ClusterName,
    pub id: ClusterId,
    /// At least one; all http or all https.
    pub endpoints: Vec<EtcdEndpoint>,
    pub ranges: PeerRanges,
    /// PEM: the peer's CAs, and lists of certificates that these have revoked; there wherever the endpoints are https.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust: Option<Arc<str>>,
}

/// Why a peer file was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("peer file {file}: {problem}")]
pub struct PeerFileError {
    /// The file's name, without its folder.
    pub file: String,
    /// The id that it claims all the same.
    pub id: Option<ClusterId>,
    pub problem: Problem,
}

/// What is wrong with a peer file, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("it can't be read ({reason}); make it a plain file that this process may read")]
    Unreadable { reason: String },
    #[error("a process has it open for writing; close it, or write another file and rename it into place")]
    BeingWritten,
    #[error("it is empty; write id, endpoints, ranges and trust into it, or remove it if the peer has left")]
    Empty,
    #[error("it is bigger than 1 MiB; only id, endpoints, ranges and trust belong into it")]
    TooBig,
    #[error("its stem is no cluster name ({reason}); name it after the peer's --cluster-name, as NAME.yaml")]
    Name { reason: String },
    #[error("it is not YAML of the form `key: value` ({reason}); correct it there")]
    Yaml { reason: String },
    #[error("field `{field}` is missing; write `{example}`")]
    Missing { field: &'static str, example: &'static str },
    #[error("field `{field}` is unknown; only id, endpoints, ranges and trust are known")]
    Unknown { field: String },
    #[error("field `{field}`: {reason}")]
    Field { field: &'static str, reason: String },
    #[error("it is named like this cluster itself; remove it: a cluster is not its own peer")]
    OwnName,
    #[error("field `id`: {id} is this cluster's own id; one of the two clusters needs another --cluster-id")]
    OwnId { id: ClusterId },
    #[error(
        "field `id`: {id} is claimed by {other} too; ids are unique in the mesh, so correct one of the two"
    )]
    SameId { id: ClusterId, other: String },
    #[error("{other} names the same peer; remove one of the two")]
    SameName { other: String },
}

const ID_EXAMPLE: &str = "id: 2";
const ENDPOINTS_EXAMPLE: &str = "endpoints: [\"https://HOST:2379\"]";
const TRUST_EXAMPLE: &str =
    "trust: |` and below it, indented, the peer's CA as PEM: `-----BEGIN CERTIFICATE-----";

impl PeerFile {
    /// Validates the text of the file `file`, whose stem is the peer's name.
    pub fn parse(name: &ClusterName, file: &str, text: &str) -> Result<Self, PeerFileError> {
        let refused = |id, problem| PeerFileError { file: file.into(), id, problem };
        if text.trim().is_empty() {
            return Err(refused(None, Problem::Empty));
        }
        let mut fields: Map<String, Value> = serde_saphyr::from_str(text)
            .map_err(|error| refused(None, Problem::Yaml { reason: reason(&error) }))?;
        let id: ClusterId =
            required(&mut fields, "id", ID_EXAMPLE).map_err(|problem| refused(None, problem))?;
        Self::of_fields(name, id, fields).map_err(|problem| refused(Some(id), problem))
    }

    fn of_fields(name: &ClusterName, id: ClusterId, mut fields: Map<String, Value>) -> Result<Self, Problem> {
        let endpoints: Vec<EtcdEndpoint> = required(&mut fields, "endpoints", ENDPOINTS_EXAMPLE)?;
        let ranges = policy::ranges(&mut fields)?;
        let trust: Option<Arc<str>> = match fields.remove("trust") {
            None | Some(Value::Null) => None,
            Some(value) => Some(typed("trust", value)?),
        };
        if let Some(field) = fields.keys().next() {
            return Err(Problem::Unknown { field: field.chars().take(60).collect() });
        }
        let file = Self { name: name.clone(), id, endpoints, ranges, trust };
        file.dialer(None)?;
        Ok(file)
    }

    /// A dialer to this peer, which shows our credentials.
    pub fn dialer(&self, identity: Option<&Credentials>) -> Result<Dialer, Problem> {
        let tls = match &self.trust {
            None => None,
            Some(pem) => {
                let tls = Tls::trusting(pem, identity).map_err(|error| Problem::Field {
                    field: "trust",
                    reason: mesh_failure::chain(&error),
                })?;
                Some(tls.of_peer(&self.name))
            }
        };
        Dialer::new(self.endpoints.clone(), tls).map_err(|error| match error {
            DialerError::NoTrust { .. } => Problem::Missing { field: "trust", example: TRUST_EXAMPLE },
            other => Problem::Field { field: "endpoints", reason: other.to_string() },
        })
    }

    /// The text of the file, as YAML.
    pub fn text(&self) -> String {
        serde_saphyr::to_string(self).expect("a peer file is plain data")
    }

    /// Which addresses the peer may announce, where `own` are this cluster's.
    pub fn policy(&self, own: OwnRanges) -> AddressPolicy {
        AddressPolicy::new(self.ranges.clone(), own)
    }

    /// Whether what was learnt by this file counts for the other. A file that trusts none of the roots that the one
    /// before trusted is about somebody else, whoever that is.
    pub fn is_same_peer(&self, after: &Self) -> bool {
        self.name == after.name && self.id == after.id && self.shares_trust(after)
    }

    /// Whether the two have a trusted root in common, or one of them names none.
    pub fn shares_trust(&self, after: &Self) -> bool {
        match (&self.trust, &after.trust) {
            (Some(before), Some(after)) => share_roots(before, after),
            _ => true,
        }
    }
}

pub(crate) fn typed<T: DeserializeOwned>(field: &'static str, value: Value) -> Result<T, Problem> {
    serde_json::from_value(value)
        .map_err(|error| Problem::Field { field, reason: one_line(&error.to_string()) })
}

pub(crate) fn required<T: DeserializeOwned>(
    fields: &mut Map<String, Value>,
    field: &'static str,
    example: &'static str,
) -> Result<T, Problem> {
    match fields.remove(field) {
        None | Some(Value::Null) => Err(Problem::Missing { field, example }),
        Some(value) => typed(field, value),
    }
}

fn reason(error: &serde_saphyr::Error) -> String {
    match error.without_snippet() {
        serde_saphyr::Error::DuplicateMappingKey { key, location } => {
            let key = one_line(key.as_deref().unwrap_or("a key"));
            format!("`{key}` stands twice, the second time at line {}", location.line())
        }
        error => one_line(&error.to_string()),
    }
}

/// Parsers quote the place over several lines; a log line has one.
fn one_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default().trim();
    line.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mesh_trust::{Authority, Lifetime};
    use rustls::pki_types::UnixTime;

    use super::*;

    const GOOD: &str = "id: 2\nendpoints: [\"http://10.2.0.1:2379\"]\nranges: {pods: [10.2.0.0/16]}\n";

    fn parse(text: &str) -> Result<PeerFile, PeerFileError> {
        PeerFile::parse(&ClusterName::new("hoth").unwrap(), "hoth.yaml", text)
    }

    #[test]
    fn a_good_file_is_taken_whole() {
        let file = parse(GOOD).unwrap();
        assert_eq!((file.name.as_str(), file.id.value(), file.endpoints.len()), ("hoth", 2, 1));
        assert!(matches!(file.ranges, PeerRanges::Agreed(ranges) if ranges.pods.len() == 1));
        let declared = parse(&GOOD.replace("{pods: [10.2.0.0/16]}", "declared")).unwrap();
        assert_eq!(declared.ranges, PeerRanges::DECLARED);
        let json = r#"{"id": 2, "endpoints": ["http://a:1"], "ranges": {"nodes": ["fd00::/64"]}}"#;
        assert_eq!(parse(json).unwrap().endpoints[0].port(), 1);
    }

    #[test]
    fn a_file_is_a_peer_file_again_as_json() {
        let ca = mesh_kv::testing::Ca::new("hoth");
        let trust: String = ca.pem().lines().map(|line| format!("  {line}\n")).collect();
        for text in [
            GOOD.to_owned(),
            GOOD.replace("{pods: [10.2.0.0/16]}", "declared"),
            GOOD.replace("{pods: [10.2.0.0/16]}", "{nodes: [192.168.1.0/24, \"fd00::/64\"]}"),
            GOOD.replace("http://10.2.0.1:2379", "https://[fd00::1]\", \"https://etcd.hoth.example:1")
                + "trust: |\n"
                + &trust,
        ] {
            let file = parse(&text).unwrap();
            assert_eq!(parse(&serde_json::to_string(&file).unwrap()), Ok(file), "{text}");
        }
    }

    #[test]
    fn trust_may_hold_lists_of_revoked_certificates_which_must_be_readable() {
        let (name, now) = (ClusterName::new("hoth").unwrap(), UnixTime::now());
        let authority = Authority::new(&name, now).unwrap();
        let list = authority.revoke(&[], 1, Lifetime::starting(now, Duration::from_secs(60))).unwrap();
        let with = |trust: String| {
            let trust: String = trust.lines().map(|line| format!("  {line}\n")).collect();
            parse(&format!("{}trust: |\n{trust}", GOOD.replace("http://", "https://")))
        };
        let file = with(format!("{}{list}", authority.certificate_pem())).unwrap();
        let before = with(authority.certificate_pem().to_owned()).unwrap();
        assert!(before != file && before.is_same_peer(&file), "a list makes no other peer of it");
        let broken = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
        let error = with(format!("{}{broken}", authority.certificate_pem())).unwrap_err().to_string();
        assert!(error.contains("`trust`: trust holds a list of revoked certificates"), "{error}");
        assert!(with(list).unwrap_err().to_string().contains("no certificate"));
    }

    #[test]
    fn what_is_wrong_is_named_with_file_field_and_remedy() {
        let with = |from: &str, to: &str| GOOD.replace(from, to);
        for (text, parts) in [
            (String::new(), ["it is empty", "remove it if the peer has left"]),
            ("\n \n".into(), ["it is empty", "write id"]),
            ("id: [".into(), ["not YAML", "correct it"]),
            ("- 1\n".into(), ["not YAML", "key: value"]),
            ("just text".into(), ["not YAML", "key: value"]),
            (with("id: 2\n", ""), ["`id` is missing", "id: 2"]),
            (with("id: 2", "id: 0"), ["`id`", "1–4095"]),
            (with("id: 2", "id: 4096"), ["`id`", "1–4095"]),
            (with("id: 2", "id: two"), ["`id`", "two"]),
            (with("\"http://10.2.0.1:2379\"", ""), ["`endpoints`", "name at least one"]),
            (with("[\"http://10.2.0.1:2379\"]", "http://a:1"), ["`endpoints`", "sequence"]),
            (with("http://10.2.0.1:2379", "10.2.0.1:2379"), ["`endpoints`", "write https://HOST:PORT"]),
            (with("http://10", "https://10"), ["`trust` is missing", "BEGIN CERTIFICATE"]),
            (with("ranges: {pods: [10.2.0.0/16]}", ""), ["`ranges` is missing", "pods:"]),
            (with("{pods: [10.2.0.0/16]}", "agreed"), ["`ranges`", "pods:"]),
            (with("{pods: [10.2.0.0/16]}", "{}"), ["`ranges`", "pods:"]),
            (with("pods:", "pod:"), ["`ranges`", "unknown field"]),
            (with("10.2.0.0/16", "10.2.3.4/16"), ["`ranges`", "write 10.2.0.0/16"]),
            (with("10.2.0.0/16", "10.2.0.0"), ["`ranges`", "IP"]),
            (with("id: 2", "id: 2\ntrust: abc"), ["`trust`", "no certificate"]),
            (with("id: 2", "id: 2\ntrusts: abc"), ["`trusts` is unknown", "trust"]),
            (with("id: 2", "id: 2\nid: 3"), ["not YAML", "`id` stands twice"]),
        ] {
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.starts_with("peer file hoth.yaml: "), "{error}");
            for part in parts {
                assert!(error.contains(part), "{text:?}: {error:?} does not say {part:?}");
            }
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_refused_file_still_claims_its_id() {
        assert_eq!(parse("id: 7\n").unwrap_err().id.map(ClusterId::value), Some(7));
        assert_eq!(parse("id: 0\n").unwrap_err().id, None);
    }
}
