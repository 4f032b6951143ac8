//! One connection's life: judge what stands, stand by or become the leader, then publish.

use std::convert::Infallible;

use mesh_kv::Session;
use mesh_kv::election::{Leadership, Standing};
use mesh_kv::publish::read_back;
use tokio::sync::oneshot;

use super::Exporter;
use super::fault::ExportError;
use super::standing::cluster_record;

impl Exporter {
    /// Publishes over one connection until something ends it.
    pub(super) async fn session(&mut self) -> Result<Infallible, ExportError> {
        let session = Session::open(&self.dialer).await?;
        self.metrics.connected.set(1);
        let alarms = std::sync::Arc::clone(&self.alarms);
        let served = tokio::select! {
            never = alarms.follow(&session) => match never {},
            served = self.serve(&session) => served,
        };
        // What etcd refused may have to do with an alarm that isn't known yet.
        if served.as_ref().is_err_and(ExportError::is_refusal) {
            alarms.look(&session).await;
        }
        served
    }

    /// Goes on by itself after etcd had no space.
    async fn serve(&mut self, session: &Session) -> Result<Infallible, ExportError> {
        loop {
            match self.compete(session).await {
                Err(error) if error.is_no_space() => {
                    self.report(&error);
                    self.alarms.until_space().await;
                }
                ended => return ended,
            }
        }
    }

    /// Publishes once this process leads, for as long as it does.
    async fn compete(&mut self, session: &Session) -> Result<Infallible, ExportError> {
        // Not even the leader key is written into another cluster's etcd.
        cluster_record(&self.identity, session.endpoint(), &read_back(session, &self.identity.name).await?)?;
        let leadership = self.lead(session).await?;
        self.leadership = Some(leadership.clone());
        self.metrics.leading.set(1);
        self.leading.send_replace(true);
        let (sender, mut lost) = oneshot::channel();
        // Only tells the publisher, so that a transaction on its way is not abandoned without its answer.
        let keeping = async {
            let Err(error) = leadership.keep(session).await;
            let _ = sender.send(error);
            std::future::pending().await
        };
        tokio::select! {
            never = keeping => never,
            ended = self.publish(session, &leadership, &mut lost) => ended,
        }
    }

    /// Waits until this process leads.
    async fn lead(&mut self, session: &Session) -> Result<Leadership, ExportError> {
        let previous = self.leadership.take();
        loop {
            match self.candidate.campaign(session, previous.as_ref()).await? {
                Standing::Leader(leadership) => return Ok(leadership),
                Standing::Standby { holder, revision } => self.stand_by(session, &holder, revision).await?,
            }
        }
    }

    /// Waits until nobody leads. Ready as soon as there is something to publish then.
    async fn stand_by(&mut self, session: &Session, holder: &str, revision: i64) -> Result<(), ExportError> {
        self.metrics.leading.set(0);
        self.leading.send_replace(false);
        tracing::info!(leader = holder, "standing by");
        let mut snapshots = self.source.snapshots.clone();
        if snapshots.borrow().is_none() {
            self.condition
                .not_ready(format!("standby of {holder}; waiting for the source's first full list"));
        }
        let warming = async {
            // A source whose sender is gone never says anything; its end is its supervisor's business.
            if snapshots.wait_for(Option::is_some).await.is_ok() {
                self.condition.ready();
                self.reported = None;
            }
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            never = warming => match never {},
            vacant = self.candidate.vacancy(session, revision) => Ok(vacant?),
        }
    }
}
