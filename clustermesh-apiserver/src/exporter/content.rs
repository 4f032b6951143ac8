//! Which operations bring etcd from what stands to what a snapshot says. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_model::export::{
    Entries, Identity, ServiceOps, Subject, diff, diff_service, export, export_service,
};
use mesh_model::name::{NodeName, ServiceName};
use mesh_model::record::{self, RecordKey};
use mesh_model::snapshot::{ClusterSnapshot, Node, Service};
use mesh_model::table::Knowledge;

use imbl::ordmap::DiffItem;

/// Remembers which snapshot etcd shows, so that the next one costs by what changed.
pub(super) struct Content<'a> {
    identity: &'a Identity,
    /// None until everything was written once on this connection.
    shown: Option<Arc<ClusterSnapshot>>,
    /// Whether nothing is left over below the own name. Not before the source knew everything.
    pruned: bool,
}

impl<'a> Content<'a> {
    pub(super) fn new(identity: &'a Identity) -> Self {
        Self { identity, shown: None, pruned: false }
    }

    /// Whether nothing is to be done for this snapshot.
    pub(super) fn shows(&self, snapshot: &Arc<ClusterSnapshot>, knowledge: Knowledge) -> bool {
        let same = self.shown.as_ref().is_some_and(|shown| Arc::ptr_eq(shown, snapshot));
        same && (self.pruned || knowledge == Knowledge::Partial)
    }

    /// Call it once all operations for the snapshot are applied.
    pub(super) fn applied(&mut self, snapshot: Arc<ClusterSnapshot>, knowledge: Knowledge) {
        self.shown = Some(snapshot);
        self.pruned |= knowledge == Knowledge::Complete;
    }

    /// Whether a snapshot makes a record of this key.
    pub(super) fn wants(&self, snapshot: &ClusterSnapshot, key: &str) -> bool {
        match key.parse() {
            Ok(RecordKey::Service(_, name) | RecordKey::Slice(_, name, _)) => {
                let service = snapshot.services.get(&name);
                let entries = service.map(|service| export_service(self.identity, &name, service, 0));
                entries.is_some_and(|entries| entries.iter().any(|(wanted, _)| wanted == key))
            }
            Ok(RecordKey::Node(_, name)) => snapshot.nodes.contains_key(&name),
            _ => false,
        }
    }

    /// What is left to be done. On partial knowledge only what was shown before is deleted; the first time that
    /// the knowledge is complete, everything that is left over below the own name is.
    pub(super) fn ops(
        &self,
        snapshot: &ClusterSnapshot,
        knowledge: Knowledge,
        actual: &Entries,
        now_unix_us: u64,
    ) -> Vec<ServiceOps> {
        match &self.shown {
            Some(shown) if self.pruned || knowledge == Knowledge::Partial => {
                let mut ops = self.changes(shown, snapshot, actual, now_unix_us);
                if !self.pruned {
                    self.keep_unknown(shown, &mut ops);
                }
                ops
            }
            _ => {
                let wanted = export(self.identity, snapshot, now_unix_us);
                let mut ops = diff(&self.identity.name, actual, &wanted);
                if knowledge == Knowledge::Partial {
                    ops.iter_mut().for_each(|ops| ops.deletes.clear());
                }
                ops.retain(|ops| !ops.puts.is_empty() || !ops.deletes.is_empty());
                ops
            }
        }
    }

    fn changes(
        &self,
        shown: &ClusterSnapshot,
        snapshot: &ClusterSnapshot,
        actual: &Entries,
        now_unix_us: u64,
    ) -> Vec<ServiceOps> {
        let services = shown.services.diff(&snapshot.services).filter_map(|item| match item {
            DiffItem::Add(name, service) | DiffItem::Update { new: (name, service), .. } => {
                self.service_ops(name, Some(service), actual, now_unix_us)
            }
            DiffItem::Remove(name, _) => self.service_ops(name, None, actual, now_unix_us),
        });
        let nodes = shown.nodes.diff(&snapshot.nodes).filter_map(|item| match item {
            DiffItem::Add(name, node) | DiffItem::Update { new: (name, node), .. } => {
                self.node_ops(name, Some(node), actual)
            }
            DiffItem::Remove(name, _) => self.node_ops(name, None, actual),
        });
        services.chain(nodes).collect()
    }

