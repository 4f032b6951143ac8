//! Whom a process trusts: a bundle of roots for each cluster, and the judgement of a chain.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use mesh_model::name::ClusterName;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth, RevocationOptions,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};

use crate::bundle::Bundle;
use crate::certificate::Certificate;
use crate::identity::{Identity, Role};
use crate::refusal::Refusal;
use crate::tls::provider;

/// The signatures that count, of chains and of handshakes.
pub(crate) static ALGORITHMS: LazyLock<WebPkiSupportedAlgorithms> =
    LazyLock::new(|| provider().signature_verification_algorithms);

/// Which end of a connection shows a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

/// The clusters whose processes may connect or be connected to, each with the roots that may vouch for it.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    bundles: BTreeMap<ClusterName, Arc<Bundle>>,
    /// Whether a client without an identity may be an agent.
    assumes_agents: bool,
}

impl Trust {
    pub fn new(bundles: BTreeMap<ClusterName, Arc<Bundle>>) -> Self {
        Self { bundles, assumes_agents: false }
    }

    /// Takes a client whose certificate claims no identity for an agent of the one cluster whose roots its chain leads to:
    /// peers that were installed before there were identities show such certificates.
    #[must_use]
    pub fn assuming_agents(self) -> Self {
        Self { assumes_agents: true, ..self }
    }

    /// The roots of one cluster alone.
    pub fn in_one(cluster: ClusterName, bundle: Arc<Bundle>) -> Self {
        Self::new(BTreeMap::from([(cluster, bundle)]))
    }

    pub fn bundle(&self, cluster: &ClusterName) -> Option<&Arc<Bundle>> {
        self.bundles.get(cluster)
    }

    /// Who shows this chain at `now`, on `side`, if it leads to a root that is trusted for exactly the cluster that its
    /// leaf names. Host names play no part. A leaf that names nobody counts only as [`Self::assuming_agents`] says.
    pub fn admit(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        side: Side,
        now: UnixTime,
    ) -> Result<Identity, Refusal> {
        let read = Certificate::read(leaf).map_err(Refusal::Unreadable)?;
        let claimed = match &read.identity {
            Some(identity) => identity.clone(),
            None if side == Side::Client && self.assumes_agents => {
                self.assumed(&read, leaf, intermediates, now)?
            }
            None => return Err(Refusal::NoIdentity),
        };
        let bundle = self
            .bundles
            .get(&claimed.cluster)
            .ok_or_else(|| Refusal::UnknownCluster { cluster: claimed.cluster.clone() })?;
        match verify(bundle, leaf, intermediates, side, now) {
            // It lies beside etcd, and would open every peer to whoever gets hold of it.
            Ok(()) if side == Side::Client && claimed.role == Role::Etcd => {
                Err(Refusal::Role { claimed, wanted: Role::Agent })
            }
            Ok(()) => Ok(claimed),
            Err(why) => Err(Refusal::of_chain(claimed, read.serial, why)),
        }
    }

    /// An agent of the only cluster whose roots a chain leads to. Whether the certificate counts is judged afterwards, as
    /// every other's is: one that was revoked by one cluster must not pass as another's.
    fn assumed(
        &self,
        read: &Certificate,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Identity, Refusal> {
        let leads = |bundle: &Bundle| leads(bundle, read, (leaf, intermediates), now);
        let clusters = self.bundles.iter().filter(|(_, bundle)| leads(bundle)).map(|(name, _)| name.clone());
        let mut clusters: Vec<ClusterName> = clusters.collect();
        match (clusters.pop(), clusters.is_empty()) {
            (None, _) => Err(Refusal::NoIdentity),
            (Some(cluster), true) => Ok(Identity::new(cluster, Role::Agent)),
            (Some(last), false) => {
                clusters.push(last);
                Err(Refusal::Ambiguous { clusters })
            }
        }
    }
}

/// Whether a chain leads to a root of the bundle, on either side, and apart from dates and revocations.
pub(crate) fn leads(
    bundle: &Bundle,
    read: &Certificate,
    (leaf, intermediates): (&CertificateDer<'_>, &[CertificateDer<'_>]),
    now: UnixTime,
) -> bool {
    let alive = now.clamp(read.not_before, read.not_after.max(read.not_before));
    let on = |side| verify_chain(bundle, leaf, intermediates, (side, alive), None).is_ok();
    on(Side::Client) || on(Side::Server)
}

fn verify(
    bundle: &Bundle,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    side: Side,
    now: UnixTime,
) -> Result<(), webpki::Error> {
    let revocations: Vec<&CertRevocationList<'_>> = bundle.revocations.iter().collect();
    verify_chain(bundle, leaf, intermediates, (side, now), revocation(&revocations))
}

fn verify_chain(
    bundle: &Bundle,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    (side, now): (Side, UnixTime),
    revocation: Option<RevocationOptions<'_>>,
) -> Result<(), webpki::Error> {
    let usage = match side {
        Side::Client => KeyUsage::client_auth(),
        Side::Server => KeyUsage::server_auth(),
    };
    EndEntityCert::try_from(leaf)?.verify_for_usage(
        ALGORITHMS.all,
        &bundle.anchors,
        intermediates,
        now,
        usage,
        revocation,
        None,
    )?;
    Ok(())
}

/// Certificates of issuers whose list of revocations is not there count, and so do lists beyond their date: that nobody has
/// written a new list must not cut clusters off from each other.
fn revocation<'a>(lists: &'a [&'a CertRevocationList<'a>]) -> Option<RevocationOptions<'a>> {
    let options = RevocationOptionsBuilder::new(lists).ok()?;
    Some(
        options
            .with_depth(RevocationCheckDepth::Chain)
            .with_status_policy(UnknownStatusPolicy::Allow)
            .with_expiration_policy(ExpirationPolicy::Ignore)
            .build(),
    )
}
