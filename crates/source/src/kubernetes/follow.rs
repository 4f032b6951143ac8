//! Follows one kind of objects at the API server: a full list, then what changes, and again after whatever broke it.
//!
//! Owns the position in the server's history. A streamed list is tried first; a server that refuses it is asked page
//! by page. A position that the server has forgotten (410) leads to a new full list. Never ends by itself.

use std::time::Duration;

use kube::Client;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::access::Access;
use super::api::{self, ApiError, Lines};
use super::backoff::Backoff;
use super::reading::{self, Key, Reading};
use super::watch::{Event, Query, parse_event, parse_page};
use crate::metrics::Resource;

/// How long nothing may come over a watch: bookmarks come every minute.
const QUIET: Duration = Duration::from_secs(150);
/// How long a streamed list may pause. One that a server does not know never ends.
const LISTING: Duration = Duration::from_secs(10);
/// After a streamed list that never ended lists are asked for page by page for so long.
const PAGED: Duration = Duration::from_secs(3600);
/// How often a server is asked again for a kind that it does not have.
const ABSENT: Duration = Duration::from_secs(600);
/// A watch that has lived so long was none that fails at once.
const STABLE: Duration = Duration::from_secs(5);
/// Refusals in a row at one position until it is given up for a full list.
const REFUSALS: u32 = 3;

/// What a follower tells, in order.
#[derive(Debug)]
pub(crate) enum Change {
    /// A full list begins; one that had begun is void.
    Begin,
    /// An object is there, in a list or after it.
    There(Box<Reading>),
    Gone(Key),
    /// The list is whole.
    End,
    /// The server has spoken.
    Alive,
    /// The connection is lost. What is known stays.
    Fault(String),
}

/// Follows one kind.
pub(crate) struct Follower {
    resource: Resource,
    access: Access,
    out: mpsc::Sender<(Resource, Change)>,
    /// From where to go on; none: a full list is needed.
    position: Option<String>,
    paged_until: Option<Instant>,
    refusals: u32,
    backoff: Backoff,
}

/// Why there is no more to do: nobody listens.
#[derive(Debug)]
struct Unheard;

/// Why an attempt ended.
enum Ended {
    /// All is listed, or a watch ended as watches do.
    Well,
    Failed(ApiError),
    Unheard,
}

impl From<ApiError> for Ended {
    fn from(error: ApiError) -> Self {
        Self::Failed(error)
    }
}

impl From<Unheard> for Ended {
    fn from(_: Unheard) -> Self {
        Self::Unheard
    }
}

impl Follower {
    pub(crate) fn new(resource: Resource, access: Access, out: mpsc::Sender<(Resource, Change)>) -> Self {
        let backoff = Backoff::default();
        Self { resource, access, out, position: None, paged_until: None, refusals: 0, backoff }
    }

