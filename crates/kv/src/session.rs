//! One connection to one etcd, and the calls on it.
//!
//! A session never reconnects: whatever was read in one session was read from one etcd process, which a silent
//! reconnect could not promise. Whoever owns a session opens another after a failure.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, GetOptions, KvClient, ResponseHeader, Txn, WatchOptions, WatchStream};
use hyper_util::rt::TokioIo;
use tokio::sync::watch;

use crate::dial::{Dialed, Dialer, Ending, Stream};
use crate::entry::{Entry, RawEntry};
use crate::etcd_endpoint::EtcdEndpoint;
use crate::fault::{CallError, CallReason, DialError, Superseded};
use crate::shown::Shown;

/// For every call but an open watch.
pub(crate) const CALL_DEADLINE: Duration = Duration::from_secs(5);

/// etcd closes connections whose pings come more often than every 5 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The biggest message that we take: far above a sane page or burst, far below what would hurt.
const MAX_MESSAGE_BYTES: usize = 32 << 20;

/// At a million changes a second an etcd needs 140,000 years for as many.
const MAX_REVISION: i64 = i64::MAX / 2;

/// Keys of one page of a list.
pub(crate) const PAGE_KEYS: i64 = 1000;

/// One connection.
pub struct Session {
    dialer: Arc<Dialer>,
    endpoint: EtcdEndpoint,
    address: SocketAddr,
    shown: Option<Shown>,
    ending: Ending,
    client: Client,
}

impl Session {
    /// Dials; nothing is asked of the server yet.
    pub async fn open(dialer: &Arc<Dialer>) -> Result<Self, DialError> {
        let Dialed { endpoint, address, shown, stream } = dialer.dial().await?;
        let ending = stream.ending();
        let channel = etcd_client::Channel::Tonic(channel(&endpoint, stream));
        let client = Client::from_channel(channel, None).await.expect("without a user nothing is sent");
        Ok(Self { dialer: Arc::clone(dialer), endpoint, address, shown, ending, client })
    }

    /// Ends once the connection would not be made any more by what dials now.
    pub(crate) fn superseded(
        &self,
        mut dialers: watch::Receiver<Arc<Dialer>>,
    ) -> impl Future<Output = Superseded> + Send + use<> {
        let (endpoint, shown) = (self.endpoint.clone(), self.shown.clone());
        async move {
            loop {
                let Ok(()) = dialers.changed().await else { return std::future::pending().await };
                let dialer = Arc::clone(&dialers.borrow_and_update());
                if let Err(superseded) = dialer.stands(&endpoint, shown.as_ref()) {
                    return superseded;
                }
            }
        }
    }

    pub fn endpoint(&self) -> &EtcdEndpoint {
        &self.endpoint
    }

    /// Runs a call with a deadline. A broken or hung endpoint is avoided by the next dial.
    pub(crate) async fn call<T>(
        &self,
        action: &'static str,
        call: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, CallError> {
        match tokio::time::timeout(CALL_DEADLINE, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.refused(action, &error)),
            Err(_) => Err(self.failed(action, CallReason::Deadline)),
        }
    }

    /// Makes an error of why a call on this session failed.
    pub(crate) fn failed(&self, action: &'static str, reason: CallReason) -> CallError {
        if matches!(reason, CallReason::Deadline | CallReason::Broken(_) | CallReason::Unwelcome(_)) {
            self.dialer.avoid(&self.endpoint, self.address);
        }
        CallError { endpoint: self.endpoint.clone(), action, reason }
    }

    /// Makes an error of what etcd-client says of a call on this session.
    pub(crate) fn refused(&self, action: &'static str, error: &etcd_client::Error) -> CallError {
        let reason = match CallReason::of(error, self.ending.text()) {
            CallReason::Broken(text) if self.endpoint.is_secure() && !self.ending.answered() => {
                CallReason::Unwelcome(text)
            }
            reason => reason,
        };
        self.failed(action, reason)
    }

