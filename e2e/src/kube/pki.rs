//! A cluster's keys: its CA, the API server's certificate, and the key that signs service account tokens.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

/// Paths of the files, below one folder.
#[derive(Clone, Debug)]
pub(super) struct Pki(pub(super) PathBuf);

impl Pki {
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(super) fn flag(&self, flag: &str, name: &str) -> String {
        format!("--{flag}={}", self.file(name).display())
    }

    /// Makes all of them; the API server's certificate is good for `names`, addresses among them.
    pub(super) fn make(&self, cluster: &str, names: Vec<String>) -> Result<()> {
        fs::create_dir_all(&self.0).with_context(|| format!("creating {}", self.0.display()))?;
        let account = KeyPair::generate().context("making a key")?;
        write(&self.file("sa.key"), &account.serialize_pem())?;
        write(&self.file("sa.pub"), &account.public_key_pem())?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("{cluster} CA"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().context("making a key")?;
        write(&self.file("ca.crt"), &params.self_signed(&key).context("signing the CA")?.pem())?;
        let issuer = Issuer::new(params, key);
        let mut params = CertificateParams::new(names).context("naming the API server")?;
        params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().context("making a key")?;
        let certificate = params.signed_by(&key, &issuer).context("signing the API server's certificate")?;
        write(&self.file("api.crt"), &certificate.pem())?;
        write(&self.file("api.key"), &key.serialize_pem())
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
