//! The annotations that make a Service global.

use serde::{Deserialize, Serialize};

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
