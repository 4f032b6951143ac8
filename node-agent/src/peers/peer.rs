//! One peer's task: follows its etcd and publishes what may be believed of it.

use std::sync::Arc;

use mesh_kv::{Change, Dialer, Event, PeerFile, PeerWatch};
use mesh_model::view::{PeerPin, PeerSnapshot, PeerView};
use mesh_runtime::ranges::Known;
use tokio_util::sync::CancellationToken;

use super::folder::Board;
use super::{Link, Phase};

/// Follows one peer until the token is cancelled.
pub(super) struct PeerTask {
    file: Arc<PeerFile>,
    view: PeerView,
    own_ranges: Known,
    link: Link,
    board: Board,
    /// As last published.
    shown: Arc<PeerSnapshot>,
}

impl PeerTask {
    pub(super) fn new(file: Arc<PeerFile>, pin: PeerPin, own_ranges: Known, board: Board) -> Self {
        let mut view = PeerView::new(pin);
        Self { file, shown: view.snapshot(), view, own_ranges, link: Link::default(), board }
    }

    pub(super) async fn run(mut self, dialer: Arc<Dialer>, token: CancellationToken) {
        let file = self.file.clone();
        PeerWatch::new(dialer, &file.name).run(token, |event| self.take(event)).await;
    }

    fn take(&mut self, event: Event) {
        // The peer's sign of life comes every 2 s, which is soon enough.
        if self.own_ranges.has_changed().unwrap_or(false)
            && let Some(own) = self.own_ranges.borrow_and_update().as_deref()
        {
            self.view.set_own_ranges(own.clone());
        }
        match event {
            Event::Connected { endpoint } => {
                self.link =
                    Link { phase: Phase::Listing, endpoint: Some(endpoint.to_string()), ..self.link.clone() };
                self.link.reason = None;
            }
            Event::ListBegin => return self.view.begin_list(),
            Event::ListPage(entries) => {
                return entries.iter().for_each(|entry| self.view.list_entry(&entry.key, &entry.value));
            }
            Event::ListEnd { revision } => {
                self.view.end_list();
                self.link.phase = Phase::Following;
                self.link.revision = Some(revision);
            }
            Event::Resumed { revision } => {
                self.link.phase = Phase::Following;
                self.link.revision = Some(revision);
            }
            Event::Changed { revision, changes } => {
                changes.iter().for_each(|change| self.change(change));
                self.link.revision = Some(revision);
            }
            Event::Disconnected { reason } => {
                let reason = mesh_kv::fault::chain(&reason);
                tracing::warn!(peer = %self.file.name, reason, "connection to the peer lost; what is known stays");
                self.board.metrics.disconnected(&self.file.name);
                self.link = Link { phase: Phase::Lost, endpoint: None, reason: Some(reason), ..self.link };
            }
        }
        self.publish();
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::Put { key, value } => self.view.put(key, value),
            Change::Delete { key } => self.view.delete(key),
        }
    }

    fn publish(&mut self) {
        let snapshot = self.view.snapshot();
        self.log_rejections(&snapshot);
        self.shown = snapshot.clone();
        let phase = match self.link.phase {
            Phase::Following if !snapshot.synced => Phase::Waiting,
            phase => phase,
        };
        self.board.show(&self.file, |status| {
            status.learn(snapshot);
            status.link = Link { phase, ..self.link.clone() };
        });
    }

    /// Each rejection that was not there before, once.
    fn log_rejections(&self, snapshot: &PeerSnapshot) {
        if snapshot.rejected == self.shown.rejected {
            return;
        }
        let known = &self.shown.recent_rejections;
        for rejection in snapshot.recent_rejections.iter().filter(|text| !known.contains(text)) {
            tracing::warn!(peer = %self.file.name, %rejection, "refused what the peer says");
        }
    }
}
