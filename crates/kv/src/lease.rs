//! A lease in etcd: a promise that expires with its holder.
//!
//! Renewals don't wait for each other's answers, so an etcd that takes seconds to answer ends no lease.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcd_client::LeaseGrantOptions;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rustls::crypto::ring;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::fault::{CallError, CallReason};
use crate::session::Session;

/// How long after its holder's last sign of life a lease ends. etcd takes up to half a second more to notice.
pub(crate) const LEASE_TTL: Duration = Duration::from_secs(3);
/// Two may get lost.
const KEEPALIVE: Duration = Duration::from_secs(1);

/// A lease granted to us. Dropping it keeps it until it expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) id: i64,
}

impl Lease {
    /// Grants a lease and keeps it while `work` goes on with it. The id is ours, so that the lease can be kept
    /// although etcd's answer is still on its way.
    pub(crate) async fn granted<T>(
        session: &Session,
        work: impl AsyncFnOnce(Self) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let lease = Self { id: random_id() };
        let exists = AtomicBool::new(false);
        let working = async {
            lease.grant(session).await?;
            exists.store(true, Ordering::Relaxed);
            work(lease).await
        };
        let keeping = async {
            loop {
                let Err(error) = lease.keep_from(session, Instant::now() + KEEPALIVE).await;
                let too_early =
                    matches!(error.reason, CallReason::Expired) && !exists.load(Ordering::Relaxed);
                if !too_early {
                    return error;
                }
            }
        };
        tokio::select! {
            worked = working => worked,
            error = keeping => Err(error),
        }
    }

    async fn grant(self, session: &Session) -> Result<(), CallError> {
        let seconds = i64::try_from(LEASE_TTL.as_secs()).expect("a few seconds");
        let options = LeaseGrantOptions::new().with_id(self.id);
        session.call("granting a lease", session.lease().grant(seconds, Some(options))).await?;
        Ok(())
    }

    /// Ends the lease now; the keys attached to it go.
    pub(crate) async fn revoke(self, session: &Session) -> Result<(), CallError> {
        session.call("revoking the lease", session.lease().revoke(self.id)).await?;
        Ok(())
    }

    /// Keeps the lease while `work` goes on.
    pub(crate) async fn during<T>(
        self,
        session: &Session,
        work: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        tokio::select! {
            worked = work => worked,
            Err(error) = self.keep(session) => Err(error),
        }
    }

    /// Keeps the lease until it can't.
    pub(crate) async fn keep(self, session: &Session) -> Result<Infallible, CallError> {
        self.keep_from(session, Instant::now()).await
    }

    async fn keep_from(self, session: &Session, first: Instant) -> Result<Infallible, CallError> {
        let mut renewals = FuturesUnordered::new();
        let mut due = interval_at(first, KEEPALIVE);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = due.tick() => renewals.push(self.renew(session)),
                Some(renewed) = renewals.next() => renewed?,
            }
        }
    }

    async fn renew(self, session: &Session) -> Result<(), CallError> {
        let mut client = session.lease();
        session.call("keeping the lease alive", client.keep_alive(self.id)).await?;
        Ok(())
    }
}

/// Unlikely to be anybody else's.
fn random_id() -> i64 {
    let mut bytes = [0; 8];
    ring::default_provider().secure_random.fill(&mut bytes).expect("the kernel's generator never fails");
    // etcd takes 0 for none given, and ids are positive.
    (i64::from_be_bytes(bytes) & i64::MAX).max(1)
}
