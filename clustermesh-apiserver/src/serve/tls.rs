//! What the mesh API shows its clients, read from files, and whom it lets in, which follows from the peer files.
//!
//! One value per reading: what changes counts for the next connection, and for those that are there.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesh_model::name::ClusterName;
use mesh_trust::{Bundle, BundleError, Certificate, CertificateError, ClientVerifier, Identity, Role, Trust};
use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::reload::Refused;
use crate::peers::Trusted;

/// Why nothing can be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("reading {path}: check that it exists and may be read by this process")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path} is no valid PEM: write it again from its source")]
    Pem { path: PathBuf, source: pem::Error },
    #[error("{path} can't be read")]
    Certificate { path: PathBuf, source: CertificateError },
    #[error("{path} is the certificate of {}, not of {wanted}: issue one with that URI", shown(found.as_ref()))]
    Identity { path: PathBuf, found: Option<Identity>, wanted: Identity },
    #[error("the certificate and key in {folder} can't be used together: write both again, from one issue")]
    Pair { folder: PathBuf, source: rustls::Error },
    #[error("{path}")]
    Bundle { path: PathBuf, source: BundleError },
}

/// So many changes of place during a reading are waited out; whoever is faster is read as a whole the next time.
const PLACES: usize = 8;

fn shown(identity: Option<&Identity>) -> String {
    identity.map_or_else(|| "nobody".into(), ToString::to_string)
}

impl TlsError {
    /// Whether a file is not there, as before whoever makes it has done so.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Unreadable { source, .. } if source.kind() == ErrorKind::NotFound)
    }
}

/// For connections, at one moment.
pub(crate) struct Admission {
    /// For new connections.
    pub(crate) config: Arc<ServerConfig>,
    /// For those that are there.
    pub(crate) trust: Arc<Trust>,
    /// Peers whose files let none of their processes in, and why; one line each.
    pub(crate) left_out: Vec<String>,
}

/// A folder with `tls.crt`, `tls.key`, and `ca.crt`: the authority that vouches for this cluster's own processes.
#[derive(Clone, Debug)]
pub(crate) struct OwnFiles(pub(crate) PathBuf);

/// All that the files hold: as long as it is the same, so is what is made of it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Content {
    certificate: Vec<u8>,
    key: Vec<u8>,
    /// Somebody else's certificates may come without.
    authority: Option<Vec<u8>>,
}

/// Who this process is, and by whom its own cluster's processes are known.
pub(crate) struct Own {
    shown: Arc<SingleCertAndKey>,
    authority: Option<Arc<Bundle>>,
}

impl Content {
    /// An authority that has vanished counts on: somebody may be writing the files one by one.
    pub(crate) fn keep_authority(&mut self, before: &Self) {
        if self.authority.is_none() {
            self.authority.clone_from(&before.authority);
        }
    }
}

impl OwnFiles {
    /// Reads the files as they are now, all of one state where they are a mounted Secret.
    pub(crate) fn content(&self) -> Result<Content, TlsError> {
        read_together(|| self.place(), || self.read())
    }

    /// Where the files really are: the kubelet puts all of a Secret's new files into place by one link.
    fn place(&self) -> Option<PathBuf> {
        self.0.join("..data").canonicalize().or_else(|_| self.0.canonicalize()).ok()
    }

    fn read(&self) -> Result<Content, TlsError> {
        let authority = match read(&self.0.join("ca.crt")) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.is_missing() => None,
            Err(error) => return Err(error),
        };
        Ok(Content {
            certificate: read(&self.0.join("tls.crt"))?,
            key: read(&self.0.join("tls.key"))?,
            authority,
        })
    }

    /// What they mean.
    pub(crate) fn own(&self, content: &Content, cluster: &ClusterName) -> Result<Own, TlsError> {
        let (path, key_path) = (self.0.join("tls.crt"), self.0.join("tls.key"));
        let chain = chain(&path, &content.certificate, cluster)?;
        let key = PrivateKeyDer::from_pem_slice(&content.key)
            .map_err(|source| TlsError::Pem { path: key_path, source })?;
        let certified = CertifiedKey::from_der(chain, key, &mesh_trust::provider())
            .map_err(|source| TlsError::Pair { folder: self.0.clone(), source })?;
        let bundle = |text: &Vec<u8>| {
            Bundle::from_pem(&String::from_utf8_lossy(text))
                .map_err(|source| TlsError::Bundle { path: self.0.join("ca.crt"), source })
        };
        let authority = content.authority.as_ref().map(bundle).transpose()?.map(Arc::new);
        Ok(Own { shown: Arc::new(certified.into()), authority })
    }
}

