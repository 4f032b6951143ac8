//! Names and identifiers, validated where they enter.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Why a name or an id was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("{what} is empty")]
    Empty { what: &'static str },
    #[error("{what} {value:?} has {length} characters; at most {max} are allowed")]
    TooLong { what: &'static str, value: String, length: usize, max: usize },
    #[error(
        "{what} {value:?} is not an RFC 1123 {form}: use lower case letters, digits and '-'{dot}, beginning and \
         ending with a letter or digit", dot = if *form == "subdomain" { " (and '.')" } else { "" }
    )]
    Form { what: &'static str, value: String, form: &'static str },
    #[error("cluster id {value} is outside 1–4095")]
    ClusterId { value: u64 },
    #[error("cluster id {value:?} is no number; write one within 1–4095")]
    NoClusterId { value: String },
}

fn is_label(value: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = value.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

fn check_length(what: &'static str, value: &str, max: usize) -> Result<(), NameError> {
    if value.is_empty() {
        return Err(NameError::Empty { what });
    }
    if value.len() > max {
        let shown: String = value.chars().take(80).collect();
        return Err(NameError::TooLong { what, value: shown, length: value.len(), max });
    }
    Ok(())
}

fn check_label(what: &'static str, value: &str) -> Result<(), NameError> {
    check_length(what, value, 63)?;
    if is_label(value) { Ok(()) } else { Err(NameError::Form { what, value: value.into(), form: "label" }) }
}

fn check_subdomain(what: &'static str, value: &str) -> Result<(), NameError> {
    check_length(what, value, 253)?;
    if value.split('.').all(is_label) {
        Ok(())
    } else {
        Err(NameError::Form { what, value: value.into(), form: "subdomain" })
    }
}

/// Defines a validated, cheaply cloned string type.
macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            pub fn new(value: &str) -> Result<Self, NameError> {
                $check($what, value)?;
                Ok(Self(value.into()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(value: String) -> Result<Self, NameError> {
                Self::new(&value)
            }
        }

        impl std::str::FromStr for $type {
            type Err = NameError;
            fn from_str(value: &str) -> Result<Self, NameError> {
                Self::new(value)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0.as_ref().into()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name!(
    /// A cluster's name: an RFC 1123 label of at most 63 characters, unique in the mesh.
    ClusterName,
    "cluster name",
    check_label
);
name!(
    /// A node's name: an RFC 1123 subdomain of at most 253 characters.
    NodeName,
    "node name",
    check_subdomain
);
name!(
    /// An EndpointSlice's name: an RFC 1123 subdomain of at most 253 characters.
    SliceName,
    "EndpointSlice name",
    check_subdomain
);
name!(
    /// A port's name: an RFC 1123 label.
    PortName,
    "port name",
    check_label
);

/// A cluster's id, 1–4095, unique in the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct ClusterId(u16);

impl ClusterId {
    /// The largest id.
    pub const MAX: u16 = 4095;

    pub fn new(value: u64) -> Result<Self, NameError> {
        match u16::try_from(value) {
            Ok(id @ 1..=Self::MAX) => Ok(Self(id)),
            _ => Err(NameError::ClusterId { value }),
        }
    }

    /// 1–4095.
    pub fn value(self) -> u16 {
        self.0
    }
}

impl TryFrom<u64> for ClusterId {
    type Error = NameError;
    fn try_from(value: u64) -> Result<Self, NameError> {
        Self::new(value)
    }
}

impl std::str::FromStr for ClusterId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let short = || text.chars().take(80).collect();
        text.parse().map_err(|_| NameError::NoClusterId { value: short() }).and_then(Self::new)
    }
}

impl From<ClusterId> for u64 {
    fn from(id: ClusterId) -> u64 {
        id.0.into()
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A Service's namespace and name, both RFC 1123 labels. Displays as `namespace/name`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// `namespace/name`; one allocation for both.
    joined: Arc<str>,
    /// Length of the namespace, at most 63.
    split: u8,
}

impl ServiceName {
    pub fn new(namespace: &str, name: &str) -> Result<Self, NameError> {
        check_label("namespace", namespace)?;
        check_label("service name", name)?;
        let split = u8::try_from(namespace.len()).expect("a label has at most 63 characters");
        Ok(Self { joined: format!("{namespace}/{name}").into(), split })
    }

    pub fn namespace(&self) -> &str {
        &self.joined[..usize::from(self.split)]
    }

    pub fn name(&self) -> &str {
        &self.joined[usize::from(self.split) + 1..]
    }

    /// `namespace/name`.
    pub fn as_str(&self) -> &str {
        &self.joined
    }
}

impl std::str::FromStr for ServiceName {
    type Err = NameError;
    /// Parses `namespace/name`.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let (namespace, name) = text.split_once('/').unwrap_or(("", text));
        Self::new(namespace, name)
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.joined)
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.joined, f)
    }
}

impl Serialize for ServiceName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.joined)
    }
}

impl<'de> Deserialize<'de> for ServiceName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_rfc_1123() {
        assert!(ClusterName::new("rebel-1").is_ok());
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "a/b", &"a".repeat(64)] {
            assert!(ClusterName::new(bad).is_err(), "{bad:?}");
        }
        assert!(NodeName::new("node-1.rebels.example").is_ok());
        assert!(NodeName::new("a..b").is_err());
    }

    #[test]
    fn cluster_ids_end_at_4095() {
        assert_eq!(ClusterId::new(4095).map(ClusterId::value), Ok(4095));
        assert!(ClusterId::new(0).is_err());
        assert!(ClusterId::new(4096).is_err());
        let told = |text: &str| text.parse::<ClusterId>().unwrap_err().to_string();
        assert_eq!(told("abc"), "cluster id \"abc\" is no number; write one within 1–4095");
        assert_eq!(told("5000"), "cluster id 5000 is outside 1–4095");
    }

    #[test]
    fn service_names_split_and_join() {
        let name: ServiceName = "ns/svc".parse().expect("valid");
        assert_eq!((name.namespace(), name.name(), name.as_str()), ("ns", "svc", "ns/svc"));
        assert!("svc".parse::<ServiceName>().is_err());
        assert!("a/b/c".parse::<ServiceName>().is_err());
    }
}
