//! A service with one backend, of which tests of pins and upgrades ask whether connects still reach it.

use std::net::{SocketAddr, TcpListener};

use mesh_model::desired::{BackendState, DesiredBackend, DesiredGroup, DesiredService, Frontend};
use mesh_model::name::ClusterId;
use mesh_model::snapshot::Protocol;
use node_agent::datapath::actual::Actual;
use node_agent::datapath::plan::Plan;

/// It has no route: a connect that is not translated fails at once.
pub(crate) const FRONTEND: &str = "10.96.0.1:80";

pub(crate) fn frontend() -> Frontend {
    let address: SocketAddr = FRONTEND.parse().unwrap();
    Frontend { address: address.ip().into(), port: address.port(), protocol: Protocol::Tcp }
}

/// The frontend with this one backend, which is cluster 1's.
pub(crate) fn plan(actual: &mut Actual, backend: &TcpListener) -> Plan {
    let address = backend.local_addr().unwrap();
    let backend = DesiredBackend::new(address.ip(), address.port(), BackendState::Active);
    let cluster = ClusterId::new(1).unwrap();
    let service = DesiredService {
        service: "default/rebel-base".parse().unwrap(),
        port_name: None,
        plain_ok: false,
        groups: vec![DesiredGroup { cluster, tier: 0, weight: 1, backends: vec![backend] }],
    };
    actual.plan(&[(frontend(), Some(service))])
}
