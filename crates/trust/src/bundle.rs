//! The roots that are trusted for one cluster, with its lists of revoked certificates: what `trust` holds in a peer file.

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor};
use webpki::{CertRevocationList, OwnedCertRevocationList, anchor_from_trusted_cert};

use crate::certificate::{Certificate, CertificateError, Fingerprint};

/// Roots that may stand in one bundle: an old and a new one while an authority is replaced, and room for a company's.
const MAX_ROOTS: usize = 16;

/// The roots that are trusted for one cluster. During the replacement of an authority it has the old and the new one.
#[derive(Debug)]
pub struct Bundle {
    pub(crate) anchors: Vec<TrustAnchor<'static>>,
    pub(crate) revocations: Vec<CertRevocationList<'static>>,
    fingerprints: Vec<Fingerprint>,
}

/// Why a text is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("it is no valid PEM: write it again from its source")]
    Pem(#[source] pem::Error),
    #[error("it holds no certificate: put the PEM certificate of the cluster's CA there")]
    NoRoot,
    #[error("it holds {count} certificates; at most {MAX_ROOTS} are allowed")]
    TooMany { count: usize },
    #[error("certificate {at} can't be read")]
    Certificate { at: usize, source: CertificateError },
    #[error("certificate {at} ({fingerprint}) is no CA's: use the certificate that signed it")]
    NotAnAuthority { at: usize, fingerprint: Fingerprint },
    #[error("certificate {at} can't be a root: {why}")]
    Root { at: usize, why: webpki::Error },
    #[error("list of revoked certificates {at} can't be read: {why}")]
    Revocations { at: usize, why: webpki::Error },
}

impl Bundle {
    /// Reads PEM: CA certificates, and lists of revoked certificates (`X509 CRL`) that these have signed.
    pub fn from_pem(text: &str) -> Result<Self, BundleError> {
        let roots: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(BundleError::Pem)?;
        if roots.is_empty() {
            return Err(BundleError::NoRoot);
        }
        if roots.len() > MAX_ROOTS {
            return Err(BundleError::TooMany { count: roots.len() });
        }
        let anchors =
            roots.iter().enumerate().map(|(at, root)| anchor(at + 1, root)).collect::<Result<_, _>>()?;
        let fingerprints = roots.iter().map(Fingerprint::of).collect();
        Ok(Self { anchors, revocations: revocations(text)?, fingerprints })
    }

    /// One root, as somebody has shown it who is known by its fingerprint alone.
    pub fn of_root(root: &CertificateDer<'_>) -> Result<Self, BundleError> {
        let (anchors, fingerprints) = (vec![anchor(1, root)?], vec![Fingerprint::of(root)]);
        Ok(Self { anchors, revocations: Vec::new(), fingerprints })
    }

    /// The fingerprints of its roots, in the order of the text.
    pub fn fingerprints(&self) -> &[Fingerprint] {
        &self.fingerprints
    }

    /// Whether both trust a root: then what is known of a cluster stays known when one takes the place of the other.
    pub fn shares_a_root(&self, other: &Self) -> bool {
        self.fingerprints.iter().any(|root| other.fingerprints.contains(root))
    }
}

fn anchor(at: usize, root: &CertificateDer<'_>) -> Result<TrustAnchor<'static>, BundleError> {
    let read = Certificate::read(root).map_err(|source| BundleError::Certificate { at, source })?;
    if !read.is_authority {
        return Err(BundleError::NotAnAuthority { at, fingerprint: read.fingerprint });
    }
    let anchor = anchor_from_trusted_cert(root).map_err(|why| BundleError::Root { at, why })?;
    Ok(anchor.to_owned())
}

fn revocations(text: &str) -> Result<Vec<CertRevocationList<'static>>, BundleError> {
    CertificateRevocationListDer::pem_slice_iter(text.as_bytes())
        .enumerate()
        .map(|(at, list)| {
            let list = list.map_err(BundleError::Pem)?;
            let list = OwnedCertRevocationList::from_der(&list)
                .map_err(|why| BundleError::Revocations { at: at + 1, why })?;
            Ok(CertRevocationList::from(list))
        })
        .collect()
}
