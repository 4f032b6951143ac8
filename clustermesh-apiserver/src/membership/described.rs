//! Who this cluster is, as others shall know it.

use std::net::{IpAddr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use mesh_admin::cluster::{Cluster, PeerDocument};
use mesh_kv::EtcdEndpoint;
use mesh_membership::plan::Member;
use mesh_model::name::{ClusterId, ClusterName};
use mesh_source::ranges::Known;
use tokio::sync::watch;

use super::certificates::{self, OwnCertificates};
use super::refusal::Refusal;
use crate::config::RunArgs;

/// What there is to say.
pub(crate) struct Described {
    pub(crate) name: ClusterName,
    pub(crate) id: ClusterId,
    pub(crate) ranges: Known,
    pub(crate) endpoints: Vec<EtcdEndpoint>,
    pub(crate) join_endpoints: Vec<EtcdEndpoint>,
    pub(crate) certificates: OwnCertificates,
    pub(crate) leading: watch::Receiver<bool>,
    /// Where this replica's mesh API listens.
    pub(crate) listens: Option<SocketAddr>,
    pub(crate) store: Option<String>,
}

impl Described {
    pub(crate) fn new(
        args: &RunArgs,
        ranges: Known,
        leading: watch::Receiver<bool>,
        listens: Option<SocketAddr>,
    ) -> Self {
        Self {
            name: args.identity.cluster_name.clone(),
            id: args.identity.cluster_id,
            ranges,
            endpoints: args.admin_socket.mesh_endpoints.clone(),
            join_endpoints: args.admin_socket.join_endpoints.clone(),
            certificates: args.own_certificates(),
            leading,
            listens,
            store: args.peer_store().map(|store| store.describe()),
        }
    }

    /// What others shall know of this cluster.
    pub(crate) fn document(&self) -> Result<PeerDocument, Refusal> {
        let cluster = self.cluster();
        if cluster.trust.is_none() {
            return Err(certificates::missing());
        }
        if cluster.endpoints.is_empty() {
            return Err(Refusal::new(
                StatusCode::CONFLICT,
                format!("{} does not say where its mesh API is reached from outside", self.name),
                "start its clustermesh-apiserver with --mesh-endpoint",
            ));
        }
        let member = Member { cluster, peers: Vec::new(), clock_ahead_ms: 0, asked_unix_s: 0 };
        member.document().ok_or_else(|| {
            Refusal::unavailable(
                format!("{} does not know its own address ranges yet", self.name),
                "try again; if it stays so, name them with --pod-cidr and --node-cidr",
            )
        })
    }

    pub(crate) fn cluster(&self) -> Cluster {
        let texts = |endpoints: &[EtcdEndpoint]| endpoints.iter().map(ToString::to_string).collect();
        let trust = self.certificates.trust();
        Cluster {
            name: self.name.clone(),
            id: self.id,
            version: env!("CARGO_PKG_VERSION").into(),
            ranges: self.ranges.borrow().as_deref().cloned().unwrap_or_default(),
            endpoints: texts(&self.endpoints),
            fingerprint: trust.as_ref().map(|trust| trust.fingerprint.clone()),
            trust: trust.map(|trust| trust.pem),
            leading: *self.leading.borrow(),
            time_unix_ms: unix_ms(),
            pod_endpoint: self.listens.and_then(pod_endpoint),
            join_endpoints: texts(&self.join_endpoints),
            peers_store: self.store.clone(),
            certificates: self.certificates.shown(),
        }
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Where others reach a socket of this host: where it listens on every address, on the first that leads anywhere.
fn pod_endpoint(listens: SocketAddr) -> Option<String> {
    let address = if listens.ip().is_unspecified() { own_address(listens.ip())? } else { listens.ip() };
    Some(format!("https://{}", SocketAddr::new(address, listens.port())))
}

fn own_address(listens: IpAddr) -> Option<IpAddr> {
    let found: Vec<IpAddr> = nix::ifaddrs::getifaddrs()
        .ok()?
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|it| IpAddr::from(it.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|it| IpAddr::from(it.ip())))
        })
        .filter(|address| mesh_model::address_policy::forbidden(*address).is_none())
        .collect();
    // A socket on [::] takes both kinds.
    let v4 = found.iter().find(|address| address.is_ipv4());
    v4.or_else(|| found.first().filter(|_| listens.is_ipv6())).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_on_one_address_is_reached_there() {
        let endpoint = |text: &str| pod_endpoint(text.parse().unwrap()).unwrap();
        assert_eq!(endpoint("10.2.0.7:2379"), "https://10.2.0.7:2379");
        assert_eq!(endpoint("[fd00::7]:2379"), "https://[fd00::7]:2379");
    }
}
