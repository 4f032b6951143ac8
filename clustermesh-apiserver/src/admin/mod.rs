//! The admin API: what it takes to join clusters, on a unix socket that only its owner can use.
//!
//! Owns what is asked and answered (`mesh_admin::cluster`); one file for each family of routes. Never decides on its own who is
//! a peer: `mesh_membership` does.

mod answer;
mod args;
mod certificates;
mod cluster;
mod dial;
mod peering;
mod peers;
mod probe;
mod store;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;

pub(crate) use args::AdminSocketArgs;
pub(crate) use certificates::OwnCertificates;
pub(crate) use cluster::Described;
use mesh_runtime::{AdminServer, Listen, Supervisor};
use peering::Peering;

use crate::config::RunArgs;

/// A peer file has at most as many bytes: Kubernetes allows no bigger Secret.
const MAX_BODY_BYTES: usize = 1 << 20;

/// Whatever answers questions.
struct Api {
    described: Described,
    peering: Arc<Peering>,
}

/// Serves it. What the socket is refused for is no reason to stop exporting and serving.
pub(crate) async fn spawn(described: Described, supervisor: &mut Supervisor, args: &RunArgs) {
    let own = (described.name.clone(), described.id);
    let peering = Peering::new(own, described.ranges.clone(), args.admin_socket.store());
    match AdminServer::bind(Listen::Unix(args.admin_socket.socket())).await {
        Ok(server) => {
            let routes = routes(Api { described, peering: Arc::new(peering) });
            supervisor.spawn("admin-socket", server.serve(routes, supervisor.token()));
        }
        Err(error) => {
            let error = mesh_failure::chain(&error);
            tracing::warn!(
                error,
                "there is no admin socket, so that clustermesh can't ask this process: see --run-dir and --instance"
            );
        }
    }
}

/// All routes.
fn routes(api: Api) -> Router {
    let api = Arc::new(api);
    Router::new()
        .merge(cluster::routes())
        .merge(peers::routes())
        .merge(probe::routes())
        .fallback(answer::unknown)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(api)
}
