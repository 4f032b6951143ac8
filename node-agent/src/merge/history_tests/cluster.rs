//! A cluster, what it really has, and what stands in its etcd: written by its exporter, and by liars.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_kv::Change;
use mesh_model::address::Address;
use mesh_model::address_policy::OwnRanges;
use mesh_model::annotation::{Affinity, Scope};
use mesh_model::export::{Entries, Identity, ServiceOps, diff, diff_service, export, export_service};
use mesh_model::name::{ClusterId, ClusterName, PortName, ServiceName};
use mesh_model::record::{Kind, RecordKey, SyncedKind, SyncedRecord};
use mesh_model::snapshot::{
    ClusterSnapshot, Condition, Endpoint, Protocol, Service, ServicePort, Slice, SlicePort,
};
use proptest::collection::vec;
use proptest::prelude::*;

/// What a Service is like.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    /// Last byte of the ClusterIP; services share them at times.
    ip: u8,
    affinity: Affinity,
    shared: bool,
    ports: u8,
    /// Last byte of the address, condition, and in which of two slices.
    endpoints: Vec<(u8, u8, bool)>,
}

impl Spec {
    /// A service of one port with these hosts, all of them ready.
    pub(super) fn of(ip: u8, hosts: std::ops::Range<u8>) -> Self {
        let endpoints = hosts.map(|host| (host, 0, false)).collect();
        Self { ip, affinity: Affinity::None, shared: true, ports: 0, endpoints }
    }
}

pub(super) fn specs() -> impl Strategy<Value = Spec> {
    let affinity = prop_oneof![Just(Affinity::None), Just(Affinity::Local), Just(Affinity::Remote)];
    let endpoints = vec((0_u8..10, prop_oneof![6 => Just(0_u8), 1 => 1_u8..4], any::<bool>()), 0..6);
    (0_u8..3, affinity, prop::bool::weighted(0.9), 0_u8..3, endpoints)
        .prop_map(|(ip, affinity, shared, ports, endpoints)| Spec { ip, affinity, shared, ports, endpoints })
}

/// What a peer's etcd holds although its exporter never wrote it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lie {
    /// A record of the service has this value, of a few that are wrong.
    Value(u8, u8),
    /// A good record below another cluster's name.
    Foreign(u8),
    /// A key that is none.
    Key,
    /// The cluster record has another id.
    Clash,
    /// The cluster record claims a part of the cluster's range only, or more than what was agreed.
    Ranges(u8),
    /// The cluster record is gone.
    Anonymous,
    /// A `synced` marker is gone.
    Unsynced,
    /// The service's record is gone, its slices are not.
    Headless(u8),
}

pub(super) fn lies() -> impl Strategy<Value = Lie> {
    prop_oneof![
        4 => (0_u8..3, 0_u8..7).prop_map(|(service, value)| Lie::Value(service, value)),
        1 => (0_u8..3).prop_map(Lie::Foreign),
        1 => Just(Lie::Key),
        1 => Just(Lie::Clash),
        1 => (0_u8..26).prop_map(Lie::Ranges),
        1 => Just(Lie::Anonymous),
        1 => Just(Lie::Unsynced),
        1 => (0_u8..3).prop_map(Lie::Headless),
    ]
}

/// A cluster with the id `id`.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) id: u8,
    identity: Identity,
    pub(super) truth: ClusterSnapshot,
    pub(super) etcd: Etcd,
}

/// An etcd: what stands in it and what happened since it began.
#[derive(Debug, Default)]
pub(super) struct Etcd {
    /// Which life of the data this is.
    pub(super) life: u32,
    pub(super) store: Entries,
    /// By revision, which begins at 1.
    pub(super) log: Vec<Vec<Change>>,
}

impl Etcd {
    pub(super) fn revision(&self) -> usize {
        self.log.len()
    }

    fn commit(&mut self, changes: Vec<Change>) {
        for change in &changes {
            match change {
                Change::Put { key, value } => drop(self.store.insert(key.clone(), value.clone())),
                Change::Delete { key } => drop(self.store.remove(key)),
            }
        }
        if !changes.is_empty() {
            self.log.push(changes);
        }
    }

    fn put(&mut self, key: &str, value: impl Into<Vec<u8>>) {
        self.commit(vec![Change::Put { key: key.into(), value: value.into() }]);
    }

