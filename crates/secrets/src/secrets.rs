//! Reads and writes Secrets of the own namespace, so that of several writers none loses what another wrote.

use k8s_openapi::ByteString;
use kube::Client;
use mesh_kube::{Access, ApiError, get, request, send, whole};
use serde_json::{Value, json};

use crate::name::{KeyName, SecretName};
use crate::secret::{Content, Secret};

/// How often a removal is tried again that met somebody else's write.
const ATTEMPTS: u32 = 5;

/// Why a Secret can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    #[error("{doing} the Secret {name}{}", remedy(source))]
    Api { doing: &'static str, name: SecretName, source: ApiError },
    #[error("the Secret {name} was changed by others {ATTEMPTS} times meanwhile; try again")]
    Contended { name: SecretName },
}

/// What to do about a refusal.
pub(crate) fn remedy(error: &ApiError) -> &'static str {
    match error.code() {
        Some(401) => ": correct this process's token or kubeconfig",
        Some(403) => {
            ": let this process's service account get, list, watch, create and patch it, as the chart's Role does"
        }
        Some(404) => ": create the namespace",
        _ => "",
    }
}

/// What a manager does about a key that another one has set to something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    Refuse,
    /// The key is this manager's alone from then on.
    Take,
}

/// What becomes of a key that is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    Yes,
    /// Others have set the key to something else; Kubernetes' own words for who.
    Conflict(String),
}

/// What becomes of a key that is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// There was none.
    Absent,
    /// It was this manager's alone.
    Yes,
    /// Other managers had set it, too, or alone: it is gone all the same, and they may bring it back.
    FromOthers(Vec<String>),
}

/// The Secrets of one namespace: that of the pod's service account, or of the kubeconfig's context.
#[derive(Clone, Debug)]
pub struct Secrets {
    access: Access,
}

impl Secrets {
    pub fn new(access: Access) -> Self {
        Self { access }
    }

    /// A Secret; none where there is none.
    ///
    /// # Errors
    /// The API server can't be reached, refuses, or answers what can't be read.
    pub async fn read(&self, name: &SecretName) -> Result<Option<Secret>, SecretsError> {
        let asked = async {
            let client = self.access.client().await?;
            let body = whole(get(&client, &path(&client, name)).await?).await?;
            Secret::parse(&body).map_err(ApiError::Malformed)
        };
        match asked.await {
            Ok(secret) => Ok(Some(secret)),
            Err(error) if error.code() == Some(404) => Ok(None),
            Err(source) => Err(SecretsError::Api { doing: "reading", name: name.clone(), source }),
        }
    }

    /// Makes a Secret where there is none; false where there is one. Of two that try at once one succeeds.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn create(&self, name: &SecretName, content: &Content) -> Result<bool, SecretsError> {
        let object = content.object(name.as_str());
        let asked = async {
            let client = self.access.client().await?;
            let request = request(http::Method::POST, &folder(&client), "application/json", bytes(&object))?;
            send(&client, request).await
        };
        outcome(asked.await, "creating", name)
    }

    /// Makes a Secret hold this and no other key, if it still is as it was read; false where it has changed or is gone.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn replace(
        &self,
        name: &SecretName,
        before: &Secret,
        content: &Content,
    ) -> Result<bool, SecretsError> {
        const MERGE: &str = "application/merge-patch+json";
        let asked = self.patch(name, "", MERGE, &content.patch(before)).await;
        match asked {
            Err(error) if error.code() == Some(404) => Ok(false),
            asked => outcome(asked.map(drop), "writing", name),
        }
    }

    /// Sets one key on behalf of a manager (server-side apply), and no other; makes the Secret where there is none. Other
    /// managers' keys stay theirs, whatever they write at the same time. The manager's key before this one goes, if its name is another.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn apply(
        &self,
        (name, key): (&SecretName, &KeyName),
        value: &[u8],
        manager: &str,
        conflict: OnConflict,
    ) -> Result<Applied, SecretsError> {
        let data = json!({key.as_str(): ByteString(value.to_vec())});
        match self.apply_data(name, &data, manager, conflict).await {
            Ok(()) => Ok(Applied::Yes),
            Err(ApiError::Refused { code: 409, message, .. }) => Ok(Applied::Conflict(message)),
            Err(source) => Err(SecretsError::Api { doing: "writing", name: name.clone(), source }),
        }
    }

    /// Removes a key that was applied on behalf of a manager: by applying nothing on its behalf, and where the key is then
    /// still there, because others have set it, by taking it out whoever set it.
    ///
    /// # Errors
    /// As [`Self::read`], and where others change the Secret all the time.
    pub async fn remove(
        &self,
        (name, key): (&SecretName, &KeyName),
        manager: &str,
    ) -> Result<Removed, SecretsError> {
        let failed = |source| SecretsError::Api { doing: "writing", name: name.clone(), source };
        let Some(before) = self.read(name).await? else { return Ok(Removed::Absent) };
        if before.value(key.as_str()).is_none() {
            return Ok(Removed::Absent);
        }
        if before.managers(key.as_str()).contains(manager) {
            self.apply_data(name, &json!({}), manager, OnConflict::Take).await.map_err(failed)?;
        }
        for _ in 0..ATTEMPTS {
            let others = match self.read(name).await? {
                Some(secret) => secret,
                None => return Ok(Removed::Yes),
            };
            let Some(value) = others.value(key.as_str()) else { return Ok(Removed::Yes) };
            let managers = others.managers(key.as_str()).into_iter().collect();
            if self.take_out(name, key, value).await.map_err(failed)? {
                return Ok(Removed::FromOthers(managers));
            }
        }
        Err(SecretsError::Contended { name: name.clone() })
    }

    /// Takes out a key that still has this value; false where it has not.
    async fn take_out(&self, name: &SecretName, key: &KeyName, value: &[u8]) -> Result<bool, ApiError> {
        let path = format!("/data/{key}");
        let patch = json!([
            {"op": "test", "path": path, "value": ByteString(value.to_vec())},
            {"op": "remove", "path": path},
        ]);
        match self.patch(name, "", "application/json-patch+json", &patch).await {
            Ok(()) => Ok(true),
            // How API servers answer to a test that fails.
            Err(error) if matches!(error.code(), Some(404 | 409 | 422)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn apply_data(
        &self,
        name: &SecretName,
        data: &Value,
        manager: &str,
        conflict: OnConflict,
    ) -> Result<(), ApiError> {
        let object =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name.as_str()}, "data": data});
        let force = conflict == OnConflict::Take;
        let query = format!("?fieldManager={}&force={force}", mesh_kube::encoded(manager));
        self.patch(name, &query, "application/apply-patch+yaml", &object).await
    }

    async fn patch(&self, name: &SecretName, query: &str, form: &str, patch: &Value) -> Result<(), ApiError> {
        let client = self.access.client().await?;
        let path = format!("{}{query}", path(&client, name));
        send(&client, request(http::Method::PATCH, &path, form, bytes(patch))?).await.map(drop)
    }
}

fn outcome<T>(
    asked: Result<T, ApiError>,
    doing: &'static str,
    name: &SecretName,
) -> Result<bool, SecretsError> {
    match asked {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Some(409) => Ok(false),
        Err(source) => Err(SecretsError::Api { doing, name: name.clone(), source }),
    }
}

/// The path of all Secrets of the namespace.
pub(crate) fn folder(client: &Client) -> String {
    format!("/api/v1/namespaces/{}/secrets", client.default_namespace())
}

fn path(client: &Client, name: &SecretName) -> String {
    format!("{}/{name}", folder(client))
}

fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}
