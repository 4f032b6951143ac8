//! Certificates in Secrets of the own namespace, of type `kubernetes.io/tls`, which pods mount. What an apiserver has made
//! carries an annotation that says so; anything else is somebody else's.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::str::FromStr;

use mesh_secrets::{Content, NameError, Secret, SecretName, Secrets, SecretsError};
use mesh_trust::{Issued, Role};

use super::Holder;
use super::store::{Entry, Held};

/// Says that an apiserver of the mesh made it, and may make it anew.
pub(super) const MADE_BY: (&str, &str) = ("clustermesh.io/made-by", "clustermesh-apiserver");
const TLS: &str = "kubernetes.io/tls";

/// Which Secret is whose: `HOLDER=SECRET`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    holder: Holder,
    name: SecretName,
}

impl Placement {
    pub(crate) fn name(&self) -> &SecretName {
        &self.name
    }

    pub(crate) fn is_of(&self, role: Role) -> bool {
        self.holder == Holder::Process(role)
    }

    pub(crate) fn is_of_authority(&self) -> bool {
        self.holder == Holder::Authority
    }
}

/// Why a text is no placement.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlacementError {
    #[error("write HOLDER=SECRET, such as agent=clustermesh-agent-tls")]
    Form,
    #[error("{0:?} is none of ca, apiserver, agent, etcd")]
    Holder(String),
    #[error(transparent)]
    Name(#[from] NameError),
}

impl FromStr for Placement {
    type Err = PlacementError;

    fn from_str(text: &str) -> Result<Self, PlacementError> {
        let (holder, name) = text.split_once('=').ok_or(PlacementError::Form)?;
        let known = Holder::ALL.into_iter().find(|known| known.as_str() == holder);
        let holder = known.ok_or_else(|| PlacementError::Holder(holder.into()))?;
        Ok(Self { holder, name: SecretName::new(name)? })
    }
}

/// The Secrets of a cluster's certificates.
#[derive(Clone, Debug)]
pub(crate) struct SecretStore {
    secrets: Secrets,
    names: BTreeMap<Holder, SecretName>,
}

impl SecretStore {
    pub(crate) fn new(secrets: Secrets, placements: impl IntoIterator<Item = Placement>) -> Self {
        let names = placements.into_iter().map(|placement| (placement.holder, placement.name)).collect();
        Self { secrets, names }
    }

    /// The Secret of one of them, if it is kept here.
    fn name(&self, holder: Holder) -> Option<&SecretName> {
        self.names.get(&holder)
    }

    pub(super) fn holders(&self) -> Vec<Holder> {
        self.names.keys().copied().collect()
    }

    pub(super) fn place(&self, holder: Holder) -> String {
        self.name(holder)
            .map_or_else(|| format!("no Secret for {}", holder.as_str()), |name| format!("the Secret {name}"))
    }

    pub(super) async fn read(&self, holder: Holder) -> Result<Option<Held>, SecretsError> {
        let Some(name) = self.name(holder) else { return Ok(None) };
        let Some(secret) = self.secrets.read(name).await? else { return Ok(None) };
        let text = |key| secret.value(key).map(|value| String::from_utf8_lossy(value).into_owned());
        let Ok(entry) = Entry::read(|key| Ok::<_, Infallible>(text(key)));
        // An empty Secret is there, and holds no certificate.
        let nothing = || Issued { certificate_pem: String::new(), key_pem: String::new() };
        let entry = entry.unwrap_or_else(|| Entry::new(nothing(), text("ca.crt").unwrap_or_default()));
        let is_own = secret.annotation(MADE_BY.0) == Some(MADE_BY.1);
        Ok(Some(Held { entry, is_own, secret: Some(Box::new(secret)) }))
    }

    pub(super) async fn create(&self, holder: Holder, entry: &Entry) -> Result<bool, SecretsError> {
        let Some(name) = self.name(holder) else { return Ok(false) };
        self.secrets.create(name, &content(entry)).await
    }

    /// False where it has changed since it was read.
    pub(super) async fn replace(
        &self,
        (holder, before): (Holder, &Secret),
        entry: &Entry,
    ) -> Result<bool, SecretsError> {
        let Some(name) = self.name(holder) else { return Ok(false) };
        self.secrets.replace(name, before, &content(entry)).await
    }
}

fn content(entry: &Entry) -> Content {
    Content {
        kind: TLS,
        labels: BTreeMap::from([("app.kubernetes.io/name".into(), "clustermesh".into())]),
        annotations: BTreeMap::from([(MADE_BY.0.into(), MADE_BY.1.into())]),
        data: entry.files().into_iter().map(|(key, text)| (key.into(), text.to_vec())).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placement_names_a_holder_and_a_secret() {
        let placement: Placement = "etcd=clustermesh-etcd-tls".parse().unwrap();
        assert_eq!(
            (placement.holder, placement.name.as_str()),
            (Holder::Process(Role::Etcd), "clustermesh-etcd-tls")
        );
        let said = |text: &str| text.parse::<Placement>().unwrap_err().to_string();
        assert!(said("agent").contains("write HOLDER=SECRET"));
        assert!(said("admin=a").contains("none of ca, apiserver"));
        assert!(said("ca=No").contains("no name of a Secret"));
    }
}
