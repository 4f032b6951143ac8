use std::collections::BTreeMap;
use std::os::unix::fs::symlink;

use super::*;

/// For every wait.
const DEADLINE: Duration = Duration::from_secs(30);

type Value = BTreeMap<String, u32>;

fn value(number: u32) -> Value {
    BTreeMap::from([("number".into(), number)])
}

fn file(folder: &Path) -> StateFile {
    StateFile::new(folder.join("instance/state"), 1, "cluster hoth")
}

fn load(file: &StateFile) -> Result<Option<Value>, StateError> {
    file.load()
}

#[test]
fn what_is_written_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(folder.path());
    assert!(load(&file).unwrap().is_none());
    for number in [1, 2] {
        file.save(&value(number)).unwrap();
        assert_eq!(load(&file).unwrap(), Some(value(number)));
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&file.path), mode(file.path.parent().unwrap())), (0o600, 0o700));
    assert_eq!(fs::read_dir(file.path.parent().unwrap()).unwrap().count(), 1, "nothing stays beside it");
}

#[test]
fn damage_anywhere_counts_as_nothing_and_not_as_emptiness() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(folder.path());
    file.save(&value(7)).unwrap();
    let good = fs::read(&file.path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x20;
        fs::write(&file.path, &bad).unwrap();
        assert!(load(&file).is_err(), "byte {at}");
        // What a file system may leave of a write that a power cut ended.
        fs::write(&file.path, &good[..at]).unwrap();
        assert!(load(&file).is_err(), "cut at {at}");
        let zeros = [&good[..at], &vec![0; good.len() - at]].concat();
        fs::write(&file.path, zeros).unwrap();
        assert!(load(&file).is_err(), "zeros from {at}");
    }
    let twice = [&good[..], &good[..]].concat();
    fs::write(&file.path, twice).unwrap();
    assert!(matches!(load(&file), Err(StateError::Damaged { .. })));
    fs::remove_file(&file.path).unwrap();
    fs::create_dir(&file.path).unwrap();
    assert!(matches!(load(&file), Err(StateError::Read { .. })));
}

#[test]
fn what_is_of_another_version_shape_or_cluster_counts_as_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(folder.path());
    file.save(&value(7)).unwrap();
    let other = StateFile { version: 2, ..file.clone() };
    assert!(matches!(load(&other), Err(StateError::Version { found: 1, known: 2, .. })));
    let other = StateFile { about: "cluster endor".into(), ..file.clone() };
    let error = load(&other).unwrap_err().to_string();
    assert!(error.contains("about cluster hoth, not about cluster endor"), "{error}");
    file.save(&["another shape"]).unwrap();
    assert!(matches!(load(&file), Err(StateError::Malformed { .. })));
}

#[test]
fn a_full_disk_leaves_what_stood() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(folder.path());
    file.save(&value(1)).unwrap();
    let temporary = file.path.with_extension("tmp");
    symlink("/dev/full", &temporary).unwrap();
    let StateError::Write { source, .. } = file.save(&value(2)).unwrap_err() else {
        panic!("it was written")
    };
    assert_eq!(source.kind(), io::ErrorKind::StorageFull);
    assert_eq!(load(&file).unwrap(), Some(value(1)));
    fs::remove_file(&temporary).unwrap();
    fs::write(&temporary, "left over by a power cut, and longer than what comes next").unwrap();
    file.save(&value(3)).unwrap();
    assert_eq!(load(&file).unwrap(), Some(value(3)));
}

struct Keeping {
    file: StateFile,
    values: watch::Sender<Option<Value>>,
    failed: Gauge,
    token: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn keeping(file: StateFile) -> Keeping {
    let (values, receiver) = watch::channel(None);
    let (failed, token) = (Gauge::default(), CancellationToken::new());
    let task = tokio::spawn(file.clone().keep(receiver, failed.clone(), token.clone()));
    Keeping { file, values, failed, token, task }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("{what}: not in time"));
}

#[tokio::test]
async fn what_came_last_is_written_at_the_end() {
    for round in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let keeping = keeping(file(folder.path()));
        if round % 2 == 0 {
            keeping.values.send_replace(Some(value(1)));
            until("the first", || load(&keeping.file).unwrap().is_some()).await;
        }
        keeping.values.send_replace(Some(value(2)));
        keeping.token.cancel();
        // Who sends may end first.
        drop(keeping.values);
        keeping.task.await.unwrap();
        assert_eq!(load(&keeping.file).unwrap(), Some(value(2)), "round {round}");
    }
}

#[tokio::test]
async fn where_nothing_can_be_written_it_is_shown_and_the_process_goes_on() {
    let keeping = keeping(StateFile::new("/proc/clustermesh/state".into(), 1, "cluster hoth"));
    keeping.values.send_replace(Some(value(1)));
    until("the failure is shown", || keeping.failed.get() == 1).await;
    keeping.token.cancel();
    tokio::time::timeout(DEADLINE, keeping.task).await.unwrap().unwrap();
}

#[test]
fn a_disk_that_hangs_holds_up_neither_the_others_nor_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(folder.path());
    file.save(&value(1)).unwrap();
    // Opening a pipe to write waits for a reader, as a write to a disk that hangs does.
    let pipe = file.path.with_extension("tmp");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let keeping = keeping(file.clone());
        keeping.values.send_replace(Some(value(2)));
        // It took the value, and the only thread has gone on.
        until("it writes", || !keeping.task.is_finished()).await;
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        keeping.token.cancel();
        tokio::time::timeout(DEADLINE, keeping.task).await.unwrap().unwrap();
    });
    assert_eq!(load(&file).unwrap(), Some(value(1)));
    runtime.shutdown_background();
    // Lets the thread go.
    drop(File::options().read(true).write(true).open(&pipe).unwrap());
}
