//! Calls with one answer.

use std::future::{Ready, ready};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use prost::Message;
use tonic::Status;
use tonic::body::Body;
use tonic::server::UnaryService;

use super::super::wire::{AlarmRequest, EmptyRequest, HeaderResponse, StatusResponse};
use super::codec::grpc;
use super::{DENIED, RAFT_TERM, Rpc};

/// The oldest version of etcd that keeps what this API keeps: the progress of a watch is told behind its events.
const VERSION: &str = "3.5.8";
/// A follower that hears nothing asks within this time, and hears an answer.
const SILENCE: Duration = Duration::from_secs(15);

/// A call's answer to a request, at once.
pub(super) trait Answer: Send + 'static {
    type In: Message + Default + Send + 'static;
    type Out: Message + Send + 'static;

    fn answer(&self, request: Self::In) -> Result<Self::Out, Status>;
}

struct Unary<A>(A);

impl<A: Answer> UnaryService<A::In> for Unary<A> {
    type Response = A::Out;
    type Future = Ready<Result<tonic::Response<A::Out>, Status>>;

    fn call(&mut self, request: tonic::Request<A::In>) -> Self::Future {
        ready(self.0.answer(request.into_inner()).map(tonic::Response::new))
    }
}

pub(super) async fn answer<A: Answer>(call: A, request: Request<Incoming>) -> Response<Body> {
    grpc::<A::Out, A::In>().unary(Unary(call), request).await
}

/// How the server is.
pub(super) struct Health(pub(super) Rpc);

impl Answer for Health {
    type In = EmptyRequest;
    type Out = StatusResponse;

    fn answer(&self, _: EmptyRequest) -> Result<StatusResponse, Status> {
        let served = &self.0.served;
        let snapshot = served.snapshot()?;
        let header = served.header(&snapshot);
        let size = i64::try_from(snapshot.cache.size()).unwrap_or(i64::MAX);
        let index = header.revision.cast_unsigned();
        let errors = served.heard.age().and_then(complaint);
        Ok(StatusResponse {
            header: Some(header),
            version: VERSION.into(),
            db_size: size,
            leader: header.member_id,
            raft_index: index,
            raft_term: RAFT_TERM,
            raft_applied_index: index,
            errors: errors.into_iter().collect(),
            db_size_in_use: size,
        })
    }
}

/// What is wrong where etcd has been silent for so long.
fn complaint(age: Duration) -> Option<String> {
    let text =
        || format!("etcd has not been heard for {} s: what is served may be as old as that", age.as_secs());
    (age >= SILENCE).then(text)
}

/// There are none.
pub(super) struct Alarms(pub(super) Rpc);

impl Answer for Alarms {
    type In = AlarmRequest;
    type Out = HeaderResponse;

    fn answer(&self, request: AlarmRequest) -> Result<HeaderResponse, Status> {
        if request.action != 0 {
            return Err(Status::permission_denied(DENIED));
        }
        let snapshot = self.0.served.snapshot()?;
        Ok(HeaderResponse { header: Some(self.0.served.header(&snapshot)) })
    }
}

/// Users and passwords are not used.
pub(super) struct AuthStatus(pub(super) Rpc);

impl Answer for AuthStatus {
    type In = EmptyRequest;
    type Out = HeaderResponse;

    fn answer(&self, _: EmptyRequest) -> Result<HeaderResponse, Status> {
        let snapshot = self.0.served.snapshot()?;
        Ok(HeaderResponse { header: Some(self.0.served.header(&snapshot)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_what_is_served_is_told_once_etcd_is_missed() {
        assert_eq!(complaint(Duration::from_secs(10)), None);
        let said = complaint(Duration::from_millis(15_500)).unwrap_or_default();
        assert_eq!(said, "etcd has not been heard for 15 s: what is served may be as old as that");
    }
}
