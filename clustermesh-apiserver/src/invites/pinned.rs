//! Whom an invite leads to: the apiserver of the cluster that the token names, vouched for by the authority whose fingerprint
//! it has. Nothing else is known of that cluster yet.

use std::sync::Arc;

use mesh_membership::invite::{Digest, Token};
use mesh_model::name::ClusterName;
use mesh_trust::{Bundle, Fingerprint, Identity, Role, ServerVerifier, Trust};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

use crate::membership::Told;

/// Takes the server that an invite is of, and nobody else.
#[derive(Debug)]
pub(super) struct PinnedVerifier {
    cluster: ClusterName,
    authority: Digest,
    told: Told,
}

impl PinnedVerifier {
    pub(super) fn new(token: &Token, told: Told) -> Self {
        Self { cluster: token.cluster.clone(), authority: token.fingerprint, told }
    }

    /// What judges by these roots alone.
    fn by(&self, trust: Trust) -> ServerVerifier {
        let expected = Identity::new(self.cluster.clone(), Role::Apiserver);
        ServerVerifier::new(Arc::new(trust), expected, self.told.listener())
    }

    fn root(&self, shown: &[CertificateDer<'_>]) -> Result<Bundle, String> {
        let pinned = self.authority.to_string();
        let root = shown.iter().find(|certificate| Fingerprint::of(certificate).to_string() == pinned);
        let root = root.ok_or_else(|| {
            format!(
                "it shows no certificate with the fingerprint {pinned} that the invite of {} names: the address leads to \
                 another cluster, {} has another authority by now, or somebody stands between",
                self.cluster, self.cluster
            )
        })?;
        Bundle::of_root(root).map_err(|error| mesh_failure::chain(&error))
    }
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let root = self.root(intermediates).map_err(|why| {
            self.told.tell(why);
            Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)
        })?;
        let trust = Trust::in_one(self.cluster.clone(), Arc::new(root));
        self.by(trust).verify_server_cert(leaf, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by(Trust::default()).verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by(Trust::default()).verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by(Trust::default()).supported_verify_schemes()
    }
}
