//! Which operations bring etcd from what stands to what a snapshot says. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_model::audience::Audience;
use mesh_model::export::{
    Entries, Identity, ServiceOps, Subject, diff, diff_service, export, export_service, export_slices,
    is_part_of, readdressed,
};
use mesh_model::name::{NodeName, ServiceName, SliceName};
use mesh_model::record::{self, RecordKey};
use mesh_model::snapshot::{ClusterSnapshot, Node};
use mesh_model::table::Knowledge;

use imbl::ordmap::DiffItem;

/// What is known with a snapshot. A source may have said that it knows everything just before or after this snapshot,
/// which says itself that there may be anything.
pub(super) fn knowledge(said: Knowledge, snapshot: &ClusterSnapshot) -> Knowledge {
    if snapshot.unread.anything { Knowledge::Partial } else { said }
}

/// Remembers which snapshot etcd shows, so that the next one costs by what changed.
pub(super) struct ExportState<'a> {
    identity: &'a Identity,
    /// None until everything was written once on this connection.
    shown: Option<Arc<ClusterSnapshot>>,
    /// Whether nothing is left over below the own name. Not while the source does not know everything.
    pruned: bool,
}

impl<'a> ExportState<'a> {
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
        self.pruned = knowledge == Knowledge::Complete;
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

    /// What is left to be done. On partial knowledge only what was shown before is deleted; once the knowledge
    /// is complete, everything that is left over below the own name is. What the source holds and cannot
    /// read stays as it stands.
    pub(super) fn ops(
        &self,
        snapshot: &ClusterSnapshot,
        knowledge: Knowledge,
        actual: &Entries,
        now_unix_us: u64,
    ) -> Vec<ServiceOps> {
        let shown = self.shown.as_deref();
        let prunes = !self.pruned && knowledge == Knowledge::Complete;
        let step = shown.filter(|shown| !prunes && shown.unread == snapshot.unread);
        let mut ops = match step {
            Some(shown) => self.changes(shown, snapshot, actual, now_unix_us),
            None => diff(&self.identity.name, actual, &self.wanted(snapshot, actual, now_unix_us)),
        };
        if knowledge == Knowledge::Partial {
            self.keep_unknown(shown, &mut ops);
        }
        keep_unread(snapshot, &mut ops);
        self.readdress(snapshot, actual, &mut ops);
        ops.retain(|ops| !ops.puts.is_empty() || !ops.deletes.is_empty());
        ops
    }

    /// All records that shall stand.
    fn wanted(&self, snapshot: &ClusterSnapshot, actual: &Entries, now_unix_us: u64) -> Entries {
        let mut wanted = export(self.identity, snapshot, now_unix_us);
        for name in snapshot.unread.services.keys() {
            wanted.extend(self.wanted_of(name, snapshot, actual, now_unix_us));
        }
        wanted
    }

    /// The records of a Service that shall stand. Where it can't be read, its own record stays if there is one, and
    /// those of its slices follow what can be read.
    fn wanted_of(
        &self,
        name: &ServiceName,
        snapshot: &ClusterSnapshot,
        actual: &Entries,
        now_unix_us: u64,
    ) -> Vec<(String, Vec<u8>)> {
        if let Some(service) = snapshot.services.get(name) {
            return export_service(self.identity, name, service, now_unix_us);
        }
        let key = RecordKey::Service(self.identity.name.clone(), name.clone()).to_string();
        let (Some(slices), Some(stands)) = (snapshot.unread.services.get(name), actual.get(&key)) else {
            return Vec::new();
        };
        let slices = (slices, &Audience::of_record(stands));
        let mut entries = export_slices(self.identity, name, slices, now_unix_us);
        entries.push((key, stands.clone()));
        entries
    }

