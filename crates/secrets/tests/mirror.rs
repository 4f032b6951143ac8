//! A Secret's mirror in a folder, past everything that may be wrong with the Secret, the API server and the disk.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use mesh_secrets::testing::FakeSecrets;
use mesh_secrets::{Layout, Mirror, MirrorMetrics, MirrorState, SecretName};
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const NAME: &str = "clustermesh-peers";
const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    folder: PathBuf,
    state: watch::Receiver<MirrorState>,
    token: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn start(fake: &FakeSecrets, folder: PathBuf, layout: Layout) -> Self {
        let metrics = MirrorMetrics::register(&mut Registry::default(), ["peers"]);
        let name = ("peers", SecretName::new(NAME).unwrap());
        let mirror = Mirror::new(fake.access(), name, folder.clone(), layout, &metrics);
        // A watch that is cut without a word is noticed soon.
        let mirror = mirror.quiet(Duration::from_secs(2));
        let (state, token) = (mirror.state(), CancellationToken::new());
        let task = tokio::spawn(mirror.run(token.clone()));
        Self { folder, state, token, task }
    }

    async fn stop(self) {
        self.token.cancel();
        self.task.await.unwrap();
    }

    fn files(&self) -> BTreeMap<String, String> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().map(|entry| entry.unwrap().path());
        let seen = entries.filter_map(|path| {
            let name = path.file_name()?.to_string_lossy().into_owned();
            (!name.starts_with('.')).then(|| (name, fs::read_to_string(path).unwrap_or_default()))
        });
        seen.collect()
    }

    async fn shows(&self, pairs: &[(&str, &str)]) {
        let wanted: BTreeMap<String, String> =
            pairs.iter().map(|(key, text)| ((*key).into(), (*text).into())).collect();
        let holds = async {
            while self.files() != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(timeout(PATIENCE, holds).await.is_ok(), "{:?}, not {wanted:?}", self.files());
    }

    /// Waits until something is wrong that says this, or nothing is.
    async fn says(&mut self, text: Option<&str>) {
        let said = self.state.wait_for(|state| match text {
            Some(text) => state.problems.iter().any(|problem| problem.contains(text)),
            None => state.problems.is_empty(),
        });
        assert!(timeout(PATIENCE, said).await.is_ok_and(|said| said.is_ok()), "{text:?}");
    }
}

#[tokio::test]
async fn a_folder_follows_its_secret() {
    let (fake, scratch) = (FakeSecrets::start().await, tempfile::tempdir().unwrap());
    fake.put("another", &[("a", "theirs")]);
    fake.put(NAME, &[("a.yaml", "1"), ("b.yaml", "1")]);
    let mut mirror = Running::start(&fake, scratch.path().join("peers"), Layout::Files);
    mirror.shows(&[("a.yaml", "1"), ("b.yaml", "1")]).await;
    mirror.state.wait_for(|state| state.is_complete).await.unwrap();
    fake.put(NAME, &[("b.yaml", "2"), ("c.yaml", "1")]);
    mirror.shows(&[("b.yaml", "2"), ("c.yaml", "1")]).await;
    fake.put(NAME, &[]);
    mirror.shows(&[]).await;
    let named = |request: &String| request.contains("fieldSelector=metadata.name%3Dclustermesh-peers");
    assert!(fake.requests().iter().all(named), "only the named Secret is asked for: {:?}", fake.requests());
}

#[tokio::test]
async fn what_cannot_be_known_changes_nothing() {
    let (mut fake, scratch) = (FakeSecrets::start().await, tempfile::tempdir().unwrap());
    let mut mirror = Running::start(&fake, scratch.path().join("peers"), Layout::Files);
    mirror.says(Some("does not exist: create it")).await;
    assert!(!mirror.folder.exists() && !mirror.state.borrow().is_complete, "ignorance is never emptiness");
    fake.put(NAME, &[("a.yaml", "1")]);
    mirror.says(None).await;
    mirror.shows(&[("a.yaml", "1")]).await;

    fake.delete(NAME);
    mirror.says(Some("does not exist: create it")).await;
    mirror.shows(&[("a.yaml", "1")]).await;

    fake.put_object(NAME, &json!({"data": {"a.yaml": "no base64!"}}));
    mirror.says(Some("cannot be read")).await;
    mirror.shows(&[("a.yaml", "1")]).await;

    fake.put(NAME, &[("a.yaml", "2")]);
    mirror.shows(&[("a.yaml", "2")]).await;
    fake.refuse(Some(403));
    mirror.says(Some("let this process's service account get, list, watch")).await;
    mirror.shows(&[("a.yaml", "2")]).await;
    fake.refuse(None);
    mirror.says(None).await;

    fake.stop();
    mirror.says(Some("asking the Kubernetes API")).await;
    mirror.shows(&[("a.yaml", "2")]).await;
    fake.put(NAME, &[("a.yaml", "3")]);
    fake.resume().await;
    mirror.says(None).await;
    mirror.shows(&[("a.yaml", "3")]).await;
}

