//! The resources of a lab's processes: map elements, pins, namespaces, open files. One that grows over failures leaks.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};

use crate::lab::Lab;
use crate::lab::component::Component;
use crate::lab::node::Node;

/// How many more files a process may have open than at first: connections come and go.
const MORE_FILES: usize = 32;

/// Counts by what is counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Resources of which the same desired state always takes as much.
    exact: BTreeMap<String, usize>,
    /// A group that shrank keeps its room, up to twice what it needs.
    slots: BTreeMap<String, usize>,
    files: BTreeMap<String, usize>,
}

impl Holdings {
    pub fn of(lab: &mut Lab) -> Result<Self> {
        let mut holdings = Self::default();
        holdings.exact.insert("namespaces".into(), namespaces(lab.lab_dir().id())?);
        for cluster in lab.clusters_mut() {
            for node in cluster.nodes() {
                holdings.exact.insert(format!("pins of {}", node.describe()), node.pins()?.len());
                let (slots, others) =
                    used_elements(node)?.into_iter().partition(|(name, _)| name.contains("slots"));
                holdings.slots.extend::<BTreeMap<_, _>>(slots);
                holdings.exact.extend::<BTreeMap<_, _>>(others);
            }
            for apiserver in cluster.apiservers() {
                holdings.note_files(apiserver)?;
            }
            for agent in cluster.agents() {
                holdings.note_files(agent)?;
            }
            holdings.note_files(cluster.etcd())?;
        }
        Ok(holdings)
    }

    fn note_files(&mut self, component: &Component) -> Result<()> {
        self.files.insert(component.name().to_owned(), component.open_files()?);
        Ok(())
    }

    /// Fails where there is more than there was.
    pub fn ensure_like(&self, before: &Self) -> Result<()> {
        ensure!(self.exact == before.exact, "held {:?}, holds {:?}", before.exact, self.exact);
        for (name, count) in &self.slots {
            let at_first = before.slots.get(name).copied().unwrap_or_default();
            ensure!(*count <= at_first * 2, "{name}: used {at_first}, uses {count}");
        }
        for (name, count) in &self.files {
            let at_first = before.files.get(name).copied().unwrap_or_default();
            ensure!(*count <= at_first + MORE_FILES, "{name} had {at_first} files open, has {count}");
        }
        Ok(())
    }
}

fn namespaces(id: &str) -> Result<usize> {
    let prefix = format!("{id}.");
    let all = fs::read_dir("/run/netns").context("reading /run/netns")?;
    let names = all.filter_map(Result::ok).map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names.filter(|name| name.starts_with(&prefix)).count())
}

fn used_elements(node: &Node) -> Result<BTreeMap<String, usize>> {
    let metrics = node.admin_port("/metrics")?;
    let lines = metrics.lines().filter_map(|line| line.strip_prefix("clustermesh_map_used_elements"));
    let used: BTreeMap<_, _> = lines
        .map(|line| {
            let (map, count) = line.split_once(' ').context("a metric without a value")?;
            Ok((format!("{map} of {}", node.describe()), count.parse().context("a count")?))
        })
        .collect::<Result<_>>()?;
    ensure!(used.len() == 3, "the agent tells of no maps: {used:?}");
    Ok(used)
}