/// Reads again where the place has become another meanwhile: some files may be of before, some of after.
fn read_together<P: PartialEq, T>(place: impl Fn() -> P, read: impl Fn() -> T) -> T {
    for _ in 0..PLACES {
        let before = place();
        let content = read();
        if place() == before {
            return content;
        }
    }
    read()
}

/// The chain of this cluster's apiserver.
fn chain(path: &Path, pem: &[u8], cluster: &ClusterName) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bad_pem = |source| TlsError::Pem { path: path.into(), source };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(bad_pem)?;
    let leaf = chain.first().ok_or_else(|| bad_pem(pem::Error::NoItemsFound))?;
    let found = Certificate::read(leaf)
        .map_err(|source| TlsError::Certificate { path: path.into(), source })?
        .identity;
    let wanted = Identity::new(cluster.clone(), Role::Apiserver);
    if found.as_ref() != Some(&wanted) {
        return Err(TlsError::Identity { path: path.into(), found, wanted });
    }
    Ok(chain)
}

/// Whom connections are judged by.
#[derive(Clone)]
pub(crate) struct Judgement {
    pub(crate) cluster: ClusterName,
    /// Whether clients without an identity are refused, whatever their chain leads to.
    pub(crate) requires_identity: bool,
    /// Told of every certificate that does not count.
    pub(crate) refused: Refused,
}

impl Judgement {
    /// What counts for connections, by the own files and those of the peers.
    pub(crate) fn admission(&self, own: &Own, trusted: &Trusted) -> Admission {
        let (mut bundles, left_out) = bundles(trusted);
        if let Some(authority) = &own.authority {
            bundles.insert(self.cluster.clone(), Arc::clone(authority));
        }
        let trust = Trust::new(bundles);
        let trust = Arc::new(if self.requires_identity { trust } else { trust.assuming_agents() });
        let verifier = ClientVerifier::new(Arc::clone(&trust), Arc::clone(&self.refused));
        let mut config = mesh_trust::server_config()
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(own.shown.clone());
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A resumed session repeats no check of the certificate, and keeps an identity that is not shown any more.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Admission { config: Arc::new(config), trust, left_out }
    }
}

/// Whom each peer's processes are known by, and why some are known by nobody.
fn bundles(trusted: &Trusted) -> (BTreeMap<ClusterName, Arc<Bundle>>, Vec<String>) {
    let (mut bundles, mut left_out) = (BTreeMap::new(), Vec::new());
    for (name, pem) in trusted {
        match Bundle::from_pem(pem) {
            Ok(bundle) => drop(bundles.insert(name.clone(), Arc::new(bundle))),
            Err(error) => {
                let why = mesh_failure::chain(&error);
                left_out.push(format!("`trust` of peer {name} lets none of its processes in: {why}"));
            }
        }
    }
    (bundles, left_out)
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Unreadable { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Swaps the place in the middle of the first `swaps` readings; each is of the place before and of that behind.
    fn reading_during(swaps: u32) -> (u32, u32) {
        let (place, left) = (Cell::new(0), Cell::new(swaps));
        read_together(
            || place.get(),
            || {
                let certificate = place.get();
                if left.get() > 0 {
                    left.set(left.get() - 1);
                    place.set(place.get() + 1);
                }
                (certificate, place.get())
            },
        )
    }

    #[test]
    fn files_swapped_while_they_are_read_are_read_again() {
        assert_eq!(reading_during(0), (0, 0));
        assert_eq!(reading_during(1), (1, 1));
        assert_eq!(reading_during(3), (3, 3));
        assert_eq!(reading_during(8), (8, 8));
    }
}
