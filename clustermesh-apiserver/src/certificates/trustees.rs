//! Who trusts an authority that has issued nothing yet: a certificate of it is made for the occasion, kept nowhere, and shown to
//! the own etcd and to every peer, as the apiserver and an agent would.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use mesh_failure::chain;
use mesh_kv::fault::CallReason;
use mesh_kv::{Credentials, Dialer, EtcdEndpoint, Session, Tls, TlsError};
use mesh_model::record::RecordKey;
use mesh_peers::PeerFile;
use mesh_trust::{Authority, AuthorityError, Lifetime, Role, Wanted};
use rustls::pki_types::UnixTime;

use super::rotation::{Answer, Asked, Party};

/// How long the certificates count: as long as an answer may take, and clocks may be late.
const OCCASION: Duration = Duration::from_secs(600);

/// Why nobody can be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("making a certificate to be shown to peers")]
    Issue(#[from] AuthorityError),
    #[error("using a certificate that was made to be shown to peers")]
    Use(#[from] TlsError),
}

/// The cluster's own etcd, where the apiserver shows it what is made here.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnEtcd {
    pub(crate) endpoints: Vec<EtcdEndpoint>,
}

/// Asks each member of the own etcd; `trust` is what its own certificate is judged by.
pub(super) async fn of_etcd(
    etcd: &OwnEtcd,
    (next, trust): (&Authority, &str),
    wanted: Option<&Wanted>,
    now: UnixTime,
) -> Result<Vec<Asked>, AskError> {
    let Some(wanted) = wanted.filter(|_| !etcd.endpoints.is_empty()) else { return Ok(Vec::new()) };
    let names: Vec<String> = wanted.names.iter().cloned().collect();
    let own = credentials(next, Role::Apiserver, &names, now)?;
    let tls = Tls::trusting(trust, Some(&own))?;
    let key = RecordKey::Cluster(next.cluster().clone()).to_string();
    let asked = etcd.endpoints.iter().filter(|endpoint| endpoint.is_secure()).map(async |endpoint| Asked {
        who: Party::Etcd(endpoint.to_string()),
        answer: match Dialer::new(vec![endpoint.clone()], Some(tls.clone())) {
            Ok(dialer) => ask(dialer, &key).await,
            Err(error) => Answer::Silent(chain(&error)),
        },
    });
    Ok(join_all(asked).await)
}

/// Asks each peer, wherever it is reached over TLS.
pub(super) async fn of_peers(
    peers: &[PeerFile],
    next: &Authority,
    now: UnixTime,
) -> Result<Vec<Asked>, AskError> {
    let own = credentials(next, Role::Agent, &[], now)?;
    let asked = peers.iter().filter(|peer| peer.trust.is_some()).map(async |peer| Asked {
        who: Party::Peer(peer.name.clone()),
        answer: match peer.dialer(Some(&own)) {
            Ok(dialer) => ask(dialer, &RecordKey::Cluster(peer.name.clone()).to_string()).await,
            Err(problem) => Answer::Silent(problem.to_string()),
        },
    });
    Ok(join_all(asked).await)
}

fn credentials(
    next: &Authority,
    role: Role,
    names: &[String],
    now: UnixTime,
) -> Result<Credentials, AskError> {
    let issued = next.issue(role, names, Lifetime::starting(now, OCCASION))?;
    Ok(Credentials::of_pair(&issued.certificate_pem, &issued.key_pem)?)
}

/// In TLS 1.3 a client hears of its refusal only by what comes instead of the first answer.
async fn ask(dialer: Dialer, key: &str) -> Answer {
    let session = match Session::open(&Arc::new(dialer)).await {
        Ok(session) => session,
        Err(error) => return Answer::Silent(chain(&error)),
    };
    let Err(error) = session.read("asking whether a new authority is trusted", key).await else {
        return Answer::Trusts;
    };
    match &error.reason {
        CallReason::Unwelcome(_) => Answer::Refuses(chain(&error)),
        CallReason::Deadline | CallReason::Broken(_) => Answer::Silent(chain(&error)),
        // Whoever refuses a call has let the caller in.
        _ => Answer::Trusts,
    }
}
