//! The annotations that make a Service global.
//!
//! Owns their names, their values and what an invalid value means: the default, and a problem says so. Only where the value
//! restricts who sees the Service, the default would be its opposite, so there the Service is refused as it is.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::audience::{Audience, AudienceError};

/// Prefix of this project's annotations; wins where both stand.
pub const PREFIX: &str = "clustermesh.io/";
/// Cilium's prefix, accepted with the same meaning, so that manifests move over unchanged.
pub const ALIAS_PREFIX: &str = "service.cilium.io/";

/// What the annotations of a global Service say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// Whether this cluster's backends are exported.
    pub shared: bool,
    pub affinity: Affinity,
    /// To whom, where they are.
    #[serde(default, skip_serializing_if = "Audience::is_everybody")]
    pub audience: Audience,
}

impl Scope {
    /// What a Service has that says no more than that it is global.
    pub const GLOBAL: Self = Self { shared: true, affinity: Affinity::None, audience: Audience::Everybody };
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Annotated {
    /// Never touched: whatever serves it keeps doing so.
    NotGlobal,
    Global(Scope),
    /// It is meant for some clusters, and there is no telling for which.
    Refused(AudienceProblem),
}

/// An audience that can't be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "annotation {annotation} has the value {value:?}: {error}; write names of clusters with commas between, or remove it for \
     all clusters; until then the Service stays as it was for those who see it, and nobody else sees it"
)]
pub struct AudienceProblem {
    /// The full name, as written: ours or the alias.
    pub annotation: String,
    /// At most 80 characters of the value.
    pub value: String,
    pub error: AudienceError,
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
/// `shared` and `affinity` mean nothing on a Service that is not global, so they are not looked at there, nor is `export-to`
/// on one that is not shared.
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
    let shared = found.shared.boolean("shared", true, &mut problems);
    let affinity = found.affinity.affinity(&mut problems);
    let annotated = match if shared { found.export_to.audience() } else { Ok(Audience::Everybody) } {
        Ok(audience) => Annotated::Global(Scope { shared, affinity, audience }),
        Err(problem) => Annotated::Refused(problem),
    };
    (annotated, problems)
}

#[derive(Default)]
struct Found<'a> {
    global: Written<'a>,
    shared: Written<'a>,
    affinity: Written<'a>,
    export_to: Written<'a>,
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
            "export-to" => &mut self.export_to,
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

    fn audience(self) -> Result<Audience, AudienceProblem> {
        let Some((prefix, value)) = self.effective() else { return Ok(Audience::Everybody) };
        Audience::parse(value).map_err(|error| AudienceProblem {
            annotation: format!("{prefix}export-to"),
            value: shortened(value),
            error,
        })
    }
}

fn shortened(value: &str) -> String {
    value.chars().take(80).collect()
}

fn problem(
    prefix: &str,
    short: &str,
    value: &str,
    allowed: &'static str,
    default: &'static str,
) -> AnnotationProblem {
    AnnotationProblem { annotation: format!("{prefix}{short}"), value: shortened(value), allowed, default }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Scope = Scope::GLOBAL;

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
        let scope = Scope { shared: false, affinity: Affinity::Remote, ..PLAIN };
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

    #[test]
    fn a_service_is_for_the_clusters_that_it_names() {
        let global = ("clustermesh.io/global", "true");
        let read = |name, value| parse([global, (name, value)]);
        for name in ["clustermesh.io/export-to", "service.cilium.io/export-to"] {
            let audience = Audience::parse("yavin,endor").unwrap();
            let scope = Scope { audience, ..PLAIN };
            assert_eq!(read(name, "endor, yavin"), (Annotated::Global(scope), vec![]));
        }
        assert_eq!(parse([("clustermesh.io/export-to", "yavin")]), (Annotated::NotGlobal, vec![]));
    }

    #[test]
    fn a_list_of_clusters_that_is_none_refuses_what_it_would_restrict() {
        let annotations = [("clustermesh.io/global", "true"), ("clustermesh.io/export-to", "Yavin")];
        let (Annotated::Refused(problem), problems) = parse(annotations) else { panic!() };
        assert_eq!(problems, []);
        let text = problem.to_string();
        assert!(
            text.starts_with("annotation clustermesh.io/export-to has the value \"Yavin\": ")
                && text.ends_with(
                    "; write names of clusters with commas between, or remove it for all clusters; until then the Service \
                     stays as it was for those who see it, and nobody else sees it"
                ),
            "{text}"
        );
        // Of what is not shared nobody sees anything.
        let hidden = [annotations[0], annotations[1], ("clustermesh.io/shared", "false")];
        assert_eq!(parse(hidden), (Annotated::Global(Scope { shared: false, ..PLAIN }), vec![]));
    }
}
