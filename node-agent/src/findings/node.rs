//! Causes on this node that keep it from balancing, for whoever runs the node. Pure.

use mesh_model::name::NodeName;
use mesh_runtime::Missing;
use mesh_source::kubernetes::{Notice, Subject};

/// The conditions of readiness that depend on the node.
pub const CANARY: &str = "canary";
pub const HOOKS: &str = "hooks";
pub(crate) const WRITES: &str = "writes";

pub(super) fn notices(node: &NodeName, missing: &[Missing]) -> Vec<Notice> {
    let notice = |missing: &Missing| {
        Some(Notice {
            subject: Subject::Node(node.clone()),
            reason: reason(missing.condition)?.into(),
            key: String::new(),
            action: "Balance",
            warning: true,
            message: format!(
                "clustermesh's node-agent is not ready ({}): {}",
                missing.condition, missing.reason
            ),
        })
    };
    missing.iter().filter_map(notice).collect()
}

/// None where the cause is elsewhere, such as an API server that is away.
fn reason(condition: &str) -> Option<&'static str> {
    match condition {
        CANARY => Some("PodsNotServed"),
        HOOKS => Some("FrontendsTaken"),
        WRITES => Some("MapsNotWritten"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_node_is_not_to_blame_for_is_not_told_of_it() {
        let missing = |condition| Missing { condition, reason: "program 17 takes frontends".into() };
        let all = [missing("plan"), missing(HOOKS), missing("source")];
        let [notice] = &notices(&NodeName::new("hoth-1").unwrap(), &all)[..] else { panic!("one") };
        assert_eq!(notice.reason, "FrontendsTaken");
        assert!(notice.message.ends_with("(hooks): program 17 takes frontends"), "{}", notice.message);
    }
}
