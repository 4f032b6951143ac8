//! Takes an invite of another cluster: asks at its join port, and hands back what it says of itself.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use mesh_admin::cluster::{JoinAnswer, JoinRequest, Refused};
use mesh_kv::EtcdEndpoint;
use mesh_membership::invite::Token;
use tokio::time::timeout;

use super::pinned::PinnedVerifier;
use crate::membership::{DialError, Told, dial};

/// From the request to the end of its answer.
const ANSWER: Duration = Duration::from_secs(20);
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Why an invite was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeError {
    #[error("the cluster that invites is reached at none of its endpoints: {}", .failures.join("; "))]
    Unreached { failures: Vec<String> },
    #[error("the cluster that invites said no: {}", refused.error)]
    Refused { refused: Box<Refused> },
    #[error("the cluster that invites gave no answer that can be read: {why}")]
    Unreadable { why: String },
}

impl TakeError {
    /// What to do.
    pub(crate) fn remedy(&self) -> String {
        match self {
            Self::Unreached { .. } => {
                "open the way to its join port, or have an invite made with endpoints that are reached from here; then \
                 repeat it with the same token"
                    .into()
            }
            Self::Refused { refused } => refused.remedy.clone(),
            Self::Unreadable { .. } => "repeat it with the same token".into(),
        }
    }
}

/// Takes it at the first endpoint where the cluster that invites answers; nobody else sees the secret.
pub(crate) async fn take(token: &Token, request: &JoinRequest) -> Result<JoinAnswer, TakeError> {
    let body = Bytes::from(serde_json::to_vec(request).expect("a request is plain data"));
    let mut failures = Vec::new();
    for text in &token.endpoints {
        let endpoint: EtcdEndpoint = match text.parse() {
            Ok(endpoint) => endpoint,
            Err(error) => {
                failures.push(format!("{error}"));
                continue;
            }
        };
        match connect(&endpoint, token).await {
            Ok(stream) => {
                let asked = timeout(ANSWER, ask(stream, body.clone())).await;
                let why = format!("nothing came within {} s", ANSWER.as_secs());
                return asked.unwrap_or(Err(TakeError::Unreadable { why }));
            }
            Err(error) => failures.push(mesh_failure::chain(&error)),
        }
    }
    Err(TakeError::Unreached { failures })
}

type Stream = tokio_rustls::client::TlsStream<tokio::net::TcpStream>;

async fn connect(endpoint: &EtcdEndpoint, token: &Token) -> Result<Stream, DialError> {
    let told = Told::default();
    dial(endpoint, Arc::new(PinnedVerifier::new(token, told.clone())), &told).await
}

async fn ask(stream: Stream, body: Bytes) -> Result<JoinAnswer, TakeError> {
    let unreadable =
        |error: &dyn std::error::Error| TakeError::Unreadable { why: mesh_failure::chain(error) };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unreadable(&error))?;
    let request = Request::post("/v1/join").header("host", "join").header("content-type", "application/json");
    let request = request.body(Full::new(body)).expect("the parts are valid");
    let asking = async {
        let response = sender.send_request(request).await.map_err(|error| unreadable(&error))?;
        let status = response.status();
        let collected = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = collected.map_err(|error| TakeError::Unreadable { why: error.to_string() })?.to_bytes();
        Ok((status, body))
    };
    let (mut asking, connection) = (std::pin::pin!(asking), std::pin::pin!(connection));
    let (status, body): (StatusCode, Bytes) = tokio::select! {
        biased;
        asked = asking.as_mut() => asked?,
        // What has come before the connection's end is still to be read.
        _ended = connection => asking.await?,
    };
    if status == StatusCode::OK {
        return serde_json::from_slice(&body).map_err(|error| unreadable(&error));
    }
    let refused = serde_json::from_slice(&body).map_err(|error| unreadable(&error))?;
    Err(TakeError::Refused { refused: Box::new(refused) })
}
