//! Follows one kind of objects at the API server: a full list, then what changes, and again after whatever broke it.
//!
//! Owns the resource version from which its watch goes on. A streamed list is tried first; a server that refuses it is
//! asked for an ordinary one. Only a resource version that the server does not have, any more (410) or yet, leads to a new
//! full list: every other refusal leaves it as it is, for a server with too much to do must not be asked for everything.
//! Asks twice without a pause only where the first answer was what it should be. Never ends by itself.

use std::time::Duration;

use kube::Client;
use kube::client::Body;
use mesh_failure::{Backoff, chain};
use mesh_kube::{self as api, Access, ApiError, Event, Lines, parse_event, parse_page};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::reading;
use super::watch::{Freshness, Query};
use crate::kinds::{Kind, Reading};
use crate::objects::ObjectKey;

/// A watch that is asked anew because nothing came over it has this part of that time for its answer.
const ANSWER_SHARE: u32 = 5;
/// How long a streamed list may pause. One that a server does not know never ends.
const LISTING: Duration = Duration::from_secs(10);
/// After a streamed list that never ended lists are asked for page by page for so long.
const PAGED: Duration = Duration::from_secs(3600);
/// After a streamed list that ended too early; it may have been a server that was stopped.
const PAGED_ONCE: Duration = Duration::from_secs(60);
/// How often a server is asked again for a kind that it does not have.
const ABSENT: Duration = Duration::from_secs(600);
/// A watch that has lived so long was none that fails at once.
const STABLE: Duration = Duration::from_secs(5);
/// A resource version is given up after so many answers in a row that the history ends before it: one server alone may have
/// fallen behind the others.
const BEHIND: u32 = 3;

/// What a follower tells, in order.
#[derive(Debug)]
pub(crate) enum Change {
    /// A full list begins; an unfinished one before it is void.
    Init,
    /// An object exists, as of a list, or was created or changed after it.
    Apply(Box<Reading>),
    Delete(ObjectKey),
    /// An object exists of which not even the name can be read.
    Nameless,
    /// The list is whole.
    InitDone,
    /// The server has answered; nothing has changed.
    Alive,
    /// The connection is lost. What is known stays.
    Fault(String),
}

/// Follows one kind.
pub(crate) struct Follower {
    kind: Kind,
    access: Access,
    out: mpsc::Sender<(Kind, Change)>,
    /// Where the next watch goes on; none: a full list is needed.
    resource_version: Option<String>,
    /// The server may not have reached the resource version; it then sends nothing at all.
    doubted: bool,
    /// How new the next list must be.
    freshness: Freshness,
    /// Lists must be the latest.
    latest: bool,
    paged_until: Option<Instant>,
    /// Answers in a row that the history ends before the resource version.
    behind: u32,
    backoff: Backoff,
    /// Since when changes can come.
    watching: Option<Instant>,
    /// How long nothing may come over a watch.
    quiet: Duration,
}

/// Nobody receives the changes any more, so there is nothing left to do.
#[derive(Debug)]
struct ReceiverDropped;

/// Why an attempt ended.
enum Ended {
    /// All is listed; a watch comes next.
    Listed,
    /// A watch ended as watches do.
    Closed,
    /// Nothing came over a watch. Not every server sends bookmarks in time, so that alone is no fault: asked anew, over a
    /// new connection, the server answers or doesn't.
    Quiet,
    Failed(ApiError),
    ReceiverDropped,
}

impl From<ApiError> for Ended {
    fn from(error: ApiError) -> Self {
        Self::Failed(error)
    }
}

impl From<ReceiverDropped> for Ended {
    fn from(_: ReceiverDropped) -> Self {
        Self::ReceiverDropped
    }
}

impl Follower {
    pub(crate) fn new(
        kind: Kind,
        access: Access,
        quiet: Duration,
        out: mpsc::Sender<(Kind, Change)>,
    ) -> Self {
        Self {
            kind,
            access,
            out,
            resource_version: None,
            doubted: false,
            freshness: Freshness::Cached,
            latest: false,
            paged_until: None,
            behind: 0,
            backoff: Backoff::default(),
            watching: None,
            quiet,
        }
    }

    /// Whether lists must be the latest.
    pub(crate) fn latest(self, latest: bool) -> Self {
        let freshness = if latest { Freshness::Latest } else { Freshness::Cached };
        Self { latest, freshness, ..self }
    }

