//! The annotations that make a Service global.
//!
//! Owns their names, their values and what an invalid value means. Never refuses a Service: an invalid value
//! means the default, and a problem says so.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Prefix of this project's annotations; wins where both stand.
pub const PREFIX: &str = "clustermesh.io/";
/// Cilium's prefix, accepted with the same meaning, so that manifests move over unchanged.
pub const ALIAS_PREFIX: &str = "service.cilium.io/";

/// What the annotations of a global Service say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// Whether this cluster's backends are exported.
    pub shared: bool,
    pub affinity: Affinity,
}

/// Which tier comes first; the other is the fallback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Affinity {
    #[default]
    None,
    Local,
    Remote,
}

impl fmt::Display for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Local => "local",
            Self::Remote => "remote",
        })
    }
}

/// Whether a Service is global, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Annotated {
    /// Never touched: whatever serves it keeps doing so.
    NotGlobal,
    Global(Scope),
}

/// An annotation whose value means nothing, so that the default was taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("annotation {annotation} has the value {value:?}; write {allowed}; until then {default:?} is used")]
pub struct AnnotationProblem {
    /// The full name, as written: ours or the alias.
    pub annotation: String,
    /// At most 80 characters of the value.
    pub value: String,
    pub allowed: &'static str,
    /// The value that was used instead.
    pub default: &'static str,
}

const BOOLEANS: &str = "\"true\" or \"false\"";
const AFFINITIES: &str = "\"none\", \"local\" or \"remote\"";

/// Reads the annotations of a Service given as a map.
pub fn parse_map(annotations: &BTreeMap<String, String>) -> (Annotated, Vec<AnnotationProblem>) {
    parse(annotations.iter().map(|(name, value)| (name.as_str(), value.as_str())))
}

/// Reads the annotations of a Service. Values are compared without regard to ASCII case, as Cilium does.
///
/// `shared` and `affinity` mean nothing on a Service that is not global, so they are not looked at there.
pub fn parse<'a>(
    annotations: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> (Annotated, Vec<AnnotationProblem>) {
    let mut found = Found::default();
    for (name, value) in annotations {
        found.note(name, value);
    }
    let mut problems = Vec::new();
    let global = found.global.boolean("global", false, &mut problems);
    if !global {
        return (Annotated::NotGlobal, problems);
    }
    let scope = Scope {
        shared: found.shared.boolean("shared", true, &mut problems),
        affinity: found.affinity.affinity(&mut problems),
    };
    (Annotated::Global(scope), problems)
}

#[derive(Default)]
struct Found<'a> {
    global: Written<'a>,
    shared: Written<'a>,
    affinity: Written<'a>,
}

impl<'a> Found<'a> {
    fn note(&mut self, name: &str, value: &'a str) {
        let (ours, short) = match (name.strip_prefix(PREFIX), name.strip_prefix(ALIAS_PREFIX)) {
            (Some(short), _) => (true, short),
            (None, Some(short)) => (false, short),
            (None, None) => return,
        };
        let written = match short {
            "global" => &mut self.global,
            "shared" => &mut self.shared,
            "affinity" => &mut self.affinity,
            _ => return,
        };
        if ours {
            written.ours = Some(value);
        } else {
            written.alias = Some(value);
        }
    }
}

/// The values of one annotation under its two names.
#[derive(Clone, Copy, Default)]
struct Written<'a> {
    ours: Option<&'a str>,
    alias: Option<&'a str>,
}

impl<'a> Written<'a> {
    fn effective(self) -> Option<(&'static str, &'a str)> {
        self.ours.map(|value| (PREFIX, value)).or(self.alias.map(|value| (ALIAS_PREFIX, value)))
    }

    fn boolean(self, short: &str, default: bool, problems: &mut Vec<AnnotationProblem>) -> bool {
        let Some((prefix, value)) = self.effective() else { return default };
        if value.eq_ignore_ascii_case("true") {
            return true;
        }
        if value.eq_ignore_ascii_case("false") {
            return false;
        }
        let default_text = if default { "true" } else { "false" };
        problems.push(problem(prefix, short, value, BOOLEANS, default_text));
        default
    }

    fn affinity(self, problems: &mut Vec<AnnotationProblem>) -> Affinity {
        let Some((prefix, value)) = self.effective() else { return Affinity::None };
        match value.to_ascii_lowercase().as_str() {
            "none" => Affinity::None,
            "local" => Affinity::Local,
            "remote" => Affinity::Remote,
            _ => {
                problems.push(problem(prefix, "affinity", value, AFFINITIES, "none"));
                Affinity::None
            }
        }
    }
}

fn problem(
    prefix: &str,
    short: &str,
    value: &str,
    allowed: &'static str,
    default: &'static str,
) -> AnnotationProblem {
    AnnotationProblem {
        annotation: format!("{prefix}{short}"),
        value: value.chars().take(80).collect(),
        allowed,
        default,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Scope = Scope { shared: true, affinity: Affinity::None };

    #[test]
    fn no_annotation_is_not_global() {
        assert_eq!(parse([]), (Annotated::NotGlobal, vec![]));
        assert_eq!(parse([("clustermesh.io/shared", "true")]), (Annotated::NotGlobal, vec![]));
        assert_eq!(parse([("clustermesh.io/global", "false")]), (Annotated::NotGlobal, vec![]));
    }

    #[test]
    fn a_global_service_is_shared_and_without_affinity_by_default() {
        assert_eq!(parse([("clustermesh.io/global", "true")]), (Annotated::Global(PLAIN), vec![]));
    }

    #[test]
    fn cilium_annotations_mean_the_same() {
        let read = parse([
            ("service.cilium.io/global", "True"),
            ("service.cilium.io/shared", "false"),
            ("service.cilium.io/affinity", "remote"),
        ]);
        let scope = Scope { shared: false, affinity: Affinity::Remote };
        assert_eq!(read, (Annotated::Global(scope), vec![]));
    }

    #[test]
    fn our_annotation_wins_over_the_alias_in_any_order() {
        let ours = ("clustermesh.io/global", "false");
        let alias = ("service.cilium.io/global", "true");
        assert_eq!(parse([ours, alias]).0, Annotated::NotGlobal);
        assert_eq!(parse([alias, ours]).0, Annotated::NotGlobal);
    }

    #[test]
    fn our_invalid_value_wins_over_a_valid_alias_and_means_the_default() {
        let (annotated, problems) =
            parse([("clustermesh.io/global", "yes"), ("service.cilium.io/global", "true")]);
        assert_eq!(annotated, Annotated::NotGlobal);
        assert_eq!(problems.len(), 1);
    }

    #[test]
    fn an_invalid_value_names_annotation_value_remedy_and_default() {
        let (annotated, problems) = parse([
            ("clustermesh.io/global", "true"),
            ("clustermesh.io/shared", "nope"),
            ("service.cilium.io/affinity", "nearest"),
        ]);
        assert_eq!(annotated, Annotated::Global(PLAIN));
        let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "annotation clustermesh.io/shared has the value \"nope\"; write \"true\" or \"false\"; until then \
                 \"true\" is used",
                "annotation service.cilium.io/affinity has the value \"nearest\"; write \"none\", \"local\" or \
                 \"remote\"; until then \"none\" is used",
            ]
        );
    }
}