    fn apply(&mut self, ops: ServiceOps) {
        let puts = ops.puts.into_iter().map(|(key, value)| Change::Put { key, value });
        let deletes = ops.deletes.into_iter().map(|key| Change::Delete { key });
        self.commit(puts.chain(deletes).collect());
    }
}

impl Cluster {
    pub(super) fn new(id: u8) -> Self {
        let name = name_of(id);
        let identity = Identity { name, id: id_of(id), ranges: OwnRanges::default() };
        let mut cluster = Self { id, identity, truth: ClusterSnapshot::default(), etcd: Etcd::default() };
        cluster.heal();
        cluster
    }

    pub(super) fn name(&self) -> &ClusterName {
        &self.identity.name
    }

    /// A Service changes or goes, and the exporter writes what differs of it.
    pub(super) fn change(&mut self, index: u8, spec: Option<&Spec>) {
        let name = service_name(index);
        match spec {
            Some(spec) => drop(self.truth.services.insert(name.clone(), self.service(index, spec))),
            None => drop(self.truth.services.remove(&name)),
        }
        let service = self.truth.services.get(&name);
        let wanted = service.map(|service| export_service(&self.identity, &name, service, 0));
        let ops = diff_service(self.name(), &name, &self.etcd.store, &wanted.unwrap_or_default());
        if let Some(ops) = ops {
            self.etcd.apply(ops);
        }
    }

    /// The exporter starts anew: it reads everything and writes what is wrong.
    pub(super) fn heal(&mut self) {
        let key = RecordKey::Cluster(self.name().clone()).to_string();
        let record = self.record(self.id, 16);
        if self.etcd.store.get(&key) != Some(&record) {
            self.etcd.put(&key, record);
        }
        let wanted = export(&self.identity, &self.truth, 0);
        for ops in diff(self.name(), &self.etcd.store, &wanted) {
            self.etcd.apply(ops);
        }
        for kind in SyncedKind::ALL {
            let (key, value) = SyncedRecord { revision: 1 }.entry(self.name(), kind);
            if self.etcd.store.get(&key) != Some(&value) {
                self.etcd.put(&key, value);
            }
        }
    }

    /// The etcd loses its data; nobody has written anything since.
    pub(super) fn wipe(&mut self) {
        self.etcd = Etcd { life: self.etcd.life + 1, ..Etcd::default() };
        let key = RecordKey::Cluster(self.name().clone()).to_string();
        let record = self.record(self.id, 16);
        self.etcd.put(&key, record);
    }

