//! Certificates as text, and what is wrong with them.

use std::path::PathBuf;

use rustls::CertRevocationListError;
use rustls::client::VerifierBuilderError;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};

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
    #[error(
        "{place} holds a list of revoked certificates that can't be read ({why:?}): write it again from its source"
    )]
    Revocations { place: String, why: CertRevocationListError },
    #[error("the certificate and key in {folder} can't be used together: write both again, from one issue")]
    Identity { folder: PathBuf, source: rustls::Error },
    #[error("setting TLS up")]
    Setup(#[source] rustls::Error),
    #[error("setting TLS up")]
    Verifier(#[source] VerifierBuilderError),
}

impl TlsError {
    /// Whether a file is not there, as before whoever makes it has done so.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Unreadable { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }
}

pub(crate) fn certificates(bytes: &[u8], place: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(bytes)
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::Pem { place: place.into(), source })?;
    if found.is_empty() { Err(TlsError::NoCertificate { place: place.into() }) } else { Ok(found) }
}
