//! Which clusters see a Service: what `clustermesh.io/export-to` says, and how records carry it.
//!
//! A restriction is never lost by being misread: an annotation that is no list of clusters is refused, and a record whose
//! audience can't be understood is for its own cluster alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::name::{ClusterName, NameError};

/// How many clusters an audience may name: they stand in every record of the Service, beside all else that has a limit there.
pub(crate) const MAX_AUDIENCE: usize = 64;

/// Who sees the records of a Service, beside the cluster that has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Audience {
    #[default]
    Everybody,
    /// These clusters; none where the set is empty.
    Only(Arc<BTreeSet<ClusterName>>),
}

/// Why a text names no audience.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AudienceError {
    #[error("it names no cluster")]
    Empty,
    #[error("it names more than {MAX_AUDIENCE} clusters")]
    TooMany,
    #[error("{0}")]
    Name(NameError),
}

impl Audience {
    /// Nobody but the cluster itself.
    pub fn nobody() -> Self {
        Self::Only(Arc::default())
    }

    /// Reads the names of clusters with commas between, and spaces around them.
    ///
    /// # Errors
    /// Where one of them is no name of a cluster, there is none, or there are too many.
    pub fn parse(text: &str) -> Result<Self, AudienceError> {
        if text.trim().is_empty() {
            return Err(AudienceError::Empty);
        }
        let mut names = BTreeSet::new();
        for name in text.split(',') {
            names.insert(ClusterName::new(name.trim()).map_err(AudienceError::Name)?);
            if names.len() > MAX_AUDIENCE {
                return Err(AudienceError::TooMany);
            }
        }
        Ok(Self::Only(Arc::new(names)))
    }

    pub fn is_everybody(&self) -> bool {
        *self == Self::Everybody
    }

    pub fn includes(&self, cluster: &ClusterName) -> bool {
        match self {
            Self::Everybody => true,
            Self::Only(clusters) => clusters.contains(cluster),
        }
    }

    /// Of the record of a Service or slice with this value.
    pub fn of_record(value: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Addressed {
            #[serde(default)]
            export_to: Audience,
        }
        // Most records have none, and need not be parsed for that.
        const FIELD: &[u8] = b"\"export_to\"";
        if !value.windows(FIELD.len()).any(|part| part == FIELD) {
            return Self::Everybody;
        }
        serde_json::from_slice(value).map_or_else(|_| Self::nobody(), |it: Addressed| it.export_to)
    }
}

impl Serialize for Audience {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Everybody => serializer.serialize_none(),
            Self::Only(clusters) => serializer.collect_seq(clusters.iter().map(ClusterName::as_str)),
        }
    }
}

/// Of a field that is there. What is no list of names is nobody, and what is no name is no cluster.
impl<'de> Deserialize<'de> for Audience {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Names(Vec<Named>),
            Other(IgnoredAny),
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Named {
            Text(String),
            Other(IgnoredAny),
        }
        let names = match Written::deserialize(deserializer)? {
            Written::Names(names) => names,
            Written::Other(IgnoredAny) => Vec::new(),
        };
        let clusters = names.into_iter().filter_map(|name| match name {
            Named::Text(name) => ClusterName::new(&name).ok(),
            Named::Other(IgnoredAny) => None,
        });
        Ok(Self::Only(Arc::new(clusters.collect())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(names: &[&str]) -> Audience {
        Audience::Only(Arc::new(names.iter().map(|name| ClusterName::new(name).unwrap()).collect()))
    }

    #[test]
    fn clusters_stand_with_commas_between_in_any_order() {
        assert_eq!(Audience::parse("yavin"), Ok(only(&["yavin"])));
        assert_eq!(Audience::parse(" yavin ,\tendor,yavin\n"), Ok(only(&["endor", "yavin"])));
    }

    #[test]
    fn what_is_no_list_of_clusters_is_refused() {
        for text in ["", " ", ",", "yavin,", "yavin endor", "*", "Yavin", "all,,", &"x".repeat(64)] {
            assert!(Audience::parse(text).is_err(), "{text:?}");
        }
        let names: Vec<String> = (0..=MAX_AUDIENCE).map(|number| format!("c{number}")).collect();
        assert!(Audience::parse(&names[1..].join(",")).is_ok());
        assert_eq!(Audience::parse(&names.join(",")), Err(AudienceError::TooMany));
    }

    #[test]
    fn a_record_without_the_field_is_for_everybody() {
        for value in ["{}", "1", "", r#"{"hostname":"\"export_to\""}"#, "\u{fffd}"] {
            assert_eq!(Audience::of_record(value.as_bytes()), Audience::Everybody, "{value}");
        }
    }

    #[test]
    fn a_record_whose_audience_is_not_understood_is_for_nobody_else() {
        let read = |field: &str| Audience::of_record(format!(r#"{{"a":1,"export_to":{field}}}"#).as_bytes());
        assert_eq!(read(r#"["yavin"]"#), only(&["yavin"]));
        assert_eq!(read("[]"), Audience::nobody());
        for field in
            ["null", "true", r#""yavin""#, "{}", "1e999", r#"["yavin""#, r#"[],"export_to":["yavin"]"#]
        {
            assert_eq!(read(field), Audience::nobody(), "{field}");
        }
        assert_eq!(read(r#"["yavin",7,"Not A Name",null]"#), only(&["yavin"]));
        assert_eq!(Audience::of_record(br#"["export_to"]"#), Audience::nobody());
    }
}
