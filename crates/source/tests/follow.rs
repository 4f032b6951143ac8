//! The running source on real folders: how soon it sees what, and that it survives what happens to folders.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_model::snapshot::ClusterSnapshot;
use mesh_source::{Manifests, Reason, SourceMetrics, Status};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// For things that happen at the next poll, with room for a busy machine.
const POLLED: Duration = Duration::from_secs(20);

struct Running {
    snapshots: watch::Receiver<Option<Arc<ClusterSnapshot>>>,
    status: watch::Receiver<Arc<Status>>,
    metrics: SourceMetrics,
    token: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn start(folder: &Path) -> Self {
        let metrics = SourceMetrics::unregistered();
        let manifests = Manifests::new(folder, metrics.clone());
        let (snapshots, status, token) =
            (manifests.snapshots(), manifests.status(), CancellationToken::new());
        let task = tokio::spawn(manifests.run(token.clone()));
        Self { snapshots, status, metrics, token, task }
    }

    async fn until_services(&mut self, wanted: &[&str]) {
        let has = |snapshot: &Option<Arc<ClusterSnapshot>>| {
            snapshot
                .as_ref()
                .is_some_and(|it| it.services.keys().map(|name| name.name()).eq(wanted.iter().copied()))
        };
        let waited = tokio::time::timeout(POLLED, self.snapshots.wait_for(has)).await;
        waited.unwrap_or_else(|_| panic!("services never became {wanted:?}")).unwrap();
    }

    async fn until_reasons(&mut self, wanted: &[Reason]) {
        let has =
            |status: &Arc<Status>| status.problems.iter().map(|it| it.reason).eq(wanted.iter().copied());
        let waited = tokio::time::timeout(POLLED, self.status.wait_for(has)).await;
        waited.unwrap_or_else(|_| panic!("problems never became {wanted:?}")).unwrap();
    }

    fn services(&self) -> Vec<String> {
        let snapshot = self.snapshots.borrow();
        snapshot.as_ref().unwrap().services.keys().map(|name| name.name().to_owned()).collect()
    }

