//! One question to the API server, and its answer: a whole body, or a stream of lines.

use std::error::Error;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use kube::Client;
use kube::client::Body;
use serde::Deserialize;
use tokio::time::timeout;

use crate::access::AccessError;

/// For the head of an answer to come.
const ANSWER: Duration = Duration::from_secs(30);
/// For a whole body to come.
const BODY: Duration = Duration::from_secs(120);
/// As long as a server may ask to be left alone; jitter adds up to as much again.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Of a whole body: 500 of the largest objects that etcd takes do not come together.
const MAX_BODY_BYTES: usize = 256 << 20;
/// Of one watch event; etcd takes objects of 1.5 MiB.
const MAX_LINE_BYTES: usize = 16 << 20;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("asking the Kubernetes API")]
    Unreachable(#[source] Box<dyn Error + Send + Sync>),
    #[error("the Kubernetes API has not answered within {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the Kubernetes API answered {code} {reason}: {message}")]
    Refused {
        code: u16,
        reason: String,
        message: String,
        /// For how long the server wants to be left alone.
        retry_after: Option<Duration>,
        /// The server's history ends before the resource version that was asked for.
        ahead: bool,
    },
    #[error("the Kubernetes API has ended a streamed list before it was complete")]
    Unfinished,
    #[error("the Kubernetes API's answer cannot be read")]
    Malformed(#[source] serde_json::Error),
    #[error("the Kubernetes API's answer is larger than {} MiB", .0 >> 20)]
    TooLarge(usize),
}

impl ApiError {
    /// The HTTP status of a refusal.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// For how long the server wants to be left alone (`Retry-After`), within bounds.
    pub fn asked_pause(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => retry_after.map(|asked| asked.min(LONGEST_PAUSE)),
            _ => None,
        }
    }

    /// Whether the server's history ends before the resource version that was asked for.
    pub fn is_ahead(&self) -> bool {
        matches!(self, Self::Refused { ahead: true, .. })
    }
}

/// `meta/v1 Status`, as far as we read it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    code: u16,
    reason: String,
    message: String,
    details: Option<Details>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Details {
    retry_after_seconds: Option<u64>,
    causes: Option<Vec<Cause>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cause {
    reason: String,
}

impl From<Status> for ApiError {
    fn from(status: Status) -> Self {
        /// `metav1.CauseTypeResourceVersionTooLarge`.
        const AHEAD: &str = "ResourceVersionTooLarge";
        let short = |text: String| text.chars().take(300).collect();
        let details = status.details.unwrap_or_default();
        Self::Refused {
            code: status.code,
            reason: short(status.reason),
            message: short(status.message),
            retry_after: details.retry_after_seconds.map(Duration::from_secs),
            ahead: details.causes.unwrap_or_default().iter().any(|cause| cause.reason == AHEAD),
        }
    }
}

/// Asks for something by its path and query.
pub async fn get(client: &Client, path: &str) -> Result<Body, ApiError> {
    // Streams are compressed in a way of their own by newer servers (kube 5), and loopback and LAN need none.
    let request =
        http::Request::get(path).header("accept", "application/json").header("accept-encoding", "identity");
    send(client, request.body(Body::empty()).map_err(|error| ApiError::Unreachable(error.into()))?).await
}

/// A request with a body.
pub fn request(
    method: http::Method,
    path: &str,
    content_type: &str,
    body: Vec<u8>,
) -> Result<http::Request<Body>, ApiError> {
    let request = http::Request::builder().method(method).uri(path).header("content-type", content_type);
    request.body(Body::from(body)).map_err(|error| ApiError::Unreachable(error.into()))
}

/// Sends a request; an answer that is an error becomes one.
pub async fn send(client: &Client, request: http::Request<Body>) -> Result<Body, ApiError> {
    let sent = timeout(ANSWER, client.send(request)).await.map_err(|_| ApiError::Silent(ANSWER))?;
    let response = sent.map_err(|error| ApiError::Unreachable(error.into()))?;
    let code = response.status().as_u16();
    if response.status().is_success() {
        return Ok(response.into_body());
    }
    let asked = retry_after(response.headers());
    let text = whole(response.into_body()).await.unwrap_or_default();
    let status = serde_json::from_slice::<Status>(&text).unwrap_or_else(|_| Status {
        message: String::from_utf8_lossy(&text).trim().to_owned(),
        ..Status::default()
    });
    let mut details = status.details.unwrap_or_default();
    details.retry_after_seconds = asked.or(details.retry_after_seconds);
    Err(Status { code, details: Some(details), ..status }.into())
}

/// Of the header's two forms Kubernetes uses the number of seconds.
fn retry_after(headers: &http::HeaderMap) -> Option<u64> {
    headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()
}

/// A whole body.
pub async fn whole(body: Body) -> Result<Bytes, ApiError> {
    let collected = timeout(BODY, Limited::new(body, MAX_BODY_BYTES).collect()).await;
    match collected.map_err(|_| ApiError::Silent(BODY))? {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::TooLarge(MAX_BODY_BYTES)),
        Err(error) => Err(ApiError::Unreachable(error)),
    }
}

/// The lines of a body that goes on.
pub struct Lines {
    body: Body,
    buffer: BytesMut,
    /// So much of the buffer holds no line's end.
    searched: usize,
}

impl Lines {
    pub fn new(body: Body) -> Self {
        Self { body, buffer: BytesMut::new(), searched: 0 }
    }

    /// The next line; none at the stream's end. What an ending stream leaves unfinished is no line.
    pub async fn next(&mut self, patience: Duration) -> Result<Option<Bytes>, ApiError> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let mut line = self.buffer.split_to(self.searched + at + 1);
                line.truncate(line.len() - 1);
                self.searched = 0;
                return Ok(Some(line.freeze()));
            }
            self.searched = self.buffer.len();
            if self.searched > MAX_LINE_BYTES {
                return Err(ApiError::TooLarge(MAX_LINE_BYTES));
            }
            let frame = timeout(patience, self.body.frame()).await.map_err(|_| ApiError::Silent(patience))?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| ApiError::Unreachable(error.into()))?;
            if let Some(data) = frame.data_ref() {
                self.buffer.extend_from_slice(data);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_failure::Backoff;

    use super::*;

    fn refused(seconds: u64) -> ApiError {
        let text = format!(r#"{{"code": 429, "details": {{"retryAfterSeconds": {seconds}}}}}"#);
        serde_json::from_str::<Status>(&text).unwrap().into()
    }

    #[test]
    fn a_server_is_left_alone_for_as_long_as_it_asks_within_bounds() {
        for (asked, least, most) in [(7, 7, 14), (86_400, 30, 60), (u64::from(u32::MAX), 30, 60)] {
            let delays: Vec<_> =
                (0..50).map(|_| Backoff::default().delay_after(refused(asked).asked_pause())).collect();
            let bounds = Duration::from_secs(least)..=Duration::from_secs(most);
            assert!(delays.iter().all(|delay| bounds.contains(delay)), "{asked}: {delays:?}");
            assert!(delays.windows(2).any(|two| two[0] != two[1]), "nodes must not come back together");
        }
    }

    #[test]
    fn a_server_that_asks_for_less_is_asked_with_growing_delays() {
        let mut backoff = Backoff::default();
        let delays: Vec<_> = (0..8).map(|_| backoff.delay_after(refused(0).asked_pause())).collect();
        assert!(delays[0] < Duration::from_millis(200) && delays[7] >= Duration::from_secs(5), "{delays:?}");
    }
}