    /// Takes back the deletion of what the shown snapshot did not hold: the source may just not have read it yet.
    fn keep_unknown(&self, shown: &ClusterSnapshot, all: &mut Vec<ServiceOps>) {
        for ops in all.iter_mut().filter(|ops| !ops.deletes.is_empty()) {
            let known: BTreeSet<String> = match &ops.subject {
                Subject::Service(name) => {
                    let service = shown.services.get(name);
                    let entries = service.map(|service| export_service(self.identity, name, service, 0));
                    entries.unwrap_or_default().into_iter().map(|(key, _)| key).collect()
                }
                // A node is deleted only where the shown snapshot held it.
                Subject::Node(_) => continue,
                Subject::Unknown(_) => BTreeSet::new(),
            };
            ops.deletes.retain(|key| known.contains(key));
        }
        all.retain(|ops| !ops.puts.is_empty() || !ops.deletes.is_empty());
    }

    fn service_ops(
        &self,
        name: &ServiceName,
        service: Option<&Arc<Service>>,
        actual: &Entries,
        now_unix_us: u64,
    ) -> Option<ServiceOps> {
        let wanted = service.map(|service| export_service(self.identity, name, service, now_unix_us));
        diff_service(&self.identity.name, name, actual, &wanted.unwrap_or_default())
    }

