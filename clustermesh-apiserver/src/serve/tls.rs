//! What the mesh API shows its clients and whom it lets in, read from files.
//!
//! One value per reading: what changes counts for the next connection, and for those that are there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesh_model::name::{ClusterName, NameError};
use mesh_trust::{
    Bundle, BundleError, Certificate, CertificateError, ClientVerifier, Identity, Refusal, Role,
    TLS_1_3_ONLY, Trust,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;

/// What a bundle's file is called behind its cluster's name.
const BUNDLE: &str = "crt";

/// Why nothing can be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
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
    #[error("{path}: what stands before .{BUNDLE} must be a cluster's name")]
    Name { path: PathBuf, source: NameError },
    #[error("{path}")]
    Bundle { path: PathBuf, source: BundleError },
    #[error("setting TLS up")]
    Setup(#[source] rustls::Error),
}

fn shown(identity: Option<&Identity>) -> String {
    identity.map_or_else(|| "nobody".into(), ToString::to_string)
}

impl TlsError {
    /// Whether a file is not there, as before whoever makes it has done so.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Unreadable { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }
}

/// What a reading makes of the files.
pub(crate) struct Admission {
    /// For new connections.
    pub(crate) config: Arc<ServerConfig>,
    /// For those that are there.
    pub(crate) trust: Arc<Trust>,
}

/// All that the files hold, by path: as long as it is the same, so is what is made of it.
pub(crate) type Content = BTreeMap<PathBuf, Vec<u8>>;

/// Where the files are.
#[derive(Clone, Debug)]
pub(crate) struct TlsFiles {
    /// A folder with `tls.crt` and `tls.key`.
    pub(crate) own: PathBuf,
    /// A folder with `<cluster>.crt` for each cluster whose processes may connect.
    pub(crate) trust: PathBuf,
}

impl TlsFiles {
    /// Reads the files as they are now.
    pub(crate) fn content(&self) -> Result<Content, TlsError> {
        let mut content = Content::new();
        for path in [self.own.join("tls.crt"), self.own.join("tls.key")] {
            content.insert(path.clone(), read(&path)?);
        }
        let unreadable = |source| TlsError::Unreadable { path: self.trust.clone(), source };
        for entry in std::fs::read_dir(&self.trust).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if stem(&path).is_some() {
                content.insert(path.clone(), read(&path)?);
            }
        }
        Ok(content)
    }

    /// What they mean. `refused` is told of every certificate that does not count.
    pub(crate) fn admission(
        &self,
        content: &Content,
        cluster: &ClusterName,
        refused: Arc<dyn Fn(&Refusal) + Send + Sync>,
    ) -> Result<Admission, TlsError> {
        let (chain, key) = self.own(content, cluster)?;
        let trust = Arc::new(Trust::new(self.bundles(content)?));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(TLS_1_3_ONLY)
            .map_err(TlsError::Setup)?
            .with_client_cert_verifier(Arc::new(ClientVerifier::new(trust.clone(), refused)))
            .with_single_cert(chain, key)
            .map_err(|source| TlsError::Pair { folder: self.own.clone(), source })?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A resumed session repeats no check of the certificate, and keeps an identity that is not shown any more.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Admission { config: Arc::new(config), trust })
    }

    fn own(
        &self,
        content: &Content,
        cluster: &ClusterName,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let (path, key_path) = (self.own.join("tls.crt"), self.own.join("tls.key"));
        let pem = |path: &PathBuf| content.get(path).map_or(&[][..], Vec::as_slice);
        let chain: Vec<_> = CertificateDer::pem_slice_iter(pem(&path))
            .collect::<Result<_, _>>()
            .map_err(|source| TlsError::Pem { path: path.clone(), source })?;
        let leaf = chain
            .first()
            .ok_or_else(|| TlsError::Pem { path: path.clone(), source: pem::Error::NoItemsFound })?;
        let found = Certificate::read(leaf)
            .map_err(|source| TlsError::Certificate { path: path.clone(), source })?
            .identity;
        let wanted = Identity::new(cluster.clone(), Role::Apiserver);
        if found.as_ref() != Some(&wanted) {
            return Err(TlsError::Identity { path, found, wanted });
        }
        let key = PrivateKeyDer::from_pem_slice(pem(&key_path))
            .map_err(|source| TlsError::Pem { path: key_path, source })?;
        Ok((chain, key))
    }

    fn bundles(&self, content: &Content) -> Result<BTreeMap<ClusterName, Arc<Bundle>>, TlsError> {
        let mut bundles = BTreeMap::new();
        for (path, text) in content.iter().filter(|(path, _)| path.parent() == Some(&self.trust)) {
            let Some(name) = stem(path) else { continue };
            let name =
                ClusterName::new(name).map_err(|source| TlsError::Name { path: path.clone(), source })?;
            let bundle = Bundle::from_pem(&String::from_utf8_lossy(text))
                .map_err(|source| TlsError::Bundle { path: path.clone(), source })?;
            bundles.insert(name, Arc::new(bundle));
        }
        Ok(bundles)
    }
}

/// The name of the cluster whose bundle a file is. Others may lie beside them: what a mounted Secret is made of begins with
/// a dot.
fn stem(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()?.strip_suffix(BUNDLE)?.strip_suffix('.')
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Unreadable { path: path.into(), source })
}
