//! `node-agent features`: shows what this kernel offers, and whether the agent can run.

use serde::Serialize;

use crate::datapath::kernel::{self, Feature};

/// The findings.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether the agent can run here.
    pub fit: bool,
    pub items: Vec<Feature>,
}

/// Probes the kernel.
pub fn probe() -> Report {
    let items = kernel::features();
    Report { fit: items.iter().all(|feature| feature.present || !feature.required), items }
}

impl Report {
    /// A line for each feature, and the verdict.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for Feature { name, required, present, what, missing } in &self.items {
            let state = if *present { "ok" } else { "missing" };
            let needed = if *required { "required" } else { "optional" };
            text += &format!("{state:<8} {name:<21} {needed}  {what}\n");
            if let Some(missing) = missing {
                text += &format!("{:<8} {missing}\n", "");
            }
        }
        text += if self.fit { "The agent can run here.\n" } else { "The agent can't run here.\n" };
        text
    }
}
