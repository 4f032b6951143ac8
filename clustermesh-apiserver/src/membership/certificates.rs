//! The cluster's own certificates, read from where its processes read them. Never reads a key.

use std::fs;
use std::path::{Path, PathBuf};

use mesh_admin::cluster::Certificate as Shown;
use mesh_trust::{Bundle, Role};

use super::refusal::Refusal;
use crate::certificates::shown;

/// Where certificates are.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnCertificates {
    /// What the mesh API shows: `tls.crt`, and the authority's `ca.crt`.
    pub(crate) server: Option<PathBuf>,
    /// Where they are made: in `ca`, `apiserver`, `agent`.
    pub(crate) made: Option<PathBuf>,
}

/// The authority that vouches for this cluster.
#[derive(Clone, Debug)]
pub(crate) struct OwnTrust {
    pub(crate) pem: String,
    /// Of the first certificate.
    pub(crate) fingerprint: String,
}

impl OwnCertificates {
    /// The folder of what the mesh API shows: `tls.crt`, `tls.key`, and the authority's `ca.crt`.
    pub(crate) fn folder(&self) -> Option<PathBuf> {
        let made = || self.made.as_ref().map(|made| made.join(Role::Apiserver.as_str()));
        self.server.clone().or_else(made)
    }

    /// What others trust to know this cluster by; none where it is not there, or says nothing.
    pub(crate) fn trust(&self) -> Option<OwnTrust> {
        let pem = fs::read_to_string(self.folder()?.join("ca.crt")).ok()?;
        let fingerprint = Bundle::from_pem(&pem).ok()?.fingerprints().first()?.to_string();
        Some(OwnTrust { pem, fingerprint })
    }

    /// Those that can be read.
    pub(crate) fn shown(&self) -> Vec<Shown> {
        let Some(made) = &self.made else {
            return self.server.iter().filter_map(|folder| read(folder, "apiserver", false)).collect();
        };
        // What is a link was made here, and is renewed here.
        let renewed = |folder: &Path| fs::read_link(folder).is_ok();
        let of = |holder: &'static str| {
            let folder = made.join(holder);
            read(&folder, holder, holder != "ca" && renewed(&folder))
        };
        let mut shown: Vec<Shown> = ["ca", "apiserver", "agent"].into_iter().filter_map(of).collect();
        if let Some(server) = self.server.as_ref().filter(|server| **server != made.join("apiserver")) {
            shown.retain(|certificate| certificate.holder != "apiserver");
            shown.extend(read(server, "apiserver", false));
        }
        shown
    }
}

fn read(folder: &Path, holder: &str, is_renewed: bool) -> Option<Shown> {
    shown(holder, &fs::read_to_string(folder.join("tls.crt")).ok()?, is_renewed)
}

/// What is said where nobody could know this cluster again.
pub(crate) fn missing() -> Refusal {
    Refusal::unavailable(
        "this cluster has no certificate authority that others could trust, or not yet",
        "start clustermesh-apiserver with --certificates-dir, and wait until the certificates are made; a folder of --mesh-tls-dir \
         needs ca.crt",
    )
}
