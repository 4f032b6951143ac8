//! The real binary, started while its API server is away: no connection is taken, or no request is answered. Nothing that
//! stands in etcd changes; once the API server is back, the records follow.
#![allow(clippy::unwrap_used, clippy::panic)]

mod binaries;

use binaries::{Apiserver, DEADLINE, Lab, keys};
use mesh_kv::testing::wait_until;
use mesh_source::testing::api::FakeApi;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

const SLICE: &str = "endpoints/hoth/default/base/base-1";

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"),
            "annotations": {"clustermesh.io/global": "true"}},
        "spec": {"clusterIPs": ["10.102.0.1"], "ports": [{"port": 80}]},
    })
}

fn slice(service: &str, address: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("{service}-1"), "namespace": "default",
            "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": [{"addresses": [address]}],
    })
}

fn start(lab: &Lab, api: &FakeApi) -> Apiserver {
    let (endpoint, kubeconfig) = (lab.etcd.endpoint().to_string(), api.kubeconfig());
    let of_source = ["--source", "kubernetes", "--kubeconfig", kubeconfig.to_str().unwrap()];
    Apiserver::start_with(lab, &[&["--etcd-endpoint", &endpoint][..], &of_source].concat())
}

/// How often the source has failed.
fn failures(apiserver: &Apiserver) -> u64 {
    let metrics = apiserver.http("/metrics");
    let line = metrics.lines().find_map(|line| line.strip_prefix("clustermesh_source_failures_total "));
    line.unwrap().trim().parse().unwrap()
}

/// `leaves` takes the API server away, `waits` until the exporter must have noticed, `returns` brings it back.
fn started_while_away(
    leaves: fn(&mut FakeApi),
    notices: fn(&Apiserver, &FakeApi) -> bool,
    returns: fn(&Runtime, &mut FakeApi),
) {
    let (lab, runtime) = (Lab::new(), Runtime::new().unwrap());
    let mut api = runtime.block_on(FakeApi::start());
    for object in [service("base"), slice("base", "10.2.0.1"), service("late"), slice("late", "10.2.0.3")] {
        api.put(object);
    }
    let first = start(&lab, &api);
    first.until_ready();
    assert_eq!(first.stop(), Vec::<String>::new());
    let before = lab.stands();
    assert!(before[SLICE].0.contains("10.2.0.1"), "{:?}", keys(&before));

    leaves(&mut api);
    let second = start(&lab, &api);
    wait_until("noticed", DEADLINE, || notices(&second, &api));
    let missing = second.http("/readyz");
    assert!(missing.contains("waiting for the source's first full list"), "{missing}");
    assert_eq!(lab.stands(), before);

    // What happened meanwhile.
    api.put(slice("base", "10.2.0.2"));
    for object in [service("late"), slice("late", "10.2.0.3")] {
        api.delete(&object);
    }
    returns(&runtime, &mut api);
    second.until_ready();
    wait_until("follows", DEADLINE, || {
        let stands = lab.stands();
        stands[SLICE].0.contains("10.2.0.2") && !keys(&stands).iter().any(|key| key.contains("late"))
    });
    let records = "clustermesh/v1/";
    let past = runtime.block_on(lab.etcd.history(1));
    let deleted = past.iter().filter(|change| change.value.is_none() && change.key.starts_with(records));
    assert!(deleted.clone().all(|change| change.key.contains("late")), "{:?}", deleted.collect::<Vec<_>>());
    second.stop();
}

#[test]
fn an_api_server_that_takes_no_connection_changes_no_record() {
    started_while_away(
        FakeApi::stop,
        |second, _| failures(second) > 0,
        |runtime, api| runtime.block_on(api.resume()),
    );
}

#[test]
fn an_api_server_that_answers_nothing_changes_no_record() {
    started_while_away(
        |api| api.behave(|it| it.frozen = true),
        |_, api| !api.unanswered().is_empty(),
        |runtime, api| {
            api.behave(|it| it.frozen = false);
            runtime.block_on(api.cut());
        },
    );
}
