//! Follows one Secret and keeps a folder as it is.
//!
//! Only what a Secret readably holds changes the folder: a Secret that is missing or refused, an API server that is away and
//! data that can't be read leave it as it was, also over restarts. Never ends by itself.

use std::path::PathBuf;
use std::time::Duration;

use kube::Client;
use mesh_failure::{Backoff, chain};
use mesh_kube::{Access, ApiError, Event, Lines, encoded, get, parse_event, parse_page, whole};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::folder::{self, Files, FolderError, Layout};
use crate::metrics::{MirrorMetrics, Series};
use crate::name::{KeyName, SecretName};
use crate::secret::Secret;
use crate::secrets::{folder, remedy};

/// Longer than the minute in which API servers send bookmarks. A watch over which nothing comes for so long is asked anew,
/// with a list before it: of one Secret that costs nothing, and it needs no trust in resource versions.
const QUIET: Duration = Duration::from_secs(75);
/// A watch that has lived so long was none that fails at once.
const STABLE: Duration = Duration::from_secs(5);
/// An API server that can be reached answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// How far a mirror is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MirrorState {
    /// Whether this process has had all of the Secret in the folder at least once. Before that the folder holds what an
    /// earlier process left.
    pub is_complete: bool,
    /// What is wrong, each with its remedy. What is in the folder stays.
    pub problems: Vec<String>,
}

impl MirrorState {
    /// Waits until the folder is as its Secret is, or it is plain that this may take longer. To be waited for before the
    /// folder is read for the first time: what an earlier process left in it is older than what the API server says.
    pub async fn settled(mut mirror: watch::Receiver<Self>) {
        let settled = mirror.wait_for(|state| state.is_complete || !state.problems.is_empty());
        drop(timeout(PATIENCE, settled).await);
    }
}

/// Why a Secret is not followed at the moment.
#[derive(Debug, thiserror::Error)]
enum MirrorError {
    #[error("following the Secret {name}{}; what is known of it stays", remedy(source))]
    Api { name: SecretName, source: ApiError },
    #[error("writing what the Secret {name} holds")]
    Folder { name: SecretName, source: FolderError },
    #[error("writing what the Secret {name} holds was cut short")]
    Cut { name: SecretName },
}

/// Keeps a folder as a Secret is.
#[derive(Debug)]
pub struct Mirror {
    access: Access,
    name: SecretName,
    folder: PathBuf,
    layout: Layout,
    series: Series,
    state: watch::Sender<MirrorState>,
    quiet: Duration,
}