#[tokio::test]
async fn a_restart_keeps_the_folder_until_all_is_known() {
    let (mut fake, scratch) = (FakeSecrets::start().await, tempfile::tempdir().unwrap());
    let folder = scratch.path().join("peers");
    fake.put(NAME, &[("a.yaml", "1"), ("b.yaml", "1")]);
    let first = Running::start(&fake, folder.clone(), Layout::Files);
    first.shows(&[("a.yaml", "1"), ("b.yaml", "1")]).await;
    first.stop().await;
    fs::write(folder.join(".c.yaml.tmp"), "never finished").unwrap();
    fake.stop();
    let mut second = Running::start(&fake, folder.clone(), Layout::Files);
    second.says(Some("asking the Kubernetes API")).await;
    second.shows(&[("a.yaml", "1"), ("b.yaml", "1")]).await;
    fake.put(NAME, &[("b.yaml", "1"), ("c.yaml", "1")]);
    fake.resume().await;
    second.shows(&[("b.yaml", "1"), ("c.yaml", "1")]).await;
    assert!(!folder.join(".c.yaml.tmp").exists());
}

#[tokio::test]
async fn a_key_that_is_no_files_name_is_told_and_harms_no_other() {
    let (fake, scratch) = (FakeSecrets::start().await, tempfile::tempdir().unwrap());
    fs::write(scratch.path().join("outside"), "untouched").unwrap();
    fake.put(NAME, &[("../outside", "x"), ("..data", "x"), (".hidden", "x"), ("a.yaml", "1")]);
    let mut mirror = Running::start(&fake, scratch.path().join("peers"), Layout::Files);
    mirror.shows(&[("a.yaml", "1")]).await;
    mirror.says(Some("\"../outside\" can't be a file's name")).await;
    assert_eq!(mirror.state.borrow().problems.len(), 3);
    assert_eq!(fs::read_to_string(scratch.path().join("outside")).unwrap(), "untouched");
    assert_eq!(fs::read_dir(&mirror.folder).unwrap().count(), 1);
}

#[tokio::test]
async fn a_certificate_and_its_key_change_together() {
    const KEYS: &[&str] = &["tls.crt", "tls.key", "ca.crt"];
    let (fake, scratch) = (FakeSecrets::start().await, tempfile::tempdir().unwrap());
    let pair = |text| [("ca.crt", text), ("tls.crt", text), ("tls.key", text)];
    fake.put(NAME, &pair("1"));
    let mut mirror = Running::start(&fake, scratch.path().join("tls"), Layout::Together(KEYS));
    mirror.shows(&pair("1")).await;
    let before = fs::read_link(&mirror.folder).unwrap();
    fake.put(NAME, &[("tls.crt", "2")]);
    mirror.says(Some("lacks tls.key, ca.crt: add it")).await;
    assert_eq!(fs::read_link(&mirror.folder).unwrap(), before, "half of a pair is none");
    fake.put(NAME, &pair("3"));
    mirror.says(None).await;
    mirror.shows(&pair("3")).await;
    assert!(
        fs::read_link(&mirror.folder).unwrap() != before,
        "a reader has either the one or the other folder"
    );
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_told_and_tried_again() {
    let (fake, scratch) = (FakeSecrets::start().await, tempfile::tempdir().unwrap());
    let in_the_way = scratch.path().join("peers");
    fs::write(&in_the_way, "a file").unwrap();
    fake.put(NAME, &[("a.yaml", "1")]);
    let mut mirror = Running::start(&fake, in_the_way.clone(), Layout::Files);
    mirror.says(Some("check that this process may write there")).await;
    fs::remove_file(in_the_way).unwrap();
    mirror.says(None).await;
    mirror.shows(&[("a.yaml", "1")]).await;
}
