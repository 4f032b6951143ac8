//! Who leads: this replica campaigns while it could lead, and stands by for another that does.
//!
//! A replica that resigned does not campaign while it is unfit. Where nobody is fit, the last leader goes on.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use mesh_kv::election::{self, Leadership};
use mesh_kv::fault::CallReason;
use mesh_kv::standby::{Standby, is_denied, may_lead};
use mesh_kv::{CallError, Session};
use mesh_model::name::ClusterName;
use tokio::time::sleep;

use super::Exporter;
use super::fault::ExportError;
use super::fitness::{Fitness, Role, Unfit};

/// How often etcd is asked whether this replica may write, while another leads.
const ASK: Duration = Duration::from_secs(10);
/// How often a leader looks who stands by.
const COUNT: Duration = Duration::from_secs(10);
/// The same while it should not lead.
const COUNT_UNFIT: Duration = Duration::from_secs(1);
/// Whoever was left the lead takes it within moments; after so long the one that resigned takes it back.
const RECLAIM: Duration = Duration::from_secs(10);

impl Exporter {
    /// Waits until this process leads.
    pub(super) async fn lead(&mut self, session: &Session) -> Result<Leadership, ExportError> {
        let (fitness, name) = (Arc::clone(&self.fitness), self.identity.name.clone());
        tokio::select! {
            Err(error) = Box::pin(ask(&fitness, &name, session)) => Err(error.into()),
            leads = self.campaign(session) => leads,
        }
    }

    async fn campaign(&mut self, session: &Session) -> Result<Leadership, ExportError> {
        let previous = self.leadership.take();
        loop {
            if !self.may_campaign() {
                match self.candidate.incumbent(session).await? {
                    Some((holder, revision)) => self.stand_by(session, &holder, revision).await?,
                    None => self.until_candidate().await,
                }
                continue;
            }
            match self.candidate.campaign(session, previous.as_ref()).await? {
                election::Role::Leader(leadership) => {
                    self.led_last = true;
                    return Ok(leadership);
                }
                election::Role::Standby { holder, revision } => {
                    self.stand_by(session, &holder, revision).await?
                }
            }
        }
    }

    fn may_campaign(&self) -> bool {
        self.fitness.judge(Role::Leader).is_ok() || (self.led_last && self.fitness.has_list())
    }

    /// Nobody leads, and this replica should not: waits a while for that to change.
    async fn until_candidate(&mut self) {
        tokio::select! {
            () = self.fitness.until_fit(Role::Leader) => {}
            () = sleep(RECLAIM) => self.led_last |= self.resigned,
        }
    }

    /// Waits until nobody leads. Ready as soon as there is something to publish then.
    async fn stand_by(&mut self, session: &Session, holder: &str, revision: i64) -> Result<(), ExportError> {
        self.set_leading(false);
        (self.led_last, self.resigned) = (false, false);
        tracing::info!(leader = holder, "standing by");
        let mut snapshots = self.source.snapshots.clone();
        if snapshots.borrow().is_none() {
            self.condition
                .not_ready(format!("standby of {holder}; waiting for the source's first full list"));
        }
        let (fitness, standby) = (Arc::clone(&self.fitness), Arc::clone(&self.standby));
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
            Err(error) = Box::pin(announce(&fitness, &standby, session)) => Err(error.into()),
            vacant = self.candidate.vacancy(session, revision) => Ok(vacant?),
        }
    }

    /// Waits until another should lead instead: this replica should not any more, and somebody stands by.
    pub(super) fn relief<'a>(&self, session: &'a Session) -> impl Future<Output = Unfit> + use<'a> {
        let (fitness, standby) = (Arc::clone(&self.fitness), Arc::clone(&self.standby));
        let metrics = self.metrics.clone();
        async move {
            withdraw(&standby, session).await;
            let mut told = false;
            loop {
                let others = standby.others(session).await;
                let count = others.as_ref().map_or(0, Vec::len);
                metrics.standbys.set(i64::try_from(count).unwrap_or(i64::MAX));
                match fitness.judge(Role::Leader) {
                    Ok(()) => {
                        told = false;
                        tokio::select! {
                            _ = fitness.until_unfit(Role::Leader) => {}
                            () = sleep(COUNT) => {}
                        }
                    }
                    Err(unfit) if count > 0 => return unfit,
                    Err(unfit) => {
                        if !std::mem::replace(&mut told, true) {
                            tracing::warn!(reason = %unfit, "nobody else stands by: this replica goes on leading");
                        }
                        sleep(COUNT_UNFIT).await;
                    }
                }
            }
        }
    }
}

/// Asks etcd again and again whether this replica may write.
async fn ask(fitness: &Fitness, cluster: &ClusterName, session: &Session) -> Result<Infallible, CallError> {
    loop {
        match may_lead(session, cluster).await {
            Ok(()) => fitness.allow(),
            Err(error) if is_denied(&error.reason) => fitness.deny(error.to_string()),
            // That is no matter of this replica's.
            Err(CallError { reason: CallReason::NoSpace(_), .. }) => {}
            Err(error) => return Err(error),
        }
        sleep(ASK).await;
    }
}

/// Tells the one that leads whether this replica could.
async fn announce(fitness: &Fitness, standby: &Standby, session: &Session) -> Result<Infallible, CallError> {
    loop {
        fitness.until_fit(Role::Standby).await;
        let announced = async {
            standby.announce(session).await?;
            tokio::select! {
                Err(error) = standby.keep(session) => Err(error),
                unfit = fitness.until_unfit(Role::Standby) => Ok(unfit),
            }
        };
        match announced.await {
            Ok(unfit) => {
                tracing::info!(reason = %unfit, "this replica stands by no more");
                standby.withdraw(session).await?;
            }
            Err(error) if is_denied(&error.reason) => fitness.deny(error.to_string()),
            Err(CallError { reason: CallReason::NoSpace(_), .. }) => sleep(ASK).await,
            // This process stood still for longer than the lease.
            Err(CallError { reason: CallReason::Expired, .. }) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Takes the announcement back; where that fails, it ends with its lease.
pub(super) async fn withdraw(standby: &Standby, session: &Session) {
    if let Err(error) = standby.withdraw(session).await {
        tracing::debug!(error = %error, "the announcement ends with its lease");
    }
}
