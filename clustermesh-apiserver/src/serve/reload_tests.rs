//! Certificates and trust that change while clients are connected.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use etcd_client::{Client, WatchOptions, WatchStream};
use mesh_kv::testing::{Etcd, wait_until};

use super::testing::{Certificates, DEADLINE, Replica};

/// Within which a change of the files counts.
const SOON: Duration = Duration::from_secs(10);

struct Lab {
    _dir: tempfile::TempDir,
    etcd: Etcd,
    certificates: Certificates,
    replica: Replica,
}

impl Lab {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let etcd = Etcd::start(dir.path());
        let certificates = Certificates::new();
        let mut replica = Replica::of_hoth(&etcd, &certificates).await;
        replica.reach(1).await;
        Self { _dir: dir, etcd, certificates, replica }
    }

    fn until_metric(&self, line: &str) {
        wait_until(line, SOON, || self.replica.metrics().lines().any(|it| it == line));
    }

    async fn watch(&self, name: &str) -> (Client, WatchStream) {
        let client = self.replica.client(&self.certificates, name);
        let options = WatchOptions::new().with_prefix();
        let mut stream =
            client.watch_client().watch("clustermesh/v1/services/hoth/", Some(options)).await.unwrap();
        assert!(stream.message().await.unwrap().unwrap().created());
        (client, stream)
    }

    /// A change that everybody sees who still watches.
    async fn change(&self) {
        let client = Client::connect([self.etcd.endpoint().to_string()], None).await.unwrap();
        client.kv_client().put("clustermesh/v1/services/hoth/ns/a", "x", None).await.unwrap();
    }
}

async fn hears(stream: &mut WatchStream) -> bool {
    let message = tokio::time::timeout(DEADLINE, stream.message()).await.expect("something is said");
    message.is_ok_and(|message| message.is_some_and(|message| message.events().len() == 1))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whose_cluster_is_no_peer_any_more_is_shut_out_and_nobody_else() {
    let lab = Lab::new().await;
    let ((gone, mut theirs), (_own, mut ours)) = (lab.watch("yavin").await, lab.watch("hoth").await);
    lab.certificates.forget("yavin");
    lab.until_metric("clustermesh_mesh_api_connections_shut_out_total 1");
    lab.change().await;
    assert!(!hears(&mut theirs).await);
    assert!(hears(&mut ours).await);
    assert!(gone.kv_client().get("a", None).await.is_err(), "nor is it let in again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_certificate_ends_its_connections_and_is_told() {
    let lab = Lab::new().await;
    let (client, mut stream) = lab.watch("yavin").await;
    lab.certificates.revoke();
    lab.until_metric("clustermesh_mesh_api_connections_shut_out_total 1");
    assert!(!hears(&mut stream).await);
    assert!(client.kv_client().get("a", None).await.is_err());
    let refused = r#"clustermesh_mesh_api_refused_certificates_total{reason="revoked"}"#;
    assert!(lab.replica.metrics().lines().any(|line| line.starts_with(refused) && !line.ends_with(" 0")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_shown_to_the_next_client_and_ends_no_connection() {
    let lab = Lab::new().await;
    let (_client, mut stream) = lab.watch("yavin").await;
    lab.certificates.renew();
    lab.until_metric("clustermesh_mesh_api_certificate_reloads_total 1");
    let (_next, mut next) = lab.watch("yavin").await;
    lab.change().await;
    assert!(hears(&mut stream).await && hears(&mut next).await);
    lab.until_metric("clustermesh_mesh_api_connections_shut_out_total 0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_peer_file_leaves_everything_as_it_was_and_is_told() {
    let lab = Lab::new().await;
    let (_client, mut stream) = lab.watch("yavin").await;
    lab.certificates.trust_in("yavin", "broken");
    lab.certificates.write_peer("Not A Name", "");
    let kept = r#"clustermesh_peer_file_kept_since_seconds{peer="yavin"} "#;
    let is_kept = |line: &str| line.starts_with(kept) && !line.ends_with(" 0");
    wait_until("it is told", SOON, || lab.replica.metrics().lines().any(is_kept));
    let (_next, mut next) = lab.watch("yavin").await;
    lab.change().await;
    assert!(hears(&mut stream).await && hears(&mut next).await);
    lab.certificates.forget("Not A Name");
    lab.certificates.forget("yavin");
    lab.until_metric("clustermesh_mesh_api_connections_shut_out_total 2");
    assert!(!hears(&mut stream).await, "what counts now is that it is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_certificate_of_our_own_is_told_and_keeps_nobody_from_being_shut_out() {
    let lab = Lab::new().await;
    let ((_gone, mut theirs), (_own, mut ours)) = (lab.watch("yavin").await, lab.watch("hoth").await);
    lab.certificates.break_own();
    lab.until_metric("clustermesh_mesh_api_certificate_reload_failing 1");
    lab.certificates.revoke();
    lab.until_metric("clustermesh_mesh_api_connections_shut_out_total 1");
    lab.change().await;
    assert!(!hears(&mut theirs).await);
    assert!(hears(&mut ours).await);
    lab.certificates.renew();
    lab.until_metric("clustermesh_mesh_api_certificate_reload_failing 0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_an_identity_is_its_authoritys_and_counted_until_another_vouches_too() {
    let lab = Lab::new().await;
    lab.certificates.nameless("bespin");
    lab.until_metric("clustermesh_mesh_api_certificate_reloads_total 1");
    let (client, mut stream) = lab.watch("bespin").await;
    lab.until_metric("clustermesh_mesh_api_clients_without_identity 1");
    lab.until_metric("clustermesh_mesh_api_connections_without_identity_total 1");
    lab.change().await;
    assert!(hears(&mut stream).await);
    let bundle = std::fs::read_to_string(lab.certificates.folder("bespin").join("authority.crt")).unwrap();
    lab.certificates.trust_in("endor", &bundle);
    lab.until_metric("clustermesh_mesh_api_connections_shut_out_total 1");
    lab.until_metric("clustermesh_mesh_api_clients_without_identity 0");
    assert!(!hears(&mut stream).await);
    assert!(client.kv_client().get("a", None).await.is_err(), "nobody knows whose it is");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_an_identity_does_not_become_another_clusters() {
    let lab = Lab::new().await;
    lab.certificates.nameless("bespin");
    lab.until_metric("clustermesh_mesh_api_certificate_reloads_total 1");
    let (_client, mut stream) = lab.watch("bespin").await;
    lab.certificates.rename("bespin", "endor");
    lab.until_metric("clustermesh_mesh_api_connections_shut_out_total 1");
    assert!(!hears(&mut stream).await);
    // Whoever connects now is endor's.
    let _endor = lab.watch("bespin").await;
}