    /// Runs until the receiver of the changes is dropped.
    pub(crate) async fn run(mut self) {
        let mut client = None;
        loop {
            let ended = self.attempt(&mut client).await.unwrap_or_else(|ended| ended);
            let stable = self.watching.take().is_some_and(|since| since.elapsed() >= STABLE.min(self.quiet));
            if stable {
                self.backoff.reset();
            }
            match ended {
                Ended::ReceiverDropped => return,
                Ended::Listed => {}
                Ended::Closed if stable => {}
                Ended::Closed => sleep(self.backoff.next_delay()).await,
                Ended::Quiet => (client, self.doubted) = (None, true),
                Ended::Failed(error) => {
                    // Whatever was wrong: certificates and tokens may be others by now. But a server with too much to
                    // do must not have to greet everybody anew.
                    client = client.filter(|_| error.code() == Some(429));
                    if self.fail(&error, stable).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn attempt(&mut self, client: &mut Option<Client>) -> Result<Ended, Ended> {
        let client = match client {
            Some(client) => client,
            None => client.insert(self.access.client().await.map_err(ApiError::from)?),
        };
        if self.doubted {
            self.check_resource_version(client).await?;
        }
        if let Some(resource_version) = self.resource_version.clone() {
            return self.watch(client, &Query::Watch { resource_version }).await;
        }
        if self.paged_until.is_none_or(|until| Instant::now() >= until) {
            match self.watch(client, &Query::StreamedList).await {
                Err(Ended::Failed(error)) if self.resource_version.is_none() && refuses_streaming(&error) => {
                    let reason = error.to_string();
                    tracing::debug!(resource = %self.kind, reason, "lists are not streamed; asking for pages");
                    let stalled = matches!(error, ApiError::Silent(_));
                    self.paged_until = stalled.then(|| Instant::now() + PAGED);
                }
                ended => return ended,
            }
        }
        match self.list(client).await {
            Err(Ended::Failed(error)) if error.code() == Some(404) && self.kind.api().may_be_absent => {
                self.tell(Change::InitDone).await?;
                sleep(ABSENT).await;
                Ok(Ended::Listed)
            }
            ended => ended,
        }
    }

    /// Says what is wrong and waits. `stable`: a watch was well before.
    async fn fail(&mut self, error: &ApiError, stable: bool) -> Result<(), ReceiverDropped> {
        let reason = chain(error);
        if error.code() == Some(410) {
            tracing::info!(resource = %self.kind, reason, "the resource version is too old; listing everything anew");
            self.forget(stable);
        } else {
            self.behind = if error.is_ahead() { self.behind + 1 } else { 0 };
            if self.behind >= BEHIND {
                // Of a time that the server's storage was set back from, or its cache stands still.
                self.forget(false);
            }
            match error {
                ApiError::Unfinished => self.paged_until = Some(Instant::now() + PAGED_ONCE),
                // Caches know no pages.
                ApiError::TooLarge(_) if self.resource_version.is_none() => {
                    self.freshness = Freshness::Latest
                }
                _ => {}
            }
            self.tell(Change::Fault(reason)).await?;
        }
        // A server that forgets what it has just said must not be asked without a pause either.
        sleep(self.backoff.delay_after(error.asked_pause())).await;
        Ok(())
    }

    /// The next list must not be from before the resource version, if that was any good.
    fn forget(&mut self, good: bool) {
        self.freshness = match self.resource_version.take() {
            Some(resource_version) if good && !self.latest => Freshness::NotOlderThan(resource_version),
            _ => Freshness::Latest,
        };
        (self.behind, self.doubted) = (0, false);
    }

    async fn tell(&self, change: Change) -> Result<(), ReceiverDropped> {
        self.out.send((self.kind, change)).await.map_err(|_| ReceiverDropped)
    }

    /// Everything, all at once or page by page.
    async fn list(&mut self, client: &Client) -> Result<Ended, Ended> {
        self.tell(Change::Init).await?;
        let mut query = Query::List(self.freshness.clone());
        loop {
            let body = api::whole(api::get(client, &query.path(self.kind)).await?).await?;
            let page = parse_page(&body)?;
            for item in page.items {
                self.apply(item.get()).await?;
            }
            match page.next {
                Some(token) => query = Query::NextPage(token),
                None => {
                    self.resource_version = Some(page.resource_version);
                    self.tell(Change::InitDone).await?;
                    return Ok(Ended::Listed);
                }
            }
        }
    }

    /// What happens from a resource version on; or everything, streamed, and then that.
    async fn watch(&mut self, client: &Client, query: &Query) -> Result<Ended, Ended> {
        let mut listing = query.is_streamed_list();
        let mut lines = Lines::new(self.begin_watch(client, query).await?);
        self.watching = (!listing).then(Instant::now);
        self.tell(if listing { Change::Init } else { Change::Alive }).await?;
        loop {
            let line = match lines.next(if listing { LISTING } else { self.quiet }).await {
                Err(ApiError::Silent(_)) if !listing => return Ok(Ended::Quiet),
                line => line?,
            };
            let Some(line) = line else {
                return if listing { Err(ApiError::Unfinished.into()) } else { Ok(Ended::Closed) };
            };
            let resource_version = match parse_event(&line)? {
                Event::Error(error) => return Err(error.into()),
                Event::Apply(json) => self.apply(json).await?,
                Event::Delete(json) => self.delete(json).await?,
                Event::Bookmark { resource_version, ends_list } => {
                    if listing && ends_list {
                        listing = false;
                        self.watching = Some(Instant::now());
                        self.tell(Change::InitDone).await?;
                    } else {
                        self.tell(Change::Alive).await?;
                    }
                    Some(resource_version)
                }
            };
            // In the middle of a list there is none.
            if let (false, Some(resource_version)) = (listing, resource_version) {
                self.resource_version = Some(resource_version);
                self.behind = 0;
            }
        }
    }

    /// Asks whether the server's history goes as far as the resource version at all. An API server whose storage was set
    /// back accepts a watch from there and sends nothing over it.
    async fn check_resource_version(&mut self, client: &Client) -> Result<(), ApiError> {
        match self.newest(client).await {
            Ok(newest) if self.resource_version.as_ref().is_some_and(|known| is_before(&newest, known)) => {
                let resource_version = self.resource_version.as_deref();
                tracing::info!(
                    resource = %self.kind,
                    resource_version,
                    newest,
                    "the history was set back; listing anew"
                );
                self.forget(false);
            }
            Err(error) if error.code().is_none() => return Err(error),
            // A refusal says nothing about the resource version.
            _ => self.doubted = false,
        }
        Ok(())
    }

    async fn newest(&self, client: &Client) -> Result<String, ApiError> {
        let answer = self.quiet / ANSWER_SHARE;
        let asked = async {
            let body = api::whole(api::get(client, &Query::Newest.path(self.kind)).await?).await?;
            Ok(parse_page(&body)?.resource_version)
        };
        tokio::time::timeout(answer, asked).await.unwrap_or(Err(ApiError::Silent(answer)))
    }

    /// A server that stands still must not pass for one that answers for longer than this.
    async fn begin_watch(&self, client: &Client, query: &Query) -> Result<Body, ApiError> {
        if query.is_streamed_list() {
            return api::get(client, &query.path(self.kind)).await;
        }
        let answer = self.quiet / ANSWER_SHARE;
        let asked = tokio::time::timeout(answer, api::get(client, &query.path(self.kind))).await;
        asked.unwrap_or(Err(ApiError::Silent(answer)))
    }

    async fn apply(&self, json: &str) -> Result<Option<String>, ReceiverDropped> {
        let Some(mut reading) = reading::read(self.kind, json) else {
            self.tell(Change::Nameless).await?;
            return Ok(None);
        };
        let resource_version = reading.resource_version.take();
        self.tell(Change::Apply(Box::new(reading))).await?;
        Ok(resource_version)
    }

    async fn delete(&self, json: &str) -> Result<Option<String>, ReceiverDropped> {
        let Some((key, resource_version)) = reading::name(self.kind, json) else { return Ok(None) };
        self.tell(Change::Delete(key)).await?;
        Ok(resource_version)
    }
}

/// Kind versions are opaque, but for their order (KEP-5504).
fn is_before(resource_version: &str, other: &str) -> bool {
    let number = |text: &str| text.parse::<u64>().ok();
    number(resource_version).zip(number(other)).is_some_and(|(one, other)| one < other)
}

/// Whether an answer means that lists are not streamed here, and not that we aren't let in or must wait.
fn refuses_streaming(error: &ApiError) -> bool {
    const OTHERS: [u16; 6] = [401, 403, 410, 429, 503, 504];
    matches!(error, ApiError::Silent(_)) || error.code().is_some_and(|code| !OTHERS.contains(&code))
}