    /// The store's revision, out of an answer's header.
    fn revision(&self, action: &'static str, header: Option<&ResponseHeader>) -> Result<i64, CallError> {
        let told = header.map_or(0, ResponseHeader::revision);
        plausible(told).map_err(|reason| self.failed(action, reason))
    }

    pub(crate) fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(crate) fn lease(&self) -> etcd_client::LeaseClient {
        self.client.lease_client()
    }

    pub(crate) fn maintenance(&self) -> etcd_client::MaintenanceClient {
        self.client.maintenance_client()
    }

    /// Reads one key. Returns the store's revision at that moment, and the entry if there is one.
    pub async fn read(&self, action: &'static str, key: &str) -> Result<(i64, Option<Entry>), CallError> {
        let mut answer = self.call(action, self.kv().get(key, None)).await?;
        let revision = self.revision(action, answer.header())?;
        Ok((revision, answer.take_kvs().pop().map(Into::into)))
    }

    /// Reads one key as it stood at a revision.
    pub(crate) async fn read_at(
        &self,
        action: &'static str,
        key: &str,
        revision: i64,
    ) -> Result<Option<Entry>, CallError> {
        let options = GetOptions::new().with_revision(revision);
        let mut answer = self.call(action, self.kv().get(key, Some(options))).await?;
        Ok(answer.take_kvs().pop().map(Into::into))
    }

    /// Applies a transaction. Returns its revision where its comparisons held.
    pub(crate) async fn commit(&self, action: &'static str, txn: Txn) -> Result<Option<i64>, CallError> {
        let answer = self.call(action, self.kv().txn(txn)).await?;
        let revision = self.revision(action, answer.header())?;
        Ok(answer.succeeded().then_some(revision))
    }

    /// Forgets the history before a revision. One that is forgotten already is no error.
    pub(crate) async fn compact(&self, revision: i64) -> Result<(), CallError> {
        match self.call("compacting the history", self.kv().compact(revision, None)).await {
            Err(CallError { reason: CallReason::Revision(_), .. }) | Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Lists everything below a prefix, in pages that all show the same revision.
    pub fn list<'a>(&'a self, action: &'static str, prefix: &str) -> Pages<'a> {
        Pages {
            session: self,
            action,
            next: Some(prefix.as_bytes().to_vec()),
            end: prefix_end(prefix),
            revision: None,
            limit: PAGE_KEYS,
        }
    }

    /// Everything from a key on and before another one.
    pub(crate) fn list_range<'a>(&'a self, action: &'static str, from: &str, end: &str) -> Pages<'a> {
        Pages { next: Some(from.into()), end: end.into(), ..self.list(action, from) }
    }

    /// Opens a watch on everything below a prefix, behind a revision, and reads its confirmation.
    ///
    /// Without fragments: the client doesn't show which message is the last fragment of a revision, and half a
    /// revision must never be applied. A message is bounded by what we decode instead.
    pub(crate) async fn watch(&self, prefix: &str, behind: i64) -> Result<WatchStream, CallError> {
        self.open_watch(prefix, WatchOptions::new().with_prefix(), behind).await
    }

    /// The same on one key.
    pub(crate) async fn watch_key(&self, key: &str, behind: i64) -> Result<WatchStream, CallError> {
        self.open_watch(key, WatchOptions::new(), behind).await
    }

    /// The same on every key there is.
    #[cfg(feature = "testing")]
    pub(crate) async fn watch_all(&self, behind: i64) -> Result<WatchStream, CallError> {
        self.open_watch("", WatchOptions::new().with_all_keys(), behind).await
    }

    async fn open_watch(
        &self,
        key: &str,
        options: WatchOptions,
        behind: i64,
    ) -> Result<WatchStream, CallError> {
        const ACTION: &str = "opening the watch";
        let mut client = self.client.watch_client().max_decoding_message_size(MAX_MESSAGE_BYTES);
        let options = options.with_start_revision(behind.saturating_add(1)).with_progress_notify();
        let opening = async {
            let mut stream = client.watch(key, Some(options)).await?;
            let first = stream.message().await?;
            Ok((stream, first))
        };
        let (stream, first) = self.call(ACTION, opening).await?;
        match first {
            Some(first) if first.created() && !first.canceled() => Ok(stream),
            Some(first) => Err(self.failed(ACTION, CallReason::of_cancel(&first))),
            None => Err(self.failed(ACTION, CallReason::Broken("the watch ended at once".into()))),
        }
    }
}

/// Refuses what no etcd counts to; from then on one can add to it.
fn plausible(revision: i64) -> Result<i64, CallReason> {
    match revision {
        1..MAX_REVISION => Ok(revision),
        other => Err(CallReason::Implausible(format!(
            "the server says that its revision is {other}: check that an etcd listens there"
        ))),
    }
}

/// The first key behind all that begin with a prefix.
pub(crate) fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    let last = end.last_mut().expect("a prefix is never empty");
    *last = last.checked_add(1).expect("text holds no byte 255");
    end
}

fn channel(endpoint: &EtcdEndpoint, stream: Stream) -> tonic::transport::Channel {
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let stream = stream.take();
        async move { stream.ok_or_else(|| std::io::Error::other("a session has one connection")) }
    });
    // TLS is below the channel, which needn't know of it.
    tonic::transport::Endpoint::from_shared(format!("http://{}", endpoint.authority()))
        .expect("an endpoint's authority is a valid one")
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connector)
}

