//! Which server is the peer's. One that shows an identity has to be exactly the apiserver of that cluster, whatever name or
//! address leads to it: load balancers and NATs stand between. One that shows none is an etcd that is read directly, and has
//! to be the host that was dialled.

use std::sync::Arc;

use mesh_trust::{Certificate, CertificateError, ServerVerifier};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

/// Verifies by identity where there is one, else by host name.
#[derive(Debug)]
pub(crate) struct PeerServer {
    pub(crate) by_identity: ServerVerifier,
    pub(crate) by_name: Arc<WebPkiServerVerifier>,
}

/// Whether a certificate claims an identity, well-formed or not.
fn claims_identity(leaf: &CertificateDer<'_>) -> bool {
    match Certificate::read(leaf) {
        Ok(Certificate { identity, .. }) => identity.is_some(),
        Err(CertificateError::TwoIdentities { .. } | CertificateError::Identity(_)) => true,
        // Whoever verifies it says what is wrong with it.
        Err(_) => false,
    }
}

impl ServerCertVerifier for PeerServer {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if claims_identity(leaf) {
            self.by_identity.verify_server_cert(leaf, intermediates, name, ocsp, now)
        } else {
            self.by_name.verify_server_cert(leaf, intermediates, name, ocsp, now)
        }
    }

    /// Only etcds speak TLS 1.2.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if claims_identity(leaf) {
            self.by_identity.verify_tls12_signature(message, leaf, signature)
        } else {
            self.by_name.verify_tls12_signature(message, leaf, signature)
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_name.verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_name.supported_verify_schemes()
    }
}
