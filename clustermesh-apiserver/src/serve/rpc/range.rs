//! The call that reads, whose answers may be big.

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use prost::Message;
use tonic::Status;
use tonic::body::Body;
use tonic::server::UnaryService;

use super::super::range::{RangeRefused, range};
use super::super::wire::{RangeRequest, RangeResponse};
use super::budget::{Room, held};
use super::codec::grpc;
use super::{Rpc, TOO_MANY};

pub(super) async fn answer(rpc: Rpc, request: Request<Incoming>) -> Response<Body> {
    let mut response = grpc().unary(Reading(rpc), request).await;
    match response.extensions_mut().remove::<Arc<Room>>() {
        Some(room) => {
            let hold = move |data| held(data, &room);
            response.map(|body| Body::new(body.map_frame(move |frame| frame.map_data(&hold))))
        }
        None => response,
    }
}

struct Reading(Rpc);

impl UnaryService<RangeRequest> for Reading {
    type Response = RangeResponse;
    type Future = BoxFuture<'static, Result<tonic::Response<RangeResponse>, Status>>;

    fn call(&mut self, request: tonic::Request<RangeRequest>) -> Self::Future {
        let rpc = self.0.clone();
        async move {
            let answer = found(&rpc, &request.into_inner())?;
            let room = rpc.share.room(answer.encoded_len()).await;
            let room = room.ok_or_else(|| Status::resource_exhausted(TOO_MANY))?;
            let mut response = tonic::Response::new(answer);
            response.extensions_mut().insert(Arc::new(room));
            Ok(response)
        }
        .boxed()
    }
}

fn found(Rpc { served, view, .. }: &Rpc, request: &RangeRequest) -> Result<RangeResponse, Status> {
    let snapshot = served.snapshot()?;
    let found = range(&snapshot.cache, view, request).map_err(refusal)?;
    let kvs = found
        .records
        .iter()
        .map(|record| if request.keys_only { record.record_without_value() } else { record.record() });
    Ok(RangeResponse {
        header: Some(served.header(&snapshot)),
        kvs: kvs.collect(),
        more: found.more,
        count: found.count,
    })
}

fn refusal(refused: RangeRefused) -> Status {
    let text = refused.to_string();
    match refused {
        RangeRefused::NoKey | RangeRefused::Sort => Status::invalid_argument(text),
        RangeRefused::Compacted | RangeRefused::Future => Status::out_of_range(text),
    }
}
