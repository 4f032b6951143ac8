//! A lease in etcd: a promise that expires with its holder.

use std::convert::Infallible;
use std::time::Duration;

use etcd_client::{LeaseKeepAliveStream, LeaseKeeper};

use crate::fault::{CallError, CallReason};
use crate::session::Session;

/// How long after its holder's last sign of life a lease ends. etcd takes up to half a second more to notice.
pub const LEASE_TTL: Duration = Duration::from_secs(3);
/// Two may get lost.
const KEEPALIVE: Duration = Duration::from_secs(1);

/// A lease granted to us. Dropping it keeps it until it expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub(crate) id: i64,
}

impl Lease {
    pub(crate) async fn grant(session: &Session) -> Result<Self, CallError> {
        let seconds = i64::try_from(LEASE_TTL.as_secs()).expect("a few seconds");
        let granted = session.call("granting a lease", session.lease().grant(seconds, None)).await?;
        Ok(Self { id: granted.id() })
    }

    /// Ends the lease now; the keys attached to it go.
    pub(crate) async fn revoke(self, session: &Session) -> Result<(), CallError> {
        session.call("revoking the lease", session.lease().revoke(self.id)).await?;
        Ok(())
    }

    /// Renews once. False where the lease has expired.
    pub(crate) async fn renew(self, session: &Session) -> Result<bool, CallError> {
        match self.open(session).await {
            Ok(_) => Ok(true),
            Err(CallError { reason: CallReason::Refused(_), .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Keeps the lease until it can't.
    pub(crate) async fn keep(self, session: &Session) -> Result<Infallible, CallError> {
        let (mut keeper, mut answers) = self.open(session).await?;
        loop {
            tokio::time::sleep(KEEPALIVE).await;
            renew_on(session, &mut keeper, &mut answers).await?;
        }
    }

    async fn open(self, session: &Session) -> Result<(LeaseKeeper, LeaseKeepAliveStream), CallError> {
        let mut client = session.lease();
        session.call(ACTION, client.keep_alive(self.id)).await
    }
}

const ACTION: &str = "keeping the lease alive";

async fn renew_on(
    session: &Session,
    keeper: &mut LeaseKeeper,
    answers: &mut LeaseKeepAliveStream,
) -> Result<(), CallError> {
    let renewal = async {
        keeper.keep_alive().await?;
        answers.message().await
    };
    match session.call(ACTION, renewal).await? {
        Some(answer) if answer.ttl() > 0 => Ok(()),
        Some(_) => Err(session.failed(ACTION, CallReason::Refused("the lease has expired".into()))),
        None => Err(session.failed(ACTION, CallReason::Broken("the server ended the stream".into()))),
    }
}