    /// Waits until the source has looked at the folder so often.
    async fn until_passes(&self, more: u64) {
        let target = self.metrics.passes.get() + more;
        let deadline = Instant::now() + POLLED;
        while self.metrics.passes.get() < target {
            assert!(Instant::now() < deadline, "the source stopped looking");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stop(self) {
        self.token.cancel();
        tokio::time::timeout(POLLED, self.task).await.expect("stops in time").expect("no panic");
    }
}

/// A Service with a slice; `generation` makes two contents differ.
fn app(name: &str, generation: usize) -> String {
    let host = name.bytes().map(usize::from).sum::<usize>() % 200 + 1;
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, annotations: {{clustermesh.io/global: \"true\"}}}}
spec: {{clusterIPs: [10.96.0.{host}], ports: [{{port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{port: 8080}}]
endpoints: [{{addresses: [10.1.{}.{}]}}]
",
        generation / 250 % 250,
        generation % 250 + 1
    )
}

/// As a careful writer does it.
fn replace(folder: &Path, file: &str, text: &str) {
    let beside = folder.join(format!(".{file}.new"));
    fs::write(&beside, text).unwrap();
    fs::rename(beside, folder.join(file)).unwrap();
}

fn folder(files: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("manifests");
    fs::create_dir(&path).unwrap();
    for name in files {
        replace(&path, &format!("{name}.yaml"), &app(name, 0));
    }
    (parent, path)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rename_is_seen_within_milliseconds() {
    let (_parent, path) = folder(&["a"]);
    let mut running = Running::start(&path);
    running.until_services(&["a"]).await;
    running.until_passes(1).await;
    let mut times = Vec::new();
    for generation in 1..=50 {
        let text = app("a", generation);
        running.snapshots.mark_unchanged();
        let renamed = Instant::now();
        replace(&path, "a.yaml", &text);
        tokio::time::timeout(POLLED, running.snapshots.changed()).await.expect("seen").unwrap();
        times.push(renamed.elapsed());
    }
    times.sort();
    let median = times[times.len() / 2];
    println!("seen after {median:?}, at most {:?}", times[times.len() - 1]);
    // Far below the poll and the settling time, with room for a machine that compiles beside it.
    assert!(median < Duration::from_millis(50), "{times:?}");
    running.stop().await;
}

#[tokio::test]
async fn a_deleted_file_goes_and_a_new_one_comes() {
    let (_parent, path) = folder(&["a", "b"]);
    let mut running = Running::start(&path);
    running.until_services(&["a", "b"]).await;
    fs::remove_file(path.join("a.yaml")).unwrap();
    running.until_services(&["b"]).await;
    fs::write(path.join("c.yaml"), app("c", 0)).unwrap();
    running.until_services(&["b", "c"]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_writer_that_pauses_loses_nothing_and_is_seen_when_it_closes() {
    let (_parent, path) = folder(&["a"]);
    fs::write(path.join("a.yaml"), app("a", 0) + "---\n" + &app("b", 0)).unwrap();
    let mut running = Running::start(&path);
    running.until_services(&["a", "b"]).await;
    let mut writer = fs::File::create(path.join("a.yaml")).unwrap();
    writer.write_all(app("a", 1).as_bytes()).unwrap();
    running.until_passes(3).await;
    assert_eq!(running.services(), ["a", "b"], "what is not written yet is not gone");
    writer.write_all(format!("---\n{}---\n{}", app("b", 1), app("c", 0)).as_bytes()).unwrap();
    drop(writer);
    running.until_services(&["a", "b", "c"]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_file_linked_into_place_is_seen_without_any_close() {
    let (parent, path) = folder(&["a"]);
    let mut running = Running::start(&path);
    running.until_services(&["a"]).await;
    let elsewhere = parent.path().join("b.yaml");
    fs::write(&elsewhere, app("b", 0)).unwrap();
    fs::hard_link(&elsewhere, path.join("b.yaml")).unwrap();
    running.until_services(&["a", "b"]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_folder_that_appears_later_is_read() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("later");
    let mut running = Running::start(&path);
    running.until_reasons(&[Reason::FolderUnknown]).await;
    assert!(running.snapshots.borrow().is_none(), "ignorance is not emptiness");
    fs::create_dir(&path).unwrap();
    replace(&path, "a.yaml", &app("a", 0));
    running.until_services(&["a"]).await;
    running.until_reasons(&[]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_removed_folder_keeps_everything_and_a_recreated_one_is_followed() {
    let (_parent, path) = folder(&["a", "b"]);
    let mut running = Running::start(&path);
    running.until_services(&["a", "b"]).await;
    fs::remove_dir_all(&path).unwrap();
    running.until_reasons(&[Reason::FolderUnknown]).await;
    running.until_passes(2).await;
    assert_eq!(running.services(), ["a", "b"]);
    fs::create_dir(&path).unwrap();
    running.until_passes(2).await;
    assert_eq!(running.services(), ["a", "b"], "a new folder that is still empty");
    replace(&path, "a.yaml", &app("a", 1));
    replace(&path, "b.yaml", &app("b", 1));
    running.until_reasons(&[]).await;
    assert_eq!(running.services(), ["a", "b"]);
    replace(&path, "c.yaml", &app("c", 0));
    running.until_services(&["a", "b", "c"]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_folder_swapped_by_rename_is_followed() {
    let (parent, path) = folder(&["a"]);
    let mut running = Running::start(&path);
    running.until_services(&["a"]).await;
    let next = parent.path().join("next");
    fs::create_dir(&next).unwrap();
    replace(&next, "a.yaml", &app("a", 1));
    replace(&next, "b.yaml", &app("b", 0));
    fs::rename(&path, parent.path().join("old")).unwrap();
    fs::rename(&next, &path).unwrap();
    running.until_services(&["a", "b"]).await;
    replace(&path, "c.yaml", &app("c", 0));
    running.until_services(&["a", "b", "c"]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_symlinked_folder_is_followed_when_the_link_moves() {
    let (parent, first) = folder(&["a"]);
    let (second, link) = (parent.path().join("second"), parent.path().join("link"));
    fs::create_dir(&second).unwrap();
    replace(&second, "a.yaml", &app("a", 0));
    replace(&second, "b.yaml", &app("b", 0));
    std::os::unix::fs::symlink(&first, &link).unwrap();
    let mut running = Running::start(&link);
    running.until_services(&["a"]).await;
    let beside = parent.path().join("link.new");
    std::os::unix::fs::symlink(&second, &beside).unwrap();
    fs::rename(&beside, &link).unwrap();
    running.until_services(&["a", "b"]).await;
    running.stop().await;
}

/// A tmpfs that is unmounted with the test.
struct Mount<'a>(&'a Path);

impl<'a> Mount<'a> {
    fn new(path: &'a Path) -> Self {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(path).status();
        assert!(mounted.unwrap().success(), "mounting a tmpfs needs root");
        Self(path)
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        // Lazily, so that a failed test does not leave it behind because something has it open.
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[tokio::test]
async fn an_unmounted_folder_keeps_everything_and_a_remounted_one_is_followed() {
    let (_parent, path) = folder(&[]);
    let mount = Mount::new(&path);
    replace(&path, "a.yaml", &app("a", 0));
    replace(&path, "b.yaml", &app("b", 0));
    let mut running = Running::start(&path);
    running.until_services(&["a", "b"]).await;
    drop(mount);
    running.until_reasons(&[Reason::FolderUnknown]).await;
    running.until_passes(2).await;
    assert_eq!(running.services(), ["a", "b"]);
    let mount = Mount::new(&path);
    running.until_passes(2).await;
    assert_eq!(running.services(), ["a", "b"], "mounted, still empty");
    replace(&path, "b.yaml", &app("b", 1));
    running.until_services(&["b"]).await;
    replace(&path, "c.yaml", &app("c", 0));
    running.until_services(&["b", "c"]).await;
    running.stop().await;
    drop(mount);
}

#[tokio::test]
async fn a_storm_of_renames_ends_with_the_last_content() {
    let (_parent, path) = folder(&["a", "b"]);
    let mut running = Running::start(&path);
    running.until_services(&["a", "b"]).await;
    for generation in 1..=500 {
        replace(&path, "a.yaml", &app("a", generation));
    }
    fs::remove_file(path.join("b.yaml")).unwrap();
    running.until_services(&["a"]).await;
    let last = app("a", 500);
    let wanted = last.rsplit("[10.1").next().unwrap().trim_end_matches("]}]\n").to_owned();
    let has = |snapshot: &Option<Arc<ClusterSnapshot>>| {
        let services = &snapshot.as_ref().unwrap().services;
        let slice = services.values().next().unwrap().slices.values().next().unwrap();
        slice.endpoints[0].address.to_string() == format!("10.1{wanted}")
    };
    tokio::time::timeout(POLLED, running.snapshots.wait_for(has)).await.expect("the last content").unwrap();
    running.stop().await;
}