    /// Runs until nobody listens.
    pub(crate) async fn run(mut self) {
        let mut client = None;
        loop {
            let (begun, listed) = (Instant::now(), self.position.is_some());
            let ended = self.attempt(&mut client).await.err().unwrap_or(Ended::Well);
            let lasted = begun.elapsed() >= STABLE;
            if lasted {
                self.backoff.reset();
            }
            match ended {
                Ended::Unheard => return,
                // A list is followed by its watch, and a watch by the next.
                Ended::Well if lasted || !listed => {}
                Ended::Well => sleep(self.backoff.next_delay()).await,
                Ended::Failed(error) => {
                    // Whatever was wrong: certificates and tokens may be others by now.
                    client = None;
                    if self.fail(&error).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn attempt(&mut self, client: &mut Option<Client>) -> Result<(), Ended> {
        let client = match client {
            Some(client) => client,
            None => client.insert(self.access.client().await.map_err(ApiError::from)?),
        };
        if let Some(position) = self.position.clone() {
            return self.watch(client, &Query::Watch { position }).await;
        }
        if self.paged_until.is_none_or(|until| Instant::now() >= until) {
            match self.watch(client, &Query::StreamedList).await {
                Err(Ended::Failed(error)) if self.position.is_none() && refuses_streaming(&error) => {
                    let reason = error.to_string();
                    tracing::debug!(resource = %self.resource, reason, "lists are not streamed; asking for pages");
                    let stalled = matches!(error, ApiError::Silent(_));
                    self.paged_until = stalled.then(|| Instant::now() + PAGED);
                }
                ended => return ended,
            }
        }
        match self.list(client).await {
            Err(Ended::Failed(error)) if error.code() == Some(404) && self.resource.may_be_absent() => {
                self.complete().await?;
                sleep(ABSENT).await;
                Ok(())
            }
            ended => ended,
        }
    }

    /// Says what is wrong and waits.
    async fn fail(&mut self, error: &ApiError) -> Result<(), Unheard> {
        let reason = chain(error);
        if error.code() == Some(410) {
            tracing::info!(resource = %self.resource, reason, "the position is forgotten; listing everything anew");
            self.position = None;
        } else {
            self.refusals = if error.code().is_some() { self.refusals + 1 } else { 0 };
            if self.refusals >= REFUSALS {
                // E.g. a position of a time that the server's storage was set back from.
                self.position = None;
            }
            self.tell(Change::Fault(reason)).await?;
        }
        // A server that forgets what it has just said must not be asked without a pause either.
        sleep(self.backoff.next_delay()).await;
        Ok(())
    }

    async fn tell(&self, change: Change) -> Result<(), Unheard> {
        self.out.send((self.resource, change)).await.map_err(|_| Unheard)
    }

    /// Everything, page by page.
    async fn list(&mut self, client: &Client) -> Result<(), Ended> {
        self.tell(Change::Begin).await?;
        let mut next = None;
        loop {
            let query = Query::Page { next };
            let body = api::whole(api::get(client, &query.path(self.resource)).await?).await?;
            let page = parse_page(&body)?;
            for item in page.items {
                if let Some(reading) = reading::read(self.resource, item.get()) {
                    self.tell(Change::There(Box::new(reading))).await?;
                }
            }
            next = page.next;
            if next.is_none() {
                self.position = Some(page.position);
                return Ok(self.complete().await?);
            }
        }
    }

    async fn complete(&mut self) -> Result<(), Unheard> {
        self.refusals = 0;
        self.backoff.reset();
        self.tell(Change::End).await
    }

    /// What happens from a position on; or everything, streamed, and then that.
    async fn watch(&mut self, client: &Client, query: &Query) -> Result<(), Ended> {
        let mut listing = query.is_streamed_list();
        let mut lines = Lines::new(api::get(client, &query.path(self.resource)).await?);
        self.tell(if listing { Change::Begin } else { Change::Alive }).await?;
        while let Some(line) = lines.next(if listing { LISTING } else { QUIET }).await? {
            let position = match parse_event(&line)? {
                Event::Error(error) => return Err(error.into()),
                Event::There(json) => self.there(json).await?,
                Event::Gone(json) => self.gone(json).await?,
                Event::Bookmark { position, ends_list } => {
                    if listing && ends_list {
                        listing = false;
                        self.complete().await?;
                    } else {
                        self.tell(Change::Alive).await?;
                    }
                    Some(position)
                }
            };
            // In the middle of a list there is none.
            if let (false, Some(position)) = (listing, position) {
                self.position = Some(position);
                self.refusals = 0;
            }
        }
        Ok(())
    }

    async fn there(&self, json: &str) -> Result<Option<String>, Unheard> {
        let Some(mut reading) = reading::read(self.resource, json) else { return Ok(None) };
        let position = reading.position.take();
        self.tell(Change::There(Box::new(reading))).await?;
        Ok(position)
    }

    async fn gone(&self, json: &str) -> Result<Option<String>, Unheard> {
        let Some((key, position)) = reading::name(self.resource, json) else { return Ok(None) };
        self.tell(Change::Gone(key)).await?;
        Ok(position)
    }
}

/// Whether an answer means that lists are not streamed here, and not that we aren't let in or must wait.
fn refuses_streaming(error: &ApiError) -> bool {
    const OTHERS: [u16; 6] = [401, 403, 410, 429, 503, 504];
    matches!(error, ApiError::Silent(_)) || error.code().is_some_and(|code| !OTHERS.contains(&code))
}

/// An error with its reasons.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let reason = error.to_string();
        if !text.ends_with(&reason) {
            text = format!("{text}: {reason}");
        }
        source = error.source();
    }
    text
}
