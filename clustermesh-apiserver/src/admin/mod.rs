//! The admin API: what it takes to join clusters, on a unix socket that only its owner can use.
//!
//! Owns what is asked and answered (`mesh_admin::cluster`); one file for each family of routes. Never decides on its own who is
//! a peer: `mesh_membership` does.

mod answer;
mod args;
mod certificates;
mod cluster;
mod invites;
mod peers;
mod probe;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;

pub(crate) use args::AdminSocketArgs;

use mesh_kv::Dialer;
use mesh_runtime::{AdminServer, Listen, Supervisor};

use crate::certificates::Orders;
use crate::config::RunArgs;
use crate::invites::{Door, Invites, JoinError, JoinMetrics, JoinPort};
use crate::membership::{Described, Peering};

/// A peer file has at most as many bytes: Kubernetes allows no bigger Secret.
const MAX_BODY_BYTES: usize = 1 << 20;

/// Whatever answers questions.
struct Api {
    described: Arc<Described>,
    peering: Arc<Peering>,
    invites: Invites,
    /// None where this process makes no certificates.
    orders: Option<Orders>,
}

/// Serves it, and the join port where there is one.
///
/// # Errors
/// The join port can't be opened. What the socket is refused for is no reason to stop exporting and serving.
pub(crate) async fn spawn(
    described: Described,
    (dialer, metrics): (Arc<Dialer>, JoinMetrics),
    orders: Option<Orders>,
    supervisor: &mut Supervisor,
    args: &RunArgs,
) -> Result<(), JoinError> {
    let (own, described) = ((described.name.clone(), described.id), Arc::new(described));
    let invites = Invites::new(dialer, described.name.clone());
    let store = args.peer_store();
    let peering = Arc::new(Peering::new(own, described.ranges.clone(), store));
    if let Some((address, folder)) = args.admin_socket.join_address.zip(args.own_certificates().folder()) {
        let (peering, described) = (Arc::clone(&peering), Arc::clone(&described));
        let door = Door { invites: invites.clone(), peering, described, metrics };
        let port = JoinPort::bind(address, folder, door).await?;
        supervisor.spawn("join", port.run(supervisor.token()));
    }
    let api = Api { described, peering, invites, orders };
    match AdminServer::bind(Listen::Unix(args.admin_socket.socket())).await {
        Ok(server) => supervisor.spawn("admin-socket", server.serve(routes(api), supervisor.token())),
        Err(error) => {
            let error = mesh_failure::chain(&error);
            tracing::warn!(
                error,
                "there is no admin socket, so that clustermesh can't ask this process: see --run-dir and --instance"
            );
        }
    }
    Ok(())
}

/// All routes.
fn routes(api: Api) -> Router {
    let api = Arc::new(api);
    Router::new()
        .merge(certificates::routes())
        .merge(cluster::routes())
        .merge(peers::routes())
        .merge(probe::routes())
        .merge(invites::routes())
        .fallback(answer::unknown)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(api)
}