/// Part of a list.
#[derive(Clone, Debug)]
pub struct Page {
    /// The revision that all pages of this list show.
    pub revision: i64,
    pub entries: Vec<Entry>,
}

/// The pages of a list.
pub struct Pages<'a> {
    session: &'a Session,
    action: &'static str,
    /// The first key of the next page; none behind the last.
    next: Option<Vec<u8>>,
    end: Vec<u8>,
    revision: Option<i64>,
    limit: i64,
}

impl Pages<'_> {
    /// Keys of a page.
    pub(crate) fn with_limit(self, limit: i64) -> Self {
        Self { limit, ..self }
    }

    /// At this revision; at the newest one without.
    pub(crate) fn at(self, revision: Option<i64>) -> Self {
        Self { revision, ..self }
    }

    /// The next page, none behind the last one. There is always a first page.
    pub async fn next(&mut self) -> Result<Option<Page>, CallError> {
        let page = self.next_raw().await?;
        Ok(page.map(|(revision, entries)| Page {
            revision,
            entries: entries.into_iter().map(Into::into).collect(),
        }))
    }

    /// The same with all that etcd keeps of a key: the revision that all pages show, and the page's entries.
    pub(crate) async fn next_raw(&mut self) -> Result<Option<(i64, Vec<RawEntry>)>, CallError> {
        loop {
            let Some(start) = self.next.clone() else { return Ok(None) };
            match self.read(start).await {
                // Big values: smaller pages until a single value doesn't fit, which etcd itself doesn't take.
                Err(CallError { reason: CallReason::TooBig(_), .. }) if self.limit > 1 => {
                    self.limit = (self.limit / 8).max(1);
                }
                page => return page.map(Some),
            }
        }
    }

    async fn read(&mut self, start: Vec<u8>) -> Result<(i64, Vec<RawEntry>), CallError> {
        let mut options = GetOptions::new().with_range(self.end.clone()).with_limit(self.limit);
        if let Some(revision) = self.revision {
            options = options.with_revision(revision);
        }
        let mut answer = self.session.call(self.action, self.session.kv().get(start, Some(options))).await?;
        let header_revision = self.session.revision(self.action, answer.header())?;
        let revision = *self.revision.get_or_insert(header_revision);
        let more = answer.more();
        let pairs = answer.take_kvs();
        self.next = pairs.last().filter(|_| more).map(|last| [last.key(), &[0]].concat());
        Ok((revision, pairs.into_iter().map(Into::into).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_that_no_etcd_counts_to_are_refused() {
        for hostile in [i64::MIN, -1, 0, MAX_REVISION, i64::MAX] {
            let text = plausible(hostile).unwrap_err().to_string();
            assert!(text.contains(&hostile.to_string()), "{text}");
        }
        assert_eq!(plausible(1).unwrap(), 1);
    }
}