impl Mirror {
    /// `purpose`, one of those that the metrics were registered with, tells the mirrors of a process apart. A folder of
    /// [`Layout::Files`] is the mirror's alone: whatever else is in it goes.
    pub fn new(
        access: Access,
        (purpose, name): (&'static str, SecretName),
        folder: PathBuf,
        layout: Layout,
        metrics: &MirrorMetrics,
    ) -> Self {
        let series = metrics.of(purpose);
        Self { access, name, folder, layout, series, state: watch::Sender::default(), quiet: QUIET }
    }

    /// How long nothing may come over a watch before it is asked anew.
    #[cfg(any(test, feature = "testing"))]
    pub fn quiet(mut self, quiet: Duration) -> Self {
        self.quiet = quiet;
        self
    }

    pub fn state(&self) -> watch::Receiver<MirrorState> {
        self.state.subscribe()
    }

    /// Follows the Secret until the token is cancelled.
    pub async fn run(self, token: CancellationToken) {
        tokio::select! {
            () = token.cancelled() => {}
            () = self.follow_on() => {}
        }
    }

    async fn follow_on(&self) {
        let mut backoff = Backoff::default();
        loop {
            let mut since = None;
            let ended = self.follow(&mut since).await;
            if since.is_some_and(|since: Instant| since.elapsed() >= STABLE) {
                backoff.reset();
            }
            let asked = match &ended {
                Ok(()) => None,
                Err(error) => {
                    self.series.failures.inc();
                    self.tell(vec![chain(error)]);
                    match error {
                        MirrorError::Api { source, .. } => source.asked_pause(),
                        _ => None,
                    }
                }
            };
            sleep(backoff.delay_after(asked)).await;
        }
    }

    /// One list, then what changes, until the watch ends. `since`: when the watch began.
    async fn follow(&self, since: &mut Option<Instant>) -> Result<(), MirrorError> {
        let failed = |source| MirrorError::Api { name: self.name.clone(), source };
        let client = self.access.client().await.map_err(|error| failed(error.into()))?;
        let mut lines = self.list(&client).await?;
        *since = Some(Instant::now());
        loop {
            let line = match lines.next(self.quiet).await {
                Ok(Some(line)) => line,
                Ok(None) | Err(ApiError::Silent(_)) => return Ok(()),
                Err(error) => return Err(failed(error)),
            };
            match parse_event(&line).map_err(failed)? {
                Event::Apply(json) => self.take(json).await?,
                Event::Delete(_) => self.missing(),
                Event::Bookmark { .. } => self.note_success(),
                // Its history is gone: the next list has all that matters.
                Event::Error(error) if error.code() == Some(410) => return Ok(()),
                Event::Error(error) => return Err(failed(error)),
            }
        }
    }

    /// Lists, and begins a watch from there.
    async fn list(&self, client: &Client) -> Result<Lines, MirrorError> {
        let failed = |source| MirrorError::Api { name: self.name.clone(), source };
        let path =
            format!("{}?fieldSelector=metadata.name%3D{}", folder(client), encoded(self.name.as_str()));
        let body = get(client, &path).await.map_err(failed)?;
        let body = whole(body).await.map_err(failed)?;
        let page = parse_page(&body).map_err(failed)?;
        match page.items.first() {
            Some(item) => self.take(item.get()).await?,
            None => self.missing(),
        }
        let from = encoded(&page.resource_version);
        let watch = format!("{path}&watch=1&allowWatchBookmarks=true&resourceVersion={from}");
        get(client, &watch).await.map(Lines::new).map_err(failed)
    }

    /// The Secret is this now.
    async fn take(&self, json: &str) -> Result<(), MirrorError> {
        let malformed =
            |error| MirrorError::Api { name: self.name.clone(), source: ApiError::Malformed(error) };
        let secret = Secret::parse(json.as_bytes()).map_err(malformed)?;
        let (files, mut problems) = self.files(&secret);
        if let Layout::Together(required) = self.layout {
            let lacking: Vec<&str> =
                required.iter().filter(|key| secret.value(key).is_none()).copied().collect();
            if !lacking.is_empty() {
                let lacking = lacking.join(", ");
                problems
                    .push(format!("the Secret {} lacks {lacking}: add it; what is known stays", self.name));
                self.series.failures.inc();
                self.tell(problems);
                return Ok(());
            }
        }
        let (folder, layout) = (self.folder.clone(), self.layout.clone());
        let written = spawn_blocking(move || folder::write(&folder, &layout, &files)).await;
        let written = written.map_err(|_| MirrorError::Cut { name: self.name.clone() })?;
        let changed = written.map_err(|source| MirrorError::Folder { name: self.name.clone(), source })?;
        if changed {
            self.series.writes.inc();
            let version = secret.resource_version();
            tracing::info!(secret = %self.name, version, folder = %self.folder.display(), "a Secret was mirrored");
        }
        self.tell(problems);
        self.state.send_if_modified(|state| !std::mem::replace(&mut state.is_complete, true));
        self.note_success();
        Ok(())
    }

    /// What the folder shall hold, and what no file can have.
    fn files(&self, secret: &Secret) -> (Files, Vec<String>) {
        let (mut files, mut problems) = (Files::new(), Vec::new());
        for (key, value) in secret.data() {
            match KeyName::new(key) {
                Ok(key) => drop(files.insert(key, value.to_vec())),
                Err(error) => problems.push(format!("key of the Secret {}: {error}", self.name)),
            }
        }
        (files, problems)
    }

    fn missing(&self) {
        self.series.failures.inc();
        self.tell(vec![format!(
            "the Secret {} does not exist: create it; what is known of it stays (to remove all, empty it)",
            self.name
        )]);
    }

    fn note_success(&self) {
        if self.state.borrow().problems.is_empty() {
            self.series.succeeded();
        }
    }

    /// Says what is wrong now, once.
    fn tell(&self, problems: Vec<String>) {
        self.state.send_if_modified(|state| {
            if state.problems == problems {
                return false;
            }
            for problem in problems.iter().filter(|it| !state.problems.contains(it)) {
                tracing::warn!(secret = %self.name, error = problem, "a Secret is not mirrored as it is");
            }
            if problems.is_empty() {
                tracing::info!(secret = %self.name, "a Secret is mirrored as it is again");
            }
            state.problems = problems;
            true
        });
    }
}
