//! The watches of a stream, told as fast as the client takes them.
//!
//! Nothing is queued: hyper takes one answer ahead of the one that waits for the stream's flow control, and each is made when
//! it is taken, out of the newest state. Whoever reads slowly gets fewer and bigger answers, until its place is out of the
//! cache's past.

use std::future::{Ready, ready};
use std::sync::Arc;

use futures::future::FutureExt;
use futures::stream::{self, BoxStream, StreamExt};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until};
use tonic::body::Body;
use tonic::server::StreamingService;
use tonic::{Status, Streaming};

use super::super::feed::{Snapshot, Snapshots};
use super::super::watch::Watches;
use super::super::wire::{WatchRequest, WatchResponse};
use super::codec::grpc;
use super::{NOTHING_YET, RAFT_TERM, Rpc, STOPPED, Served, Share, TOO_MANY};

pub(super) async fn answer(
    rpc: Rpc,
    permit: OwnedSemaphorePermit,
    request: Request<Incoming>,
) -> Response<Body> {
    let share = rpc.share.clone();
    let response = grpc().streaming(Opening(rpc, Some(permit)), request).await;
    let chunk = move |data| share.chunk(data);
    response.map(|body| Body::new(body.map_frame(move |frame| frame.map_data(&chunk))))
}

struct Opening(Rpc, Option<OwnedSemaphorePermit>);

impl StreamingService<WatchRequest> for Opening {
    type Response = WatchResponse;
    type ResponseStream = BoxStream<'static, Result<WatchResponse, Status>>;
    type Future = Ready<Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<WatchRequest>>) -> Self::Future {
        ready(Told::open(&self.0, self.1.take(), request.into_inner()).map(|told| {
            tonic::Response::new(stream::unfold(Some(told), |told| async { told?.step().await }).boxed())
        }))
    }
}

/// One stream.
struct Told {
    served: Arc<Served>,
    snapshots: Snapshots,
    /// What is told belongs to this history.
    history: u64,
    watches: Watches,
    /// None once the client has nothing more to ask.
    requests: Option<Streaming<WatchRequest>>,
    progress_at: Instant,
    share: Share,
    _permit: Option<OwnedSemaphorePermit>,
}

/// The answer, and what there is to tell behind it.
type Step = Option<(Result<WatchResponse, Status>, Option<Told>)>;

impl Told {
    fn open(
        rpc: &Rpc,
        permit: Option<OwnedSemaphorePermit>,
        requests: Streaming<WatchRequest>,
    ) -> Result<Self, Status> {
        let served = Arc::clone(&rpc.served);
        let history = served.snapshot()?.history;
        served.metrics.watch_streams.inc();
        Ok(Self {
            snapshots: served.snapshots.clone(),
            history,
            watches: Watches::new(rpc.view.clone()),
            requests: Some(requests),
            progress_at: Instant::now() + served.progress_every,
            share: rpc.share.clone(),
            served,
            _permit: permit,
        })
    }

    async fn step(mut self) -> Step {
        match self.next().await {
            Ok(answer) => Some((Ok(answer), Some(self))),
            Err(status) => Some((Err(status), None)),
        }
    }

    async fn next(&mut self) -> Result<WatchResponse, Status> {
        loop {
            // So that a cancellation is heard also while there is always more to tell.
            if !self.watches.has_due()
                && let Some(request) = next_request(&mut self.requests).now_or_never()
            {
                self.take(request)?;
                continue;
            }
            if !self.share.has_room().await {
                return Err(Status::resource_exhausted(TOO_MANY));
            }
            let snapshot = self.snapshot()?;
            if let Some(answer) = self.watches.next(&snapshot.cache) {
                return Ok(self.stamped(answer, &snapshot));
            }
            drop(snapshot);
            self.wait().await?;
        }
    }

    /// Until there may be something to tell.
    async fn wait(&mut self) -> Result<(), Status> {
        let stopped = || Status::unavailable(STOPPED);
        tokio::select! {
            () = self.served.token.cancelled() => Err(stopped()),
            request = next_request(&mut self.requests) => self.take(request),
            changed = self.snapshots.changed() => changed.map_err(|_| stopped()),
            () = sleep_until(self.progress_at) => {
                self.progress_at += self.served.progress_every;
                let snapshot = self.snapshot()?;
                self.watches.tick(&snapshot.cache);
                Ok(())
            }
        }
    }

    fn take(&mut self, request: Result<Option<WatchRequest>, Status>) -> Result<(), Status> {
        match request? {
            Some(request) => {
                let snapshot = self.snapshot()?;
                self.watches.request(&snapshot.cache, request);
            }
            None => self.requests = None,
        }
        Ok(())
    }

    /// The newest state. Behind a list the client has to begin anew, as with an etcd that was restarted: its history may be
    /// another, and a watch can't tell.
    fn snapshot(&mut self) -> Result<Arc<Snapshot>, Status> {
        let snapshot = self.snapshots.borrow_and_update().clone();
        let snapshot = snapshot.ok_or_else(|| Status::unavailable(NOTHING_YET))?;
        if snapshot.history != self.history {
            return Err(Status::unavailable(STOPPED));
        }
        Ok(snapshot)
    }

    fn stamped(&self, mut answer: WatchResponse, snapshot: &Snapshot) -> WatchResponse {
        if answer.compact_revision != 0 {
            self.served.metrics.watches_compacted.inc();
        }
        if let Some(header) = &mut answer.header {
            header.cluster_id = snapshot.cluster_id;
            header.member_id = self.served.member_id;
            header.raft_term = RAFT_TERM;
        }
        answer
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.served.metrics.watch_streams.dec();
    }
}

/// Never, once the client has nothing more to ask: it still hears.
async fn next_request(
    requests: &mut Option<Streaming<WatchRequest>>,
) -> Result<Option<WatchRequest>, Status> {
    match requests {
        Some(requests) => requests.message().await,
        None => std::future::pending().await,
    }
}