    pub(super) fn lie(&mut self, lie: Lie) {
        let name = self.name().clone();
        let cluster_key = RecordKey::Cluster(name.clone()).to_string();
        match lie {
            Lie::Value(service, value) => self.lie_about(&service_name(service), value),
            Lie::Foreign(service) => {
                let other = name_of(if self.id == 2 { 3 } else { 2 });
                let key = RecordKey::Service(other, service_name(service)).to_string();
                self.etcd.put(&key, r#"{"ports":[{"name":"http","protocol":"TCP","port":80}]}"#);
            }
            Lie::Key => {
                let prefix = format!("clustermesh/v1/{}/{name}/", Kind::Services.as_str());
                self.etcd.put(&format!("{prefix}a/b/c/d"), "{}");
                self.etcd.put(&format!("{prefix}UPPER/case"), "{}");
            }
            Lie::Clash => self.etcd.put(&cluster_key, self.record(9, 16)),
            Lie::Ranges(length) => self.etcd.put(&cluster_key, self.record(self.id, length)),
            Lie::Anonymous => self.etcd.commit(vec![Change::Delete { key: cluster_key }]),
            Lie::Unsynced => {
                let key = RecordKey::Synced(name, SyncedKind::Endpoints).to_string();
                self.etcd.commit(vec![Change::Delete { key }]);
            }
            Lie::Headless(service) => {
                let key = RecordKey::Service(name, service_name(service)).to_string();
                self.etcd.commit(vec![Change::Delete { key }]);
            }
        }
    }

    /// Writes a wrong value over every second record of the service, or into a new one where there is none.
    fn lie_about(&mut self, service: &ServiceName, value: u8) {
        let slice = RecordKey::Slice(self.name().clone(), service.clone(), "a".parse().unwrap()).to_string();
        let service_key = RecordKey::Service(self.name().clone(), service.clone()).to_string();
        let inside = format!("10.{}.77.7", self.id);
        let deep = "[".repeat(10_000);
        let (key, value) = match value {
            0 => (slice, "{]".to_owned()),
            1 => (slice, format!("{{\"endpoints\":{deep}")),
            2 => (service_key, r#"{"ports":"http"}"#.to_owned()),
            3 => (service_key, r#"{"ports":[{"name":"http","port":0}]}"#.to_owned()),
            4 => (slice, format!(r#"{{"service":"ns/other","endpoints":[{{"address":"{inside}"}}]}}"#)),
            5 => (service_key, r#"{"cluster":"c9"}"#.to_owned()),
            // Not one address that may be believed, in a record that otherwise may.
            _ => (
                slice,
                r#"{"ports":[{"name":"http","port":8080}],"endpoints":[{"address":"169.254.169.254"},
                    {"address":"127.0.0.1"},{"address":"::1"},{"address":"10.1.0.1"},{"address":"10.9.0.1"}]}"#
                    .to_owned(),
            ),
        };
        self.etcd.put(&key, value);
    }

    fn record(&self, id: u8, prefix_length: u8) -> Vec<u8> {
        let record = serde_json::json!({
            "schema": 1, "id": id, "incarnation": format!("life-{}", self.etcd.life),
            "ranges": {"pods": [format!("10.{}.0.0/{prefix_length}", self.id)], "nodes": []},
        });
        record.to_string().into_bytes()
    }

    fn service(&self, index: u8, spec: &Spec) -> Arc<Service> {
        let (ports, targets) = ports(spec.ports);
        let of_slice = |second: bool| {
            let endpoints = spec.endpoints.iter().filter(|(_, _, slice)| *slice == second);
            let endpoints = endpoints.map(|(host, condition, _)| {
                Endpoint::new(self.address(index, *host), condition_of(*condition))
            });
            Arc::new(Slice { ports: targets.clone(), endpoints: endpoints.collect() })
        };
        let mut slices = BTreeMap::from([("a".parse().unwrap(), of_slice(false))]);
        // Comes and goes.
        slices.extend(
            [("b".parse().unwrap(), of_slice(true))].into_iter().filter(|(_, b)| !b.endpoints.is_empty()),
        );
        Arc::new(Service {
            scope: Scope { shared: spec.shared, affinity: spec.affinity, ..Scope::GLOBAL },
            cluster_ips: vec![Address::from([10, 96, self.id, spec.ip])],
            ports,
            session_affinity_seconds: None,
            node_local: false,
            created_at: None,
            slices,
        })
    }

    /// Host 0 stands behind several services; hosts from 8 on are not the cluster's to announce.
    fn address(&self, service: u8, host: u8) -> Address {
        match host {
            0 => Address::from([10, self.id, 100, 1]),
            8 if self.id != 1 => Address::from([10, 1, service, 1]),
            9 if self.id != 1 => Address::from([169, 254, 169, 254]),
            _ => Address::from([10, self.id, service, host]),
        }
    }
}

fn condition_of(condition: u8) -> Condition {
    match condition {
        0 => Condition::READY,
        1 => Condition::TERMINATING,
        2 => Condition::NOT_READY,
        _ => Condition { ready: false, serving: true, terminating: false },
    }
}

fn ports(kind: u8) -> (Vec<ServicePort>, Vec<SlicePort>) {
    let all: &[(&str, Protocol, u16)] = match kind {
        0 => &[("http", Protocol::Tcp, 80)],
        1 => &[("http", Protocol::Tcp, 80), ("dns", Protocol::Udp, 53)],
        _ => &[("web", Protocol::Tcp, 80), ("dns-tcp", Protocol::Tcp, 53)],
    };
    let name = |name: &str| Some(PortName::new(name).unwrap());
    let ports =
        all.iter().map(|(n, protocol, port)| ServicePort { name: name(n), protocol: *protocol, port: *port });
    let targets = all.iter().map(|(n, protocol, port)| SlicePort {
        name: name(n),
        protocol: *protocol,
        port: 8000 + *port,
    });
    (ports.collect(), targets.collect())
}

pub(super) fn id_of(id: u8) -> ClusterId {
    ClusterId::new(id.into()).unwrap()
}

pub(super) fn name_of(id: u8) -> ClusterName {
    format!("c{id}").parse().unwrap()
}

fn service_name(index: u8) -> ServiceName {
    format!("ns/svc-{index}").parse().unwrap()
}
