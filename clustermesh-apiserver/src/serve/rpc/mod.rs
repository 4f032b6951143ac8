//! The calls of etcd's v3 API, one connection's: which there are, who answers them, and how refusals read.
//!
//! Dispatched by hand: a generated service would encode every record for every client anew.

mod budget;
mod codec;
mod range;
mod stream;
mod unary;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;

use super::feed::{Heard, Snapshot, Snapshots};
use super::metrics::{Call, ServeMetrics};
use super::view::View;
use super::wire::ResponseHeader;

pub(crate) use budget::{Budget, Share};

/// No honest request is bigger: two keys and some numbers.
const MAX_REQUEST_BYTES: usize = 16 << 10;
/// There is no raft here; to clients a term of 0 is none.
const RAFT_TERM: u64 = 1;

/// What etcd's clients know a refusal by.
const DENIED: &str = "etcdserver: permission denied";
const STOPPED: &str = "etcdserver: server stopped";
const NOTHING_YET: &str = "nothing has been read from etcd yet; try again, or another replica";
const TOO_MANY: &str = "etcdserver: too many requests";
const NO_USERS: &str = "etcdserver: authentication is not enabled";

/// Calls of etcd that write, or that are for its operators.
const REFUSED: [(&str, &[&str]); 5] = [
    ("KV", &["Put", "DeleteRange", "Txn", "Compact"]),
    ("Lease", &["LeaseGrant", "LeaseRevoke", "LeaseKeepAlive", "LeaseTimeToLive", "LeaseLeases"]),
    ("Cluster", &["MemberAdd", "MemberRemove", "MemberUpdate", "MemberList", "MemberPromote"]),
    ("Maintenance", &["Defragment", "Hash", "HashKV", "Snapshot", "MoveLeader", "Downgrade"]),
    (
        "Auth",
        &[
            "AuthEnable",
            "AuthDisable",
            "UserAdd",
            "UserGet",
            "UserList",
            "UserDelete",
            "UserChangePassword",
            "UserGrantRole",
            "UserRevokeRole",
            "RoleAdd",
            "RoleGet",
            "RoleList",
            "RoleDelete",
            "RoleGrantPermission",
            "RoleRevokePermission",
        ],
    ),
];

/// What all connections share.
pub(crate) struct Served {
    pub(crate) snapshots: Snapshots,
    pub(crate) heard: Heard,
    pub(crate) member_id: u64,
    pub(crate) metrics: ServeMetrics,
    pub(crate) budget: Budget,
    /// How often idle watches that want it are told of progress.
    pub(crate) progress_every: Duration,
    pub(crate) token: CancellationToken,
}

impl Served {
    fn snapshot(&self) -> Result<Arc<Snapshot>, Status> {
        self.snapshots.borrow().clone().ok_or_else(|| Status::unavailable(NOTHING_YET))
    }

    fn header(&self, snapshot: &Snapshot) -> ResponseHeader {
        ResponseHeader {
            cluster_id: snapshot.cluster_id,
            member_id: self.member_id,
            revision: snapshot.cache.revision(),
            raft_term: RAFT_TERM,
        }
    }
}

/// Answers one connection's calls.
#[derive(Clone)]
pub(crate) struct Rpc {
    pub(crate) served: Arc<Served>,
    pub(crate) view: View,
    pub(crate) share: Share,
}

impl Rpc {
    async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        let call = call_of(path);
        self.served.metrics.called(call);
        let Some(permit) = self.share.call() else {
            return Status::resource_exhausted(TOO_MANY).into_http();
        };
        match (call, path) {
            (Call::Range, _) => range::answer(self, request).await,
            (Call::Watch, _) => stream::answer(self, permit, request).await,
            (Call::Status, _) => unary::answer(unary::Health(self), request).await,
            (Call::Greeting, "/etcdserverpb.Maintenance/Alarm") => {
                unary::answer(unary::Alarms(self), request).await
            }
            (Call::Greeting, "/etcdserverpb.Auth/AuthStatus") => {
                unary::answer(unary::AuthStatus(self), request).await
            }
            // A client that has a name and a password goes on without when it hears this.
            (Call::Greeting, _) => Status::failed_precondition(NO_USERS).into_http(),
            (Call::Refused, _) => Status::permission_denied(DENIED).into_http(),
            (Call::Unknown, _) => Status::unimplemented(format!("the mesh API has no {path}")).into_http(),
        }
    }
}

fn call_of(path: &str) -> Call {
    match path {
        "/etcdserverpb.KV/Range" => Call::Range,
        "/etcdserverpb.Watch/Watch" => Call::Watch,
        "/etcdserverpb.Maintenance/Status" => Call::Status,
        "/etcdserverpb.Maintenance/Alarm"
        | "/etcdserverpb.Auth/AuthStatus"
        | "/etcdserverpb.Auth/Authenticate" => Call::Greeting,
        _ => {
            let parts = path.strip_prefix("/etcdserverpb.").and_then(|rest| rest.split_once('/'));
            let is_refused = |(service, method): (&str, &str)| {
                REFUSED.iter().any(|(name, methods)| *name == service && methods.contains(&method))
            };
            if parts.is_some_and(is_refused) { Call::Refused } else { Call::Unknown }
        }
    }
}

impl Service<Request<Incoming>> for Rpc {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let answer = self.clone().answer(request);
        Box::pin(async { Ok(answer.await) })
    }
}
