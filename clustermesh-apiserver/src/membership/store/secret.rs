//! Peer files as keys of a Secret. Each is applied on behalf of a manager of its own, so that Helm, GitOps and several joins
//! leave each other's keys alone.

use mesh_model::name::{ClusterId, ClusterName};
use mesh_peers::{PeerFile, folder};
use mesh_secrets::{Applied, KeyName, OnConflict, Removed, Secret, SecretName, Secrets};

use super::{StoreError, Stored};

/// What a peer file's name may end with; the first is how it is written.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// A Secret of peer files.
#[derive(Clone, Debug)]
pub(crate) struct PeerSecret {
    pub(crate) secrets: Secrets,
    pub(crate) name: SecretName,
}

impl PeerSecret {
    /// The Secret, which is there also without peers. Whoever made it anew with one key would drain all others, which are
    /// followed on while it is missing.
    async fn secret(&self) -> Result<Secret, StoreError> {
        let missing = || StoreError::Missing { secret: self.name.to_string() };
        self.secrets.read(&self.name).await?.ok_or_else(missing)
    }

    pub(super) async fn read(&self, name: &ClusterName, id: ClusterId) -> Result<Stored, StoreError> {
        let secret = self.secret().await?;
        Ok(folder::read_keys(secret.data(), name, id).into())
    }

    pub(super) async fn put(&self, file: &PeerFile) -> Result<(), StoreError> {
        if let Some(key) = other(&self.secret().await?, &file.name) {
            return Err(self.foreign(&key, "it names the same peer"));
        }
        let (key, manager) = (key(&file.name), manager(&file.name));
        let text = file.text();
        let applied =
            self.secrets.apply((&self.name, &key), text.as_bytes(), &manager, OnConflict::Refuse).await?;
        match applied {
            Applied::Yes => Ok(()),
            Applied::Conflict(whose) => Err(self.foreign(key.as_str(), &whose)),
        }
    }

    pub(super) async fn remove(&self, name: &ClusterName) -> Result<bool, StoreError> {
        let mut keys = vec![key(name)];
        keys.extend(other(&self.secret().await?, name).and_then(|key| KeyName::new(&key).ok()));
        let mut changed = false;
        for key in keys {
            match self.secrets.remove((&self.name, &key), &manager(name)).await? {
                Removed::Absent => {}
                Removed::Yes => changed = true,
                Removed::FromOthers(managers) => {
                    changed = true;
                    let managers = managers.join(", ");
                    tracing::warn!(peer = %name, managers, "a peer file was removed that others had set, and may set again: remove it there, too");
                }
            }
        }
        Ok(changed)
    }

    fn foreign(&self, key: &str, whose: &str) -> StoreError {
        let (secret, key, whose) = (self.name.to_string(), key.to_owned(), whose.to_owned());
        StoreError::Foreign { secret, key, whose }
    }
}

fn key(name: &ClusterName) -> KeyName {
    KeyName::new(&format!("{name}.{}", ENDINGS[0])).expect("a cluster's name is one of a key")
}

fn manager(name: &ClusterName) -> String {
    format!("clustermesh-peer-{name}")
}

/// A key that names the same peer with another ending.
fn other(secret: &Secret, name: &ClusterName) -> Option<String> {
    let keys = ENDINGS[1..].iter().map(|ending| format!("{name}.{ending}"));
    keys.into_iter().find(|key| secret.value(key).is_some())
}

#[cfg(test)]
mod tests {
    use mesh_secrets::testing::FakeSecrets;

    use super::super::PeerStore;
    use super::*;

    fn name(text: &str) -> ClusterName {
        ClusterName::new(text).unwrap()
    }

    fn file(cluster: &str, text: &str) -> PeerFile {
        PeerFile::parse(&name(cluster), "a.yaml", text).unwrap()
    }

    fn store(fake: &FakeSecrets) -> PeerStore {
        let (secrets, name) = (Secrets::new(fake.access()), SecretName::new("clustermesh-peers").unwrap());
        PeerStore::Secret(PeerSecret { secrets, name })
    }

