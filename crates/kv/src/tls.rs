//! Trust in a server and our own identity towards it.
//!
//! Files are read anew at every dial, so that rotated certificates need no restart. Sessions are never resumed:
//! a resumed one repeats neither the chain nor the expiry check, and keeps the old client identity.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::client::Resumption;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Where the trusted roots and our certificate come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    roots: Roots,
    /// A folder with `tls.crt` and `tls.key`; without one we show no certificate.
    identity: Option<PathBuf>,
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
}

impl Tls {
    /// Trust in `ca.crt`, identity from `tls.crt` and `tls.key`, all in one folder.
    pub fn from_dir(dir: &Path) -> Self {
        Self { roots: Roots::File(dir.join("ca.crt")), identity: Some(dir.into()) }
    }

    /// Trust in the PEM roots given, which are checked here; identity from `tls.crt` and `tls.key` in a folder.
    pub fn trusting(roots: &str, identity: Option<&Path>) -> Result<Self, TlsError> {
        root_store(roots.as_bytes(), "trust")?;
        Ok(Self { roots: Roots::Pem(roots.into()), identity: identity.map(Into::into) })
    }

    /// Reads the files as they are now.
    pub(crate) async fn client_config(&self) -> Result<ClientConfig, TlsError> {
        let roots = match &self.roots {
            Roots::File(path) => root_store(&read(path).await?, &path.display().to_string())?,
            Roots::Pem(text) => root_store(text.as_bytes(), "trust")?,
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(TlsError::Setup)?
            .with_root_certificates(roots);
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
