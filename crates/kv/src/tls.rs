//! Trust in a server and our own identity towards it.
//!
//! Files are read anew at every dial, so that rotated certificates need no restart. Sessions are never resumed:
//! a resumed one repeats neither the chain nor the expiry check, and keeps the old client identity.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesh_model::name::ClusterName;
use mesh_trust::{Bundle, Identity, Role, ServerVerifier, Trust};
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, VerifierBuilderError, WebPkiServerVerifier};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::server::PeerServer;

/// Where the trusted roots and our certificate come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    roots: Roots,
    /// A folder with `tls.crt` and `tls.key`; without one we show no certificate.
    identity: Option<PathBuf>,
    /// Whose mesh API it is, where it is one's.
    peer: Option<ClusterName>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Roots {
    File(PathBuf),
    Pem(Arc<str>),
}

/// Why no TLS connection can be made, before anything is sent.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("reading {path}: check that the file exists and may be read by this process")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{place} holds no certificate: put the CA's or the client's PEM certificate there")]
    NoCertificate { place: String },
    #[error("{place} is no valid PEM: write it again from its source")]
    Pem { place: String, source: pem::Error },
    #[error("{place} holds a certificate that can't be a trust root: use the CA's own certificate")]
    Root { place: String, source: rustls::Error },
    #[error("the certificate and key in {folder} can't be used together: write both again, from one issue")]
    Identity { folder: PathBuf, source: rustls::Error },
    #[error("setting TLS up")]
    Setup(#[source] rustls::Error),
    #[error("setting TLS up")]
    Verifier(#[source] VerifierBuilderError),
}

impl Tls {
    /// Trust in `ca.crt`, identity from `tls.crt` and `tls.key`, all in one folder.
    pub fn from_dir(dir: &Path) -> Self {
        Self { roots: Roots::File(dir.join("ca.crt")), identity: Some(dir.into()), peer: None }
    }

    /// Trust in the PEM roots given, which are checked here; identity from `tls.crt` and `tls.key` in a folder.
    pub fn trusting(roots: &str, identity: Option<&Path>) -> Result<Self, TlsError> {
        root_store(roots.as_bytes(), "trust")?;
        Ok(Self { roots: Roots::Pem(roots.into()), identity: identity.map(Into::into), peer: None })
    }

    /// The server is the mesh API of this cluster, whatever leads to it; or an etcd, which has no identity.
    #[must_use]
    pub fn of_peer(self, cluster: &ClusterName) -> Self {
        Self { peer: Some(cluster.clone()), ..self }
    }

    /// Reads the files as they are now.
    pub(crate) async fn client_config(&self) -> Result<ClientConfig, TlsError> {
        let (text, place) = match &self.roots {
            Roots::File(path) => (read(path).await?.into(), path.display().to_string()),
            Roots::Pem(text) => (Cow::from(text.as_bytes()), "trust".into()),
        };
        let verifier = self.verifier(&text, &place)?;
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(TlsError::Setup)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(folder) => {
                let (chain, key) = identity(folder).await?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|source| TlsError::Identity { folder: folder.clone(), source })?
            }
        };
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }

    /// Judges the server by host name, and a peer's by who it is where it says so.
    fn verifier(&self, roots: &[u8], place: &str) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
        let store = Arc::new(root_store(roots, place)?);
        let by_name = WebPkiServerVerifier::builder_with_provider(store, provider())
            .build()
            .map_err(TlsError::Verifier)?;
        let Some(peer) = &self.peer else { return Ok(by_name) };
        // Roots that vouch for hosts alone, as an etcd's own certificate does, vouch for no identity.
        let bundle = Bundle::from_pem(&String::from_utf8_lossy(roots)).ok();
        let trust = bundle.map_or_else(Trust::default, |bundle| Trust::in_one(peer.clone(), bundle.into()));
        let expected = Identity::new(peer.clone(), Role::Apiserver);
        // What is refused comes back as the reason for which there is no connection.
        let by_identity = ServerVerifier::new(Arc::new(trust), expected, Arc::new(|_| {}));
        Ok(Arc::new(PeerServer { by_identity, by_name }))
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Whether two bundles of roots, as PEM, have a root in common.
pub fn share_roots(one: &str, other: &str) -> bool {
    let of = |pem: &str| certificates(pem.as_bytes(), "trust").unwrap_or_default();
    let others = of(other);
    of(one).iter().any(|root| others.contains(root))
}

async fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    tokio::fs::read(path).await.map_err(|source| TlsError::Unreadable { path: path.into(), source })
}

fn certificates(bytes: &[u8], place: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(bytes)
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::Pem { place: place.into(), source })?;
    if found.is_empty() { Err(TlsError::NoCertificate { place: place.into() }) } else { Ok(found) }
}

fn root_store(bytes: &[u8], place: &str) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(bytes, place)? {
        store.add(certificate).map_err(|source| TlsError::Root { place: place.into(), source })?;
    }
    Ok(store)
}

async fn identity(folder: &Path) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let (certificate, key) = (folder.join("tls.crt"), folder.join("tls.key"));
    let chain = certificates(&read(&certificate).await?, &certificate.display().to_string())?;
    let key = PrivateKeyDer::from_pem_slice(&read(&key).await?)
        .map_err(|source| TlsError::Pem { place: key.display().to_string(), source })?;
    Ok((chain, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_without_a_certificate_is_refused() {
        let error = Tls::trusting("", None).unwrap_err().to_string();
        assert!(error.contains("trust holds no certificate"), "{error}");
        let broken = "-----BEGIN CERTIFICATE-----\n%%\n-----END CERTIFICATE-----\n";
        assert!(Tls::trusting(broken, None).is_err());
        let no_root = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(Tls::trusting(no_root, None), Err(TlsError::Root { .. })));
    }
}