    const HOTH: &str = "id: 2\nendpoints: [\"http://10.2.0.1:2379\"]\nranges: {pods: [10.2.0.0/16]}\n";
    const ECHO: &str = "id: 3\nendpoints: [\"http://10.3.0.1:2379\"]\nranges: {pods: [10.3.0.0/16]}\n";

    async fn names(store: &PeerStore) -> Vec<(String, bool)> {
        let stored = store.read(&name("yavin"), ClusterId::try_from(1).unwrap()).await.unwrap();
        stored.entries().into_iter().map(|entry| (entry.name, entry.file.is_some())).collect()
    }

    #[tokio::test]
    async fn peers_come_and_go_beside_what_others_keep_there() {
        let fake = FakeSecrets::start().await;
        let store = store(&fake);
        assert_eq!(store.describe(), "secret clustermesh-peers");
        let own = ECHO.replace("id: 3", "id: 4");
        fake.put("clustermesh-peers", &[("hoth.yaml", HOTH), ("README", "x"), ("yavin.yaml", &own)]);
        store.put(file("echo", ECHO)).await.unwrap();
        let expected = [("echo", true), ("hoth", true), ("yavin", false)];
        assert_eq!(names(&store).await, expected.map(|(name, good)| (name.to_owned(), good)));
        assert!(store.remove(&name("echo")).await.unwrap());
        assert!(!store.remove(&name("echo")).await.unwrap());
        assert!(store.remove(&name("hoth")).await.unwrap(), "although somebody else had set it");
        assert_eq!(fake.value("clustermesh-peers", "README").as_deref(), Some("x"));
    }

    #[tokio::test]
    async fn what_others_have_set_otherwise_stays_and_is_told() {
        let fake = FakeSecrets::start().await;
        let store = store(&fake);
        fake.put("clustermesh-peers", &[("hoth.yaml", ECHO), ("echo.yml", ECHO)]);
        for (cluster, text) in [("hoth", HOTH), ("echo", ECHO)] {
            let error = store.put(file(cluster, text)).await.unwrap_err().to_string();
            assert!(error.contains("is somebody else's"), "{error}");
        }
        assert_eq!(fake.value("clustermesh-peers", "hoth.yaml").as_deref(), Some(ECHO));
    }

    #[tokio::test]
    async fn keys_are_judged_as_files_of_a_folder_are() {
        let fake = FakeSecrets::start().await;
        let same_id = HOTH.replace("id: 2", "id: 3");
        let keys = [("hoth.yaml", &*same_id), ("echo.yaml", ECHO), ("a_b.yaml", ECHO), (".echo.yaml", HOTH)];
        fake.put("clustermesh-peers", &keys);
        let stored = store(&fake).read(&name("yavin"), ClusterId::try_from(1).unwrap()).await.unwrap();
        assert!(stored.files.is_empty());
        let reasons: Vec<String> = stored.entries().into_iter().filter_map(|entry| entry.reason).collect();
        let expected = ["a_b.yaml", "the file of peer hoth", "the file of peer echo"];
        let told = reasons.iter().zip(expected).all(|(reason, part)| reason.contains(part));
        assert!(told && reasons.len() == expected.len(), "{reasons:?}");
    }

    #[tokio::test]
    async fn a_secret_that_is_missing_or_refused_is_no_knowledge_of_peers() {
        let fake = FakeSecrets::start().await;
        let store = store(&fake);
        let own = (name("yavin"), ClusterId::try_from(1).unwrap());
        let error = store.put(file("echo", ECHO)).await.unwrap_err().to_string();
        assert!(error.contains("is not there") && fake.object("clustermesh-peers").is_none(), "{error}");
        assert!(store.read(&own.0, own.1).await.is_err());
        fake.put("clustermesh-peers", &[("hoth.yaml", HOTH)]);
        fake.refuse(Some(403));
        assert!(store.read(&own.0, own.1).await.is_err());
        assert!(store.put(file("echo", ECHO)).await.is_err());
        fake.refuse(None);
        assert_eq!(names(&store).await, [("hoth".to_owned(), true)]);
    }
}
