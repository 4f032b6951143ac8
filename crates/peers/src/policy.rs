//! Which addresses a peer may announce, as its file has it.

use ipnet::IpNet;
use mesh_model::address_policy::{PeerRanges, Ranges};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::file::{Problem, required, typed};

const FIELD: &str = "ranges";
const EXAMPLE: &str = "ranges: {pods: [10.2.0.0/16], nodes: [192.168.2.0/24]}";

/// Both lists, so that a misspelt one is found.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawRanges {
    pods: Vec<IpNet>,
    nodes: Vec<IpNet>,
}

/// Takes the ranges out of a peer file's fields.
pub(crate) fn ranges(fields: &mut Map<String, Value>) -> Result<PeerRanges, Problem> {
    let refused = |reason: String| Problem::Field { field: FIELD, reason };
    let value: Value = required(fields, FIELD, EXAMPLE)?;
    if let Value::String(word) = &value {
        return match word.as_str() {
            "declared" => Ok(PeerRanges::DECLARED),
            _ => Err(refused(format!("{word:?} is no range; write `{EXAMPLE}`"))),
        };
    }
    let RawRanges { pods, nodes } = typed(FIELD, value)?;
    if pods.is_empty() && nodes.is_empty() {
        return Err(refused(format!("no range is listed; write `{EXAMPLE}`")));
    }
    if let Some(range) = pods.iter().chain(&nodes).find(|range| range.trunc() != **range) {
        return Err(refused(format!("{range} has bits set behind its prefix; write {}", range.trunc())));
    }
    Ok(PeerRanges::Agreed(Ranges { pods, nodes }))
}
