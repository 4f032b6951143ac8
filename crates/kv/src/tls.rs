//! Trust in a server and our own identity towards it.
//!
//! Files are read anew at every dial, so that rotated certificates need no restart. Sessions are never resumed:
//! a resumed one repeats neither the chain nor the expiry check, and keeps the old client identity.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesh_failure::chain;
use mesh_model::name::ClusterName;
use mesh_trust::{Bundle, Identity, Role, ServerVerifier, Trust, provider};
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, VerifierBuilderError, WebPkiServerVerifier};
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::task::spawn_blocking;

use crate::credentials::{Credentials, certified};
use crate::pem::{TlsError, certificates};
use crate::server::PeerServer;
use crate::shown::Shown;

/// Where the trusted roots and our certificate come from.
#[derive(Clone, Debug)]
pub struct Tls {
    roots: Roots,
    /// Without any we show no certificate.
    identity: Option<Own>,
    /// Whose mesh API it is, where it is one's.
    peer: Option<ClusterName>,
}

#[derive(Clone, Debug)]
enum Own {
    /// A folder with `tls.crt` and `tls.key`, as they are when somebody dials.
    Folder(PathBuf),
    Credentials(Credentials),
}

#[derive(Clone, Debug)]
enum Roots {
    File(PathBuf),
    Pem(Arc<str>),
}

impl Own {
    async fn certified(&self) -> Result<Arc<CertifiedKey>, TlsError> {
        match self {
            Self::Folder(folder) => {
                let pems = [read(&folder.join("tls.crt")).await?, read(&folder.join("tls.key")).await?];
                certified(folder, &pems).map(Arc::new)
            }
            // Small files, off the runtime's threads all the same: their disk may hang.
            Self::Credentials(own) => {
                let own = own.clone();
                spawn_blocking(move || own.current()).await.expect("reading files does not panic")
            }
        }
    }
}

impl Tls {
    /// Trust in `ca.crt`, identity from `tls.crt` and `tls.key`, all in one folder.
    pub fn from_dir(dir: &Path) -> Self {
        let identity = Some(Own::Folder(dir.into()));
        Self { roots: Roots::File(dir.join("ca.crt")), identity, peer: None }
    }

    /// Trust in the PEM roots given, but for what the lists of revoked certificates beside them name; both are checked here.
    /// What we show are the credentials.
    pub fn trusting(roots: &str, identity: Option<&Credentials>) -> Result<Self, TlsError> {
        by_name(roots.as_bytes(), "trust")?;
        let identity = identity.cloned().map(Own::Credentials);
        Ok(Self { roots: Roots::Pem(roots.into()), identity, peer: None })
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
            Some(own) => {
                let shown = SingleCertAndKey::from(own.certified().await?);
                builder.with_client_cert_resolver(Arc::new(shown))
            }
        };
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }

    /// Whether what a server has shown would be taken today. Trust in a file is asked at dials only.
    pub(crate) fn stands(&self, shown: &Shown) -> Result<(), String> {
        let Roots::Pem(text) = &self.roots else { return Ok(()) };
        let Some((leaf, intermediates)) = shown.chain.split_first() else { return Ok(()) };
        let verifier = self.verifier(text.as_bytes(), "trust").map_err(|error| chain(&error))?;
        let verified = verifier.verify_server_cert(leaf, intermediates, &shown.name, &[], shown.at);
        verified.map(drop).map_err(|error| error.to_string())
    }

    /// Judges the server by host name, and a peer's by who it is where it says so.
    fn verifier(&self, roots: &[u8], place: &str) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
        let by_name = by_name(roots, place)?;
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

/// Lists of revoked certificates count as they do for identities: also beyond their date, and whoever is on none counts.
fn by_name(roots: &[u8], place: &str) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
    let lists: Vec<_> = CertificateRevocationListDer::pem_slice_iter(roots)
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::Pem { place: place.into(), source })?;
    WebPkiServerVerifier::builder_with_provider(Arc::new(root_store(roots, place)?), provider())
        .with_crls(lists)
        .allow_unknown_revocation_status()
        .build()
        .map_err(|error| match error {
            VerifierBuilderError::InvalidCrl(why) => TlsError::Revocations { place: place.into(), why },
            error => TlsError::Verifier(error),
        })
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

fn root_store(bytes: &[u8], place: &str) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(bytes, place)? {
        store.add(certificate).map_err(|source| TlsError::Root { place: place.into(), source })?;
    }
    Ok(store)
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
