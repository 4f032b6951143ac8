//! Our certificate and its key, as they could be used last.
//!
//! Reads the files; never looks at them by itself, and never tells anybody: whoever owns the credentials does both.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use mesh_trust::{Certificate, provider};
use rustls::pki_types::UnixTime;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::pem::{TlsError, certificates};

/// `tls.crt` and `tls.key` of a folder. What can't be used leaves what could be before. Clones share what is held.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// None: what is held stays.
    folder: Option<PathBuf>,
    held: Arc<Mutex<Option<Held>>>,
}

#[derive(Clone, Debug)]
struct Held {
    /// As the files had it.
    pems: [Vec<u8>; 2],
    certified: Arc<CertifiedKey>,
}

impl Credentials {
    /// Holds nothing before the files are read.
    pub fn in_folder(folder: &Path) -> Self {
        Self { folder: Some(folder.into()), held: Arc::default() }
    }

    /// A certificate and its key, as PEM, which stand in no file.
    ///
    /// # Errors
    /// They can't be used together.
    pub fn of_pair(certificate: &str, key: &str) -> Result<Self, TlsError> {
        let pems = [certificate, key].map(|pem| pem.as_bytes().to_vec());
        let certified = Arc::new(certified(Path::new("memory"), &pems)?);
        Ok(Self { folder: None, held: Arc::new(Mutex::new(Some(Held { pems, certified }))) })
    }

    /// Reads the files as they are now, and says whether they are others than those that were held.
    ///
    /// # Errors
    /// They are missing, or can't be used together. What was held stays.
    pub fn read(&self) -> Result<bool, TlsError> {
        let Some(folder) = &self.folder else { return Ok(false) };
        let [certificate, key] = ["tls.crt", "tls.key"].map(|name| folder.join(name));
        let pems = [read(&certificate)?, read(&key)?];
        if self.held().as_ref().is_some_and(|held| held.pems == pems) {
            return Ok(false);
        }
        let certified = certified(folder, &pems)?;
        *self.lock() = Some(Held { pems, certified: Arc::new(certified) });
        Ok(true)
    }

    /// Up to when the certificate that is held counts.
    pub fn expires(&self) -> Option<UnixTime> {
        let held = self.held()?;
        Some(Certificate::read(held.certified.cert.first()?).ok()?.not_after)
    }

    /// What counts now, as the files have it or as they had it last.
    pub(crate) fn current(&self) -> Result<Arc<CertifiedKey>, TlsError> {
        let read = self.read();
        match self.held() {
            Some(held) => Ok(held.certified),
            None => Err(read.err().unwrap_or(TlsError::NoCertificate { place: "memory".into() })),
        }
    }

    fn held(&self) -> Option<Held> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Held>> {
        // It is replaced as a whole.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A certificate and a key that belong together.
pub(crate) fn certified(folder: &Path, [certificate, key]: &[Vec<u8>; 2]) -> Result<CertifiedKey, TlsError> {
    let place = |name: &str| folder.join(name).display().to_string();
    let chain: Vec<CertificateDer<'static>> = certificates(certificate, &place("tls.crt"))?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|source| TlsError::Pem { place: place("tls.key"), source })?;
    CertifiedKey::from_der(chain, key, &provider())
        .map_err(|source| TlsError::Identity { folder: folder.into(), source })
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Unreadable { path: path.into(), source })
}
