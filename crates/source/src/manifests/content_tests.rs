//! What files may hold that is none of ours, or not any more, and how that is told.

use mesh_model::table::Knowledge;

use super::tests::{A, Bench, app_a, app_b, service, slice};
use crate::status::Reason;

/// Slices as a dump of a cluster has them: of a Service that is not global, of none, with host names.
const PLAIN: &str = "
apiVersion: v1
kind: Service
metadata: {name: s1ap, namespace: ran}
spec: {clusterIPs: [10.101.0.20], ports: [{name: s1ap, port: 36412, protocol: SCTP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s1ap-1, namespace: ran, labels: {kubernetes.io/service-name: s1ap}}
addressType: IPv4
ports: [{name: s1ap, port: 36412, protocol: SCTP}]
endpoints: [{addresses: [10.1.0.7]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: imported-1, namespace: ran, labels: {multicluster.kubernetes.io/service-name: s1ap}}
addressType: IPv4
ports: [{name: x, port: 80}]
endpoints: [{addresses: [10.1.0.7]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: ran, labels: {kubernetes.io/service-name: db}}
addressType: FQDN
ports: [{name: pg, port: 5432}]
endpoints: [{addresses: [db.example.org]}]
";

#[test]
fn slices_of_services_that_are_not_global_raise_no_problem() {
    let mut bench = Bench::with(&[("a.yaml", &app_a()), ("plain.yaml", PLAIN)]);
    assert_eq!(bench.problems(), []);
    let global =
        PLAIN.replacen("namespace: ran", "namespace: ran, annotations: {clustermesh.io/global: \"true\"}", 1);
    bench.change("plain.yaml", &global.replacen("36412, protocol: SCTP", "36412", 1));
    assert_eq!(bench.reasons(), [Reason::Unsupported], "of the slice whose Service is global now");
    assert_eq!(bench.problems()[0].object, "EndpointSlice ran/s1ap-1");
}

#[test]
fn a_slice_that_does_not_tell_its_name_is_told_whatever_its_service() {
    let nameless = PLAIN.replacen("name: db-1", "name: [db]", 1);
    let bench = Bench::with(&[("a.yaml", &app_a()), ("plain.yaml", &nameless)]);
    assert_eq!(bench.reasons(), [Reason::Malformed]);
}

#[test]
fn a_service_that_becomes_sctp_only_goes() {
    let mut bench = Bench::with(&[("a.yaml", &app_a()), ("b.yaml", &app_b())]);
    bench.change("a.yaml", &app_a().replace("port: 80}", "port: 80, protocol: SCTP}"));
    assert_eq!(bench.services(), ["default/b"]);
    assert_eq!(bench.reasons(), [Reason::Unsupported]);
    bench.change("a.yaml", &app_a());
    assert_eq!(bench.services(), ["default/a", "default/b"]);
    assert_eq!(bench.problems(), []);
}

fn endpoints(name: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Endpoints\nmetadata: {{name: {name}}}\nsubsets: [{{addresses: [{{ip: 10.1.0.1}}]}}]\n"
    )
}

#[test]
fn endpoints_that_are_not_read_are_told_where_a_global_service_has_nothing_else() {
    let mut bench = Bench::with(&[("a.yaml", &(service("a", A.1) + &endpoints("a")))]);
    assert_eq!(bench.reasons(), [Reason::Unsupported]);
    let problem = bench.problems()[0].clone();
    assert_eq!((problem.object.as_str(), problem.place.as_str()), ("Endpoints default/a", "document 2"));
    assert!(
        problem.message.contains("EndpointSlice with the label kubernetes.io/service-name: a"),
        "{problem}"
    );
    assert_eq!(bench.reader_knowledge(), Knowledge::Complete);
    // A dump has them beside the slices, and those of other Services.
    bench
        .change("a.yaml", &(service("a", A.1) + &slice("a", &[A.2]) + &endpoints("a") + &endpoints("other")));
    assert_eq!(bench.problems(), []);
}

#[test]
fn cluster_ips_outside_of_the_service_range_keep_what_the_service_was() {
    let mut bench = Bench::within("10.96.0.0/16");
    bench.change("a.yaml", &app_a());
    assert_eq!(bench.services(), ["default/a"]);
    let before = bench.service("default/a").clone();
    for outside in ["10.1.0.1", "10.95.255.255", "8.8.8.8", "fd00::1"] {
        bench.change("a.yaml", &app_a().replace(A.1, outside));
        assert_eq!(bench.reasons(), [Reason::Service]);
        let message = &bench.problems()[0].message;
        assert_eq!(
            *message,
            format!(
                "ClusterIP {outside} is outside of --service-cidr 10.96.0.0/16; correct the Service, or the flag"
            )
        );
        assert_eq!(bench.service("default/a").cluster_ips, before.cluster_ips);
    }
    bench.change("a.yaml", &app_a());
    assert_eq!(bench.problems(), []);
}
