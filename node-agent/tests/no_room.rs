//! What the maps have no room for, or what is another Service's, is shown by whatever people look at.

#![allow(clippy::unwrap_used, clippy::panic)]

mod merge_loop;
mod support;

use std::sync::Arc;

use mesh_admin::api::Service;
use mesh_model::name::ServiceName;
use mesh_model::reason::Reason;
use mesh_model::snapshot::ClusterSnapshot;
use node_agent::admin::answers::Answers;
use node_agent::datapath::actual::Capacity;
use node_agent::merge::query::Reader;

use merge_loop::{MergeLoop, snapshot, until};
use support::{CAPACITY, World};

/// So many Services of three backends each.
fn services_of_three(services: u8) -> ClusterSnapshot {
    let (_, service) = snapshot(1..4).services.into_iter().next().unwrap();
    let named = (0..services).map(|number| {
        let mut service = (*service).clone();
        service.cluster_ips = vec![[10, 96, 9, number + 1].into()];
        (format!("big/s{number}").parse().unwrap(), Arc::new(service))
    });
    ClusterSnapshot { services: named.collect(), ..ClusterSnapshot::default() }
}

fn refused(services: &[Service]) -> Vec<(&ServiceName, &str)> {
    let frontends =
        services.iter().flat_map(|it| it.frontends.iter().map(|frontend| (&it.service, frontend)));
    let refused =
        frontends.filter_map(|(name, frontend)| Some((name.as_ref().unwrap(), frontend.refused.as_deref()?)));
    refused.collect()
}

fn left_out(reader: &Reader, name: &ServiceName) -> Vec<Reason> {
    let [service] = &reader.services(Some(name)).unwrap()[..] else { panic!("{name}") };
    service.left_out.as_ref().unwrap().iter().map(|omission| omission.reason).collect()
}

#[test]
fn frontends_without_room_are_listed_explained_and_no_longer_ready() {
    let world = World::new();
    let capacity = Capacity { slots: 128, services: 256, ..CAPACITY };
    let mut running = MergeLoop::start_with(&world, capacity);
    let reader = running.reader();
    running.hear(services_of_three(100));
    // A group of three takes four slots, as the flag's text has it.
    until("68 frontends are refused", || refused(&reader.services(None).unwrap()).len() == 68);
    let services = reader.services(None).unwrap();
    assert_eq!(services.len(), 100, "refused ones too");
    let used: usize =
        services.iter().flat_map(|it| &it.frontends).flat_map(|it| &it.groups).map(|it| it.active).sum();
    assert_eq!(used, 32 * 3);
    let (name, text) = refused(&services)[0];
    assert!(text.contains("--max-slots"), "{text}");
    assert_eq!(left_out(&reader, name), [Reason::NoRoom]);
    let not_planned = || running.readiness.missing().into_iter().find(|it| it.condition == "plan");
    until("the agent says so", || {
        not_planned().is_some_and(|it| it.reason.contains("no room for 68 frontends"))
    });

    running.hear(services_of_three(32));
    until("the rest has room", || not_planned().is_none());
    assert_eq!(refused(&reader.services(None).unwrap()), []);
    assert_eq!(left_out(&reader, &"big/s1".parse().unwrap()), []);
    running.stop();
}

#[test]
fn whoever_wants_anothers_frontend_is_shown_and_not_the_other() {
    let world = World::new();
    let mut running = MergeLoop::start(&world);
    let reader = running.reader();
    let mut snapshot = services_of_three(3);
    let taken = snapshot.services.values().next().unwrap().clone();
    snapshot.services = snapshot.services.keys().map(|name| (name.clone(), taken.clone())).collect();
    running.hear(snapshot);
    until("both others are refused", || refused(&reader.services(None).unwrap()).len() == 2);
    let services = reader.services(None).unwrap();
    let losers = refused(&services);
    assert_eq!(losers.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>(), ["big/s1", "big/s2"]);
    assert!(losers.iter().all(|(_, text)| text.contains("belongs to service big/s0")), "{losers:?}");
    assert_eq!(left_out(&reader, losers[1].0), [Reason::AddressTaken]);
    assert_eq!(left_out(&reader, &"big/s0".parse().unwrap()), []);
    until("they are counted", || {
        running.registry.encode().contains("clustermesh_merge_refused_frontends 2\n")
    });
    running.stop();
}
