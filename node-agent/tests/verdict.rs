//! Demoting a cluster waits for no plan: `CLUSTERS` is written by a task of its own. Needs root, a cgroup v2 and bpffs.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashSet;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use mesh_abi::{BackendEntry, CLUSTER_DEMOTED, ServiceEntry, ServiceKey, SlotEntry, TableKey};
use mesh_model::desired::{BackendState, DesiredBackend, DesiredGroup, DesiredService, Frontend};
use mesh_model::name::{ClusterId, ServiceName};
use mesh_model::snapshot::Protocol;
use node_agent::datapath::actual::Actual;
use node_agent::datapath::apply::apply;
use node_agent::datapath::clusters::ClusterMap;
use node_agent::datapath::maps::{Datapath, MapError, Maps, Refused};
use node_agent::datapath::service_maps::ServiceMaps;

use support::{CAPACITY, INSTANCE, World};

const DEADLINE: Duration = Duration::from_secs(60);
const CLUSTER: u16 = 7;

/// The planner's maps; in the middle of a plan it waits until another task has written its verdict.
struct InTheMiddle {
    services: ServiceMaps,
    reached: Sender<()>,
    judged: Receiver<()>,
}

impl Datapath for InTheMiddle {
    fn write_backends(&mut self, entries: &[(u32, BackendEntry)]) -> Vec<Refused> {
        self.services.write_backends(entries)
    }

    fn write_slots(&mut self, entries: &[(u32, SlotEntry)]) -> Vec<Refused> {
        let refused = self.services.write_slots(entries);
        self.reached.send(()).unwrap();
        self.judged.recv_timeout(DEADLINE).expect("a verdict that waits for the plan is never written");
        refused
    }

    fn write_services(&mut self, entries: &[(ServiceKey, ServiceEntry)]) -> Vec<Refused> {
        self.services.write_services(entries)
    }

    fn delete_services(&mut self, keys: &[ServiceKey]) -> Vec<Refused> {
        self.services.delete_services(keys)
    }

    fn delete_tables(&mut self, keys: &[TableKey]) -> Vec<Refused> {
        self.services.delete_tables(keys)
    }

    fn reset_counters(&mut self, ids: &[u32]) -> Vec<Refused> {
        self.services.reset_counters(ids)
    }

    fn check_writable(&mut self) -> Result<(), MapError> {
        self.services.check_writable()
    }
}

fn demote(clusters: &mut ClusterMap) {
    let mut states = clusters.read().unwrap();
    states.state[usize::from(CLUSTER)] = CLUSTER_DEMOTED;
    clusters.write(&states).unwrap();
}

fn desired() -> (Frontend, Option<DesiredService>) {
    let frontend = Frontend { address: "10.96.0.1".parse().unwrap(), port: 80, protocol: Protocol::Tcp };
    let backend = |host: u8| DesiredBackend::new([10, 7, 0, host], 8080, BackendState::Active);
    let group = DesiredGroup {
        cluster: ClusterId::new(CLUSTER.into()).unwrap(),
        tier: 0,
        weight: 1,
        backends: (1..100).map(backend).collect(),
    };
    let service = ServiceName::new("ns", "svc").unwrap();
    (frontend, Some(DesiredService { service, port_name: None, plain_ok: false, groups: vec![group] }))
}

#[test]
fn a_cluster_is_demoted_while_a_plan_is_being_applied() {
    let world = World::new();
    let Maps { services, mut clusters, .. } = *world.attached();
    let ((reached, was_reached), (done, judged)) = (channel(), channel());
    let plan = Actual::new(CAPACITY).plan(&[desired()]);
    assert_eq!(plan.slots.len(), 99);
    let look = Maps::open_pinned(&world.bpffs, INSTANCE).unwrap();
    let known = || -> HashSet<ServiceKey> {
        look.services.contents().unwrap().services.into_iter().map(|(key, _)| key).collect()
    };
    std::thread::scope(|scope| {
        let judge = scope.spawn(move || {
            was_reached.recv_timeout(DEADLINE).unwrap();
            demote(&mut clusters);
            clusters
        });
        let planner = scope.spawn(|| {
            let mut maps = InTheMiddle { services, reached, judged };
            apply(&mut maps, &plan).unwrap();
        });
        let clusters = judge.join().unwrap();
        assert_eq!(clusters.read().unwrap().state[usize::from(CLUSTER)], CLUSTER_DEMOTED);
        assert!(known().is_empty(), "the plan is still being applied");
        done.send(()).unwrap();
        planner.join().unwrap();
    });
    assert_eq!(known().len(), plan.services.len());
}