    fn node_ops(&self, name: &NodeName, node: Option<&Arc<Node>>, actual: &Entries) -> Option<ServiceOps> {
        let key = RecordKey::Node(self.identity.name.clone(), name.clone()).to_string();
        let mut ops =
            ServiceOps { subject: Subject::Node(name.clone()), puts: Vec::new(), deletes: Vec::new() };
        match node.map(|node| record::node_entry(&self.identity.name, name, node)) {
            Some((key, value)) if actual.get(&key) != Some(&value) => ops.puts.push((key, value)),
            None if actual.contains_key(&key) => ops.deletes.push(key),
            Some(_) | None => return None,
        }
        Some(ops)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mesh_model::annotation::{Affinity, Scope};
    use mesh_model::fence::OwnRanges;
    use mesh_model::name::{ClusterId, ClusterName, SliceName};
    use mesh_model::snapshot::{Condition, Endpoint, Slice};

    use super::*;

    fn identity() -> Identity {
        Identity {
            name: ClusterName::new("hoth").unwrap(),
            id: ClusterId::new(2).unwrap(),
            ranges: OwnRanges::default(),
        }
    }

    fn service(slices: &[(&str, u8)]) -> Arc<Service> {
        let endpoint = |last: u8| Endpoint {
            address: [10, 2, 0, last].into(),
            condition: Condition { ready: true, serving: true, terminating: false },
            node: None,
            zone: None,
            hostname: None,
            hinted_away: false,
        };
        let slice = |(name, last): &(&str, u8)| {
            let slice = Slice { ports: Vec::new(), endpoints: vec![endpoint(*last)] };
            (SliceName::new(name).unwrap(), Arc::new(slice))
        };
        Arc::new(Service {
            scope: Scope { shared: true, affinity: Affinity::None },
            cluster_ips: vec![[10, 102, 0, 1].into()],
            ports: Vec::new(),
            session_affinity_seconds: None,
            node_local: false,
            created_at: None,
            slices: slices.iter().map(slice).collect::<BTreeMap<_, _>>(),
        })
    }

    fn snapshot(services: &[(&str, &[(&str, u8)])], nodes: &[&str]) -> Arc<ClusterSnapshot> {
        Arc::new(ClusterSnapshot {
            services: services
                .iter()
                .map(|(name, slices)| (name.parse().unwrap(), service(slices)))
                .collect(),
            nodes: nodes.iter().map(|name| (NodeName::new(name).unwrap(), Arc::default())).collect(),
        })
    }

    fn apply(actual: &mut Entries, all: Vec<ServiceOps>) {
        for ops in all {
            actual.extend(ops.puts);
            actual.retain(|key, _| !ops.deletes.contains(key));
        }
    }

    #[test]
    fn step_by_step_leads_to_what_a_full_export_gives() {
        let identity = identity();
        let mut content = Content::new(&identity);
        let mut actual = Entries::from([("clustermesh/v1/services/hoth/ns/leftover".into(), b"{}".to_vec())]);
        for next in [
            snapshot(&[("ns/a", &[("a-1", 1)]), ("ns/b", &[("b-1", 2)])], &["n1"]),
            snapshot(&[("ns/a", &[("a-1", 3), ("a-2", 4)]), ("ns/b", &[("b-1", 2)])], &["n1", "n2"]),
            snapshot(&[("ns/b", &[]), ("ns/c", &[("c-1", 5)])], &["n2"]),
            snapshot(&[], &[]),
        ] {
            assert!(!content.shows(&next, Knowledge::Complete));
            let ops = content.ops(&next, Knowledge::Complete, &actual, 7);
            apply(&mut actual, ops);
            content.applied(Arc::clone(&next), Knowledge::Complete);
            assert!(content.shows(&next, Knowledge::Complete));
            assert_eq!(actual, export(&identity, &next, 7));
        }
    }

    #[test]
    fn only_the_changed_slice_is_written() {
        let identity = identity();
        let mut content = Content::new(&identity);
        let mut actual = Entries::new();
        let first = snapshot(&[("ns/a", &[("a-1", 1), ("a-2", 2)]), ("ns/b", &[("b-1", 3)])], &["n1"]);
        let ops = content.ops(&first, Knowledge::Complete, &actual, 1);
        apply(&mut actual, ops);
        content.applied(first, Knowledge::Complete);
        let second = snapshot(&[("ns/a", &[("a-1", 1), ("a-2", 9)]), ("ns/b", &[("b-1", 3)])], &["n1"]);
        let ops = content.ops(&second, Knowledge::Complete, &actual, 2);
        let puts: Vec<&str> = ops.iter().flat_map(|ops| &ops.puts).map(|(key, _)| key.as_str()).collect();
        assert_eq!(puts, ["clustermesh/v1/endpoints/hoth/ns/a/a-2"]);
        assert!(ops.iter().all(|ops| ops.deletes.is_empty()));
    }

    #[test]
    fn on_partial_knowledge_only_what_was_shown_is_deleted() {
        let identity = identity();
        let mut content = Content::new(&identity);
        let leftover = snapshot(&[("ns/a", &[("a-old", 7)]), ("ns/old", &[("old-1", 8)])], &["old"]);
        let mut actual = export(&identity, &leftover, 1);
        let first = snapshot(&[("ns/a", &[("a-1", 1), ("a-2", 2)]), ("ns/b", &[("b-1", 3)])], &["n1"]);
        let ops = content.ops(&first, Knowledge::Partial, &actual, 2);
        apply(&mut actual, ops);
        content.applied(first, Knowledge::Partial);
        let second = snapshot(&[("ns/a", &[("a-1", 1)])], &[]);
        let ops = content.ops(&second, Knowledge::Partial, &actual, 3);
        apply(&mut actual, ops);
        content.applied(Arc::clone(&second), Knowledge::Partial);
        let keys: Vec<&str> = actual.keys().map(|key| key.strip_prefix("clustermesh/v1/").unwrap()).collect();
        let expected = [
            "endpoints/hoth/ns/a/a-1",
            "endpoints/hoth/ns/a/a-old",
            "endpoints/hoth/ns/old/old-1",
            "nodes/hoth/old",
            "services/hoth/ns/a",
            "services/hoth/ns/old",
        ];
        assert_eq!(keys, expected);

        assert!(content.shows(&second, Knowledge::Partial) && !content.shows(&second, Knowledge::Complete));
        let ops = content.ops(&second, Knowledge::Complete, &actual, 4);
        apply(&mut actual, ops);
        content.applied(Arc::clone(&second), Knowledge::Complete);
        assert!(content.shows(&second, Knowledge::Complete));
        let stamps = |entries: Entries| entries.into_keys().collect::<Vec<_>>();
        assert_eq!(stamps(actual), stamps(export(&identity, &second, 4)));
    }
}
