//! The judgement of [`Trust`] where rustls asks for it, on either side of a connection.

use std::fmt;
use std::sync::{Arc, LazyLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    ServerConfig, SignatureScheme, SupportedProtocolVersion, WantsVerifier,
};

use crate::identity::Identity;
use crate::refusal::Refusal;
use crate::trust::{ALGORITHMS, Side, Trust};

/// The versions of TLS that the mesh speaks.
const TLS_1_3_ONLY: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// Made once: rustls makes every part of it anew.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(ring::default_provider()));

/// The cryptography that all connections use.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

/// What a server of the mesh begins with: TLS 1.3 alone.
pub fn server_config() -> ConfigBuilder<ServerConfig, WantsVerifier> {
    let builder = ServerConfig::builder_with_provider(provider());
    builder.with_protocol_versions(TLS_1_3_ONLY).expect("ring has what TLS 1.3 needs")
}

/// The same for a client of the mesh.
pub fn client_config() -> ConfigBuilder<ClientConfig, WantsVerifier> {
    let builder = ClientConfig::builder_with_provider(provider());
    builder.with_protocol_versions(TLS_1_3_ONLY).expect("ring has what TLS 1.3 needs")
}

/// Is told of every refusal: rustls passes on only what fits into an alert.
type Refused = Arc<dyn Fn(&Refusal) + Send + Sync>;

/// What both sides do alike.
struct Verifier {
    trust: Arc<Trust>,
    refused: Refused,
}

impl Verifier {
    fn told<T>(&self, judgement: Result<T, Refusal>) -> Result<T, Error> {
        judgement.map_err(|refusal| {
            (self.refused)(&refusal);
            refusal.into()
        })
    }
}

/// A server's view: any process of any trusted cluster may connect. What it may then read is decided elsewhere.
pub struct ClientVerifier(Verifier);

impl ClientVerifier {
    pub fn new(trust: Arc<Trust>, refused: Refused) -> Self {
        Self(Verifier { trust, refused })
    }
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientVerifier").field("trust", &self.0.trust).finish_non_exhaustive()
    }
}

impl ClientCertVerifier for ClientVerifier {
    /// None: a client that holds one certificate shows it, and need not be told whom we trust.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.0.told(self.0.trust.admit(leaf, intermediates, Side::Client, now))?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls_1_2())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

/// A client's view: exactly one identity may answer, wherever it is reached.
pub struct ServerVerifier {
    verifier: Verifier,
    expected: Identity,
}

impl ServerVerifier {
    pub fn new(trust: Arc<Trust>, expected: Identity, refused: Refused) -> Self {
        Self { verifier: Verifier { trust, refused }, expected }
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Refusal> {
        let claimed = self.verifier.trust.admit(leaf, intermediates, Side::Server, now)?;
        if claimed == self.expected {
            return Ok(());
        }
        Err(Refusal::Other { claimed, expected: self.expected.clone() })
    }
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerVerifier").field("expected", &self.expected).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verifier.told(self.judge(leaf, intermediates, now))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls_1_2())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

fn tls_1_2() -> Error {
    Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13)
}
