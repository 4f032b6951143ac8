//! One connection's life: judge what stands, stand by or become the leader, then publish.

use std::convert::Infallible;
use std::sync::Arc;

use mesh_kv::Session;
use mesh_kv::election::Leadership;
use mesh_kv::publish::read_back;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::cluster_record::cluster_record;
use super::fault::ExportError;
use super::{Exporter, RESIGN_DEADLINE};

/// So many connections of a leader in a row that end before everything is written are no accident.
const FRUITLESS: u32 = 2;

impl Exporter {
    /// Publishes over one connection until something ends it.
    pub(super) async fn session(&mut self) -> Result<Infallible, ExportError> {
        let session = Session::open(&self.dialer).await?;
        self.metrics.connected.set(1);
        let alarms = Arc::clone(&self.alarms);
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

    /// Goes on by itself after etcd had no space, and after another replica was left the lead.
    async fn serve(&mut self, session: &Session) -> Result<Infallible, ExportError> {
        loop {
            match self.compete(session).await {
                Err(error) if error.is_no_space() => {
                    self.report(&error);
                    self.alarms.until_space().await;
                }
                Err(error) if error.is_unfit() => self.report(&error),
                ended => return ended,
            }
        }
    }

    /// Publishes once this process leads, for as long as it does.
    async fn compete(&mut self, session: &Session) -> Result<Infallible, ExportError> {
        // Not even the leader key is written into another cluster's etcd.
        cluster_record(&self.identity, session.endpoint(), &read_back(session, &self.identity.name).await?)?;
        let leadership = Box::pin(self.lead(session)).await?;
        self.leadership = Some(leadership.clone());
        self.set_leading(true);
        let relief = Box::pin(self.relief(session));
        let (sender, mut lost) = oneshot::channel();
        // Only tells the publisher, so that a transaction on its way is not abandoned without its answer.
        let keeping = async {
            let error = tokio::select! {
                Err(error) = leadership.keep(session) => error.into(),
                unfit = relief => ExportError::Unfit(unfit),
            };
            let _ = sender.send(error);
            std::future::pending().await
        };
        let ended = tokio::select! {
            never = keeping => never,
            ended = self.publish(session, &leadership, &mut lost) => ended,
        };
        if let Err(error) = &ended
            && self.is_relieved(session, error).await
        {
            self.leave(session, leadership).await;
        }
        ended
    }

    /// Whether another replica should lead after this failure, and could.
    async fn is_relieved(&mut self, session: &Session, error: &ExportError) -> bool {
        if error.is_unfit() || !error.is_failed_call() {
            return error.is_unfit();
        }
        self.fruitless += 1;
        if !error.is_denied() && self.fruitless < FRUITLESS {
            return false;
        }
        // Where nobody answers, nobody is known to stand by.
        let others = self.standby.others(session).await.unwrap_or_default();
        if !others.is_empty() {
            self.fitness.stay_away(&error.to_string());
        }
        !others.is_empty()
    }

    /// Gives the lead up.
    async fn leave(&mut self, session: &Session, leadership: Leadership) {
        self.set_leading(false);
        (self.leadership, self.led_last, self.resigned) = (None, false, true);
        match timeout(RESIGN_DEADLINE, leadership.resign(session)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(error = %error, "the leadership ends with its lease"),
            Err(_) => tracing::debug!("the leadership ends with its lease"),
        }
    }
}