    fn changes(
        &self,
        shown: &ClusterSnapshot,
        snapshot: &ClusterSnapshot,
        actual: &Entries,
        now_unix_us: u64,
    ) -> Vec<ServiceOps> {
        let services = shown.services.diff(&snapshot.services).filter_map(|item| {
            let (DiffItem::Add(name, _)
            | DiffItem::Remove(name, _)
            | DiffItem::Update { new: (name, _), .. }) = item;
            let wanted = self.wanted_of(name, snapshot, actual, now_unix_us);
            diff_service(&self.identity.name, name, actual, &wanted)
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
    fn keep_unknown(&self, shown: Option<&ClusterSnapshot>, all: &mut [ServiceOps]) {
        for ops in all.iter_mut().filter(|ops| !ops.deletes.is_empty()) {
            let known: BTreeSet<String> = match &ops.subject {
                Subject::Service(name) => {
                    let service = shown.and_then(|shown| shown.services.get(name));
                    let entries = service.map(|service| export_service(self.identity, name, service, 0));
                    entries.unwrap_or_default().into_iter().map(|(key, _)| key).collect()
                }
                Subject::Node(name) if shown.is_some_and(|shown| shown.nodes.contains_key(name)) => continue,
                Subject::Node(_) | Subject::Unknown(_) => BTreeSet::new(),
            };
            ops.deletes.retain(|key| known.contains(key));
        }
    }

    /// Slices of which nothing new is known stay, but for nobody whom their Service is not for.
    fn readdress(&self, snapshot: &ClusterSnapshot, actual: &Entries, all: &mut [ServiceOps]) {
        for ops in all {
            let Subject::Service(name) = &ops.subject else { continue };
            let Some(service) = snapshot.services.get(name).filter(|service| service.scope.shared) else {
                continue;
            };
            let audience = &service.scope.audience;
            let written: BTreeSet<&String> =
                ops.puts.iter().map(|(key, _)| key).chain(&ops.deletes).collect();
            let mut stay = readdressed(&self.identity.name, name, actual, audience);
            stay.retain(|(key, _)| !written.contains(key));
            ops.puts.extend(stay);
        }
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

/// Takes back the deletion of what the source holds and cannot read.
fn keep_unread(snapshot: &ClusterSnapshot, all: &mut [ServiceOps]) {
    let unread = &snapshot.unread;
    if unread.is_empty() {
        return;
    }
    let shares = |name: &ServiceName| match snapshot.services.get(name) {
        Some(service) => service.scope.shared,
        None => unread.services.contains_key(name),
    };
    let is_unread = |key: &String| match key.parse() {
        Ok(RecordKey::Slice(_, service, record)) => {
            let is_slice = |(namespace, slice): &(String, SliceName)| {
                namespace == service.namespace() && is_part_of(&record, slice)
            };
            shares(&service) && unread.slices.iter().any(is_slice)
        }
        Ok(RecordKey::Node(_, name)) => unread.nodes.contains(&name),
        _ => false,
    };
    for ops in all.iter_mut() {
        ops.deletes.retain(|key| !is_unread(key));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mesh_model::snapshot::{Service, Unread};

    use super::super::testing::{self, endpoint};
    use super::*;

    fn identity() -> Identity {
        testing::identity("hoth", 2)
    }

    /// With one endpoint in each slice.
    fn service(slices: &[(&str, u8)]) -> Arc<Service> {
        testing::service(slices.iter().map(|(name, last)| (*name, vec![endpoint([10, 2, 0, *last])])))
    }

    fn snapshot(services: &[(&str, &[(&str, u8)])], nodes: &[&str]) -> Arc<ClusterSnapshot> {
        Arc::new(ClusterSnapshot {
            services: services
                .iter()
                .map(|(name, slices)| (name.parse().unwrap(), service(slices)))
                .collect(),
            nodes: nodes.iter().map(|name| (NodeName::new(name).unwrap(), Arc::default())).collect(),
            unread: Unread::default(),
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
        let mut state = ExportState::new(&identity);
        let mut actual = Entries::from([("clustermesh/v1/services/hoth/ns/leftover".into(), b"{}".to_vec())]);
        for next in [
            snapshot(&[("ns/a", &[("a-1", 1)]), ("ns/b", &[("b-1", 2)])], &["n1"]),
            snapshot(&[("ns/a", &[("a-1", 3), ("a-2", 4)]), ("ns/b", &[("b-1", 2)])], &["n1", "n2"]),
            snapshot(&[("ns/b", &[]), ("ns/c", &[("c-1", 5)])], &["n2"]),
            snapshot(&[], &[]),
        ] {
            assert!(!state.shows(&next, Knowledge::Complete));
            let ops = state.ops(&next, Knowledge::Complete, &actual, 7);
            apply(&mut actual, ops);
            state.applied(Arc::clone(&next), Knowledge::Complete);
            assert!(state.shows(&next, Knowledge::Complete));
            assert_eq!(actual, export(&identity, &next, 7));
        }
    }

    #[test]
    fn only_the_changed_slice_is_written() {
        let identity = identity();
        let mut state = ExportState::new(&identity);
        let mut actual = Entries::new();
        let first = snapshot(&[("ns/a", &[("a-1", 1), ("a-2", 2)]), ("ns/b", &[("b-1", 3)])], &["n1"]);
        let ops = state.ops(&first, Knowledge::Complete, &actual, 1);
        apply(&mut actual, ops);
        state.applied(first, Knowledge::Complete);
        let second = snapshot(&[("ns/a", &[("a-1", 1), ("a-2", 9)]), ("ns/b", &[("b-1", 3)])], &["n1"]);
        let ops = state.ops(&second, Knowledge::Complete, &actual, 2);
        let puts: Vec<&str> = ops.iter().flat_map(|ops| &ops.puts).map(|(key, _)| key.as_str()).collect();
        assert_eq!(puts, ["clustermesh/v1/endpoints/hoth/ns/a/a-2"]);
        assert!(ops.iter().all(|ops| ops.deletes.is_empty()));
    }

    #[test]
    fn on_partial_knowledge_only_what_was_shown_is_deleted() {
        let identity = identity();
        let mut state = ExportState::new(&identity);
        let leftover = snapshot(&[("ns/a", &[("a-old", 7)]), ("ns/old", &[("old-1", 8)])], &["old"]);
        let mut actual = export(&identity, &leftover, 1);
        let first = snapshot(&[("ns/a", &[("a-1", 1), ("a-2", 2)]), ("ns/b", &[("b-1", 3)])], &["n1"]);
        let ops = state.ops(&first, Knowledge::Partial, &actual, 2);
        apply(&mut actual, ops);
        state.applied(first, Knowledge::Partial);
        let second = snapshot(&[("ns/a", &[("a-1", 1)])], &[]);
        let ops = state.ops(&second, Knowledge::Partial, &actual, 3);
        apply(&mut actual, ops);
        state.applied(Arc::clone(&second), Knowledge::Partial);
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

        assert!(state.shows(&second, Knowledge::Partial) && !state.shows(&second, Knowledge::Complete));
        let ops = state.ops(&second, Knowledge::Complete, &actual, 4);
        apply(&mut actual, ops);
        state.applied(Arc::clone(&second), Knowledge::Complete);
        assert!(state.shows(&second, Knowledge::Complete));
        let stamps = |entries: Entries| entries.into_keys().collect::<Vec<_>>();
        assert_eq!(stamps(actual), stamps(export(&identity, &second, 4)));
    }

    fn keys(actual: &Entries) -> Vec<&str> {
        actual.keys().map(|key| key.strip_prefix("clustermesh/v1/").unwrap()).collect()
    }

    /// What a new process leaves of what an earlier one has published.
    fn after_restart(before: &ClusterSnapshot, now: ClusterSnapshot) -> Entries {
        let identity = identity();
        let mut state = ExportState::new(&identity);
        let mut actual = export(&identity, before, 1);
        let now = Arc::new(now);
        let ops = state.ops(&now, Knowledge::Complete, &actual, 2);
        apply(&mut actual, ops);
        state.applied(Arc::clone(&now), Knowledge::Complete);
        assert!(
            state.ops(&now, Knowledge::Complete, &actual, 3).is_empty(),
            "the same again changes nothing"
        );
        actual
    }

    #[test]
    fn a_service_that_cannot_be_read_keeps_its_record_and_its_slices_follow() {
        let before = snapshot(&[("ns/a", &[("a-1", 1), ("a-2", 2)]), ("ns/b", &[("b-1", 3)])], &[]);
        let mut now = ClusterSnapshot::clone(&snapshot(&[], &[]));
        let slices = service(&[("a-1", 9)]).slices.clone();
        now.unread.services.insert("ns/a".parse().unwrap(), slices);
        let actual = after_restart(&before, now);
        assert_eq!(keys(&actual), ["endpoints/hoth/ns/a/a-1", "services/hoth/ns/a"]);
        let slice = String::from_utf8(actual["clustermesh/v1/endpoints/hoth/ns/a/a-1"].clone()).unwrap();
        assert!(slice.contains("10.2.0.9"), "{slice}");
    }

    #[test]
    fn slices_and_nodes_that_cannot_be_read_stay() {
        let before = snapshot(
            &[("ns/a", &[("a-1", 1), ("a-1.1", 1), ("a-2", 2)]), ("ns/b", &[("a-1", 3)])],
            &["n1", "n2"],
        );
        let mut now = ClusterSnapshot::clone(&snapshot(&[("ns/a", &[])], &[]));
        now.unread.slices.insert(("ns".into(), SliceName::new("a-1").unwrap()));
        now.unread.nodes.insert(NodeName::new("n2").unwrap());
        let kept =
            ["endpoints/hoth/ns/a/a-1", "endpoints/hoth/ns/a/a-1.1", "nodes/hoth/n2", "services/hoth/ns/a"];
        assert_eq!(keys(&after_restart(&before, now)), kept);
    }

    #[test]
    fn what_can_be_read_again_counts_at_once() {
        let identity = identity();
        let mut state = ExportState::new(&identity);
        let before = snapshot(&[("ns/a", &[("a-1", 1)])], &[]);
        let mut actual = export(&identity, &before, 1);
        let mut unread = ClusterSnapshot::default();
        unread.unread.services.insert("ns/a".parse().unwrap(), BTreeMap::new());
        unread.unread.slices.insert(("ns".into(), SliceName::new("a-1").unwrap()));
        for (next, stands) in
            [(Arc::new(unread), 2), (snapshot(&[("ns/a", &[])], &[]), 1), (snapshot(&[], &[]), 0)]
        {
            let ops = state.ops(&next, Knowledge::Complete, &actual, 2);
            apply(&mut actual, ops);
            state.applied(next, Knowledge::Complete);
            assert_eq!(actual.len(), stands, "{:?}", keys(&actual));
        }
    }

    fn restricted(snapshot: &ClusterSnapshot, audience: &Audience) -> ClusterSnapshot {
        let mut restricted = snapshot.clone();
        for (name, service) in &snapshot.services {
            let mut service = Service::clone(service);
            service.scope.audience = audience.clone();
            restricted.services.insert(name.clone(), Arc::new(service));
        }
        restricted
    }

    fn audiences(actual: &Entries) -> BTreeSet<String> {
        actual.values().map(|value| format!("{:?}", Audience::of_record(value))).collect()
    }

    /// Also where the wanted record can't be written, or nothing is known of the slice but that it is there.
    #[test]
    fn what_stays_of_a_restricted_service_is_restricted() {
        let yavin = Audience::parse("yavin").unwrap();
        let only = BTreeSet::from([format!("{yavin:?}")]);
        let before = snapshot(&[("ns/a", &[("a-1", 1), ("a-1.1", 2), ("a-2", 3)])], &[]);
        let mut unread = restricted(&snapshot(&[("ns/a", &[])], &[]), &yavin);
        unread.unread.slices.insert(("ns".into(), SliceName::new("a-1").unwrap()));
        let actual = after_restart(&before, unread);
        assert_eq!((keys(&actual).len(), audiences(&actual)), (3, only.clone()), "{actual:?}");

        let identity = identity();
        let state = ExportState::new(&identity);
        let mut actual = export(&identity, &before, 1);
        let early = Arc::new(restricted(&snapshot(&[("ns/a", &[("a-2", 3)])], &[]), &yavin));
        let ops = state.ops(&early, Knowledge::Partial, &actual, 2);
        apply(&mut actual, ops);
        assert_eq!((keys(&actual).len(), audiences(&actual)), (4, only), "{actual:?}");
    }

    #[test]
    fn a_service_that_cannot_be_read_stays_for_its_audience() {
        let yavin = Audience::parse("yavin").unwrap();
        let before = restricted(&snapshot(&[("ns/a", &[("a-1", 1)])], &[]), &yavin);
        let mut now = ClusterSnapshot::default();
        let slices = service(&[("a-1", 9), ("a-2", 8)]).slices.clone();
        now.unread.services.insert("ns/a".parse().unwrap(), slices);
        let actual = after_restart(&before, now);
        assert_eq!((keys(&actual).len(), audiences(&actual)), (3, BTreeSet::from([format!("{yavin:?}")])));
    }
}
