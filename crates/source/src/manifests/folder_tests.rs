use std::fs;

use super::*;

struct Clock {
    start: Now,
}

impl Clock {
    fn new() -> Self {
        Self { start: Now::read() }
    }

    /// So long after the test's start.
    fn after(&self, passed: Duration) -> Now {
        Now { monotonic: self.start.monotonic + passed, wall: self.start.wall + passed }
    }
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn folder(files: &[&str]) -> (tempfile::TempDir, Folder) {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        fs::write(dir.path().join(file), "x").unwrap();
    }
    let folder = Folder::new(dir.path());
    (dir, folder)
}

fn hint(name: &str) -> Hints {
    Hints { whole: [name.into()].into(), ..Hints::default() }
}

fn names(names: &[OsString]) -> Vec<&str> {
    names.iter().filter_map(|name| name.to_str()).collect()
}

#[test]
fn only_manifests_are_looked_at() {
    for name in ["a.yaml", "a.yml", "a.json", "a.b.yaml"] {
        assert!(is_manifest(name.as_ref()), "{name}");
    }
    for name in [".a.yaml", ".a.yaml.swp", "a.yaml~", "4913", "a.yaml.tmp", "#a.yaml#", "README.md", "yaml"] {
        assert!(!is_manifest(name.as_ref()), "{name}");
    }
}

#[test]
fn a_fresh_file_is_read_once_it_is_left_alone_or_announced() {
    let (_dir, mut folder) = folder(&["a.yaml", "b.yaml"]);
    let clock = Clock::new();
    let scan = folder.scan(&hint("a.yaml"), clock.start).unwrap();
    assert_eq!(names(&scan.read), ["a.yaml"]);
    assert!(scan.incomplete && scan.pending == 1 && scan.again.is_some());
    let scan = folder.scan(&Hints::default(), clock.after(SETTLE + seconds(1))).unwrap();
    assert_eq!(names(&scan.read), ["b.yaml"]);
    assert!(!scan.incomplete && scan.again.is_none());
}

#[test]
fn an_old_file_is_read_at_once() {
    let (_dir, mut folder) = folder(&["a.yaml"]);
    let scan = folder.scan(&Hints::default(), Clock::new().after(seconds(10))).unwrap();
    assert_eq!(names(&scan.read), ["a.yaml"]);
    assert!(!scan.incomplete);
}

#[test]
fn an_unchanged_file_is_not_read_again() {
    let (_dir, mut folder) = folder(&["a.yaml"]);
    let clock = Clock::new();
    folder.scan(&hint("a.yaml"), clock.start).unwrap();
    let scan = folder.scan(&hint("a.yaml"), clock.after(seconds(9))).unwrap();
    assert_eq!(names(&scan.read), [""; 0]);
}

#[test]
fn a_file_that_was_announced_is_looked_at_alone_and_everything_a_second_later() {
    let (dir, mut folder) = folder(&["a.yaml", "b.yaml"]);
    let clock = Clock::new();
    let settled = seconds(10);
    folder.scan(&Hints::default(), clock.after(settled)).unwrap();
    for name in ["a.yaml", "b.yaml"] {
        fs::write(dir.path().join(name), "longer").unwrap();
    }
    let announced = clock.after(settled + Duration::from_millis(1));
    let scan = folder.scan(&hint("a.yaml"), announced).unwrap();
    assert_eq!((names(&scan.read), scan.pending), (vec!["a.yaml"], 0), "b.yaml was looked at");
    let scan = folder.scan(&hint("a.yaml"), clock.after(settled + EVERYTHING)).unwrap();
    assert_eq!(names(&scan.read), ["b.yaml"]);
}

#[test]
fn everything_is_looked_at_where_more_happened_than_was_announced() {
    let came = |dir: &Path| fs::write(dir.join("c.yaml"), "x").unwrap();
    let went = |dir: &Path| fs::remove_file(dir.join("a.yaml")).unwrap();
    let recreated = |dir: &Path| {
        fs::remove_dir_all(dir).unwrap();
        fs::create_dir(dir).unwrap();
        fs::write(dir.join("a.yaml"), "x").unwrap();
    };
    let cases = [
        ("a new file", hint("c.yaml"), came as fn(&Path)),
        ("files elsewhere", Hints { elsewhere: true, ..hint("a.yaml") }, came),
        ("the file has gone", hint("a.yaml"), went),
        ("another folder", hint("a.yaml"), recreated),
    ];
    for (case, hints, happen) in cases {
        let (dir, mut folder) = folder(&["a.yaml", "b.yaml"]);
        let clock = Clock::new();
        folder.scan(&Hints::default(), clock.after(seconds(10))).unwrap();
        happen(dir.path());
        let scan = folder.scan(&hints, clock.after(seconds(10) + Duration::from_millis(1))).unwrap();
        // A look at one file alone finds no names that came or went.
        assert!(scan.replaced || scan.incomplete || scan.pending > 0, "{case}: {scan:?}");
    }
}

/// A folder of one file about whose writers the kernel says this.
fn with_writers(writers: fn(&Path) -> Writers) -> (tempfile::TempDir, Folder) {
    let (dir, folder) = folder(&["a.yaml"]);
    (dir, Folder { writers, ..folder })
}

#[test]
fn a_file_is_not_read_while_it_is_open_for_writing_however_long_it_is_left_alone() {
    let (_dir, mut folder) = with_writers(|_| Writers::Present);
    let clock = Clock::new();
    for (later, hints) in [(0, hint("a.yaml")), (9, Hints::default())] {
        let scan = folder.scan(&hints, clock.after(seconds(later))).unwrap();
        assert!(scan.read.is_empty() && scan.incomplete && scan.pending == 1, "{later}: {scan:?}");
    }
    let scan = folder.scan(&Hints::default(), clock.after(KEPT_OPEN)).unwrap();
    assert_eq!((names(&scan.kept_open), scan.incomplete), (vec!["a.yaml"], false), "nobody waits for ever");
    folder.writers = |_| Writers::Absent;
    let scan = folder.scan(&Hints::default(), clock.after(KEPT_OPEN + seconds(1))).unwrap();
    assert_eq!((names(&scan.read), scan.kept_open.len()), (vec!["a.yaml"], 0));
}

#[test]
fn where_nobody_knows_a_file_is_read_once_it_was_closed_or_left_alone_for_long() {
    let unclosed = Hints { unclosed: ["a.yaml".into()].into(), ..Hints::default() };
    let clock = Clock::new();
    let read = |folder: &mut Folder, hints: &Hints, at| {
        let scan = folder.scan(hints, clock.after(at)).unwrap();
        assert_eq!(scan.incomplete, scan.read.is_empty());
        scan.read.len()
    };
    let (_dir, mut never_announced) = with_writers(|_| Writers::Unknown);
    assert_eq!(read(&mut never_announced, &Hints::default(), SETTLE + seconds(1)), 1);
    let (_dir, mut closed) = with_writers(|_| Writers::Unknown);
    assert_eq!(read(&mut closed, &unclosed, SETTLE + seconds(1)), 0);
    assert_eq!(read(&mut closed, &Hints::default(), seconds(2)), 0, "it is written to still");
    assert_eq!(read(&mut closed, &hint("a.yaml"), seconds(2)), 1);
    let (_dir, mut left_alone) = with_writers(|_| Writers::Unknown);
    assert_eq!(read(&mut left_alone, &unclosed, seconds(1)), 0);
    assert_eq!(read(&mut left_alone, &Hints::default(), UNCLOSED + seconds(1)), 1);
}

#[test]
fn a_vanished_file_is_gone_after_a_moment() {
    let (dir, mut folder) = folder(&["a.yaml", "b.yaml"]);
    let clock = Clock::new();
    folder.scan(&Hints::default(), clock.after(seconds(10))).unwrap();
    fs::remove_file(dir.path().join("a.yaml")).unwrap();
    let scan = folder.scan(&Hints::default(), clock.after(seconds(20))).unwrap();
    assert_eq!(names(&scan.gone), [""; 0]);
    assert_eq!(scan.again, Some(clock.after(seconds(20) + SETTLE).monotonic));
    let scan = folder.scan(&Hints::default(), clock.after(seconds(20) + SETTLE)).unwrap();
    assert_eq!(names(&scan.gone), ["a.yaml"]);
}

#[test]
fn a_file_that_comes_back_in_time_was_never_gone() {
    let (dir, mut folder) = folder(&["a.yaml", "b.yaml"]);
    let clock = Clock::new();
    folder.scan(&Hints::default(), clock.after(seconds(10))).unwrap();
    fs::rename(dir.path().join("a.yaml"), dir.path().join("a.yaml~")).unwrap();
    folder.scan(&Hints::default(), clock.after(seconds(20))).unwrap();
    fs::rename(dir.path().join("a.yaml~"), dir.path().join("a.yaml")).unwrap();
    for later in 21..30 {
        assert_eq!(
            names(&folder.scan(&Hints::default(), clock.after(seconds(later))).unwrap().gone),
            [""; 0]
        );
    }
}

#[test]
fn a_missing_or_empty_folder_is_unknown() {
    let (dir, mut folder) = folder(&[]);
    let clock = Clock::new();
    assert!(matches!(folder.scan(&Hints::default(), clock.start), Err(Unknown::Empty)));
    fs::write(dir.path().join(".hidden.yaml"), "x").unwrap();
    assert!(matches!(folder.scan(&Hints::default(), clock.start), Err(Unknown::Empty)));
    drop(dir);
    assert!(matches!(folder.scan(&Hints::default(), clock.start), Err(Unknown::Missing)));
}

#[test]
fn a_file_is_not_a_folder() {
    let (dir, _) = folder(&["a.yaml"]);
    let scan = Folder::new(&dir.path().join("a.yaml")).scan(&Hints::default(), Now::read());
    assert!(matches!(scan, Err(Unknown::NotAFolder)), "{scan:?}");
}

#[test]
fn a_recreated_folder_is_given_time_to_fill() {
    let (parent, _) = folder(&[]);
    let path = parent.path().join("m");
    let fill = |name: &str| fs::write(path.join(name), "x").unwrap();
    fs::create_dir(&path).unwrap();
    fill("a.yaml");
    fill("b.yaml");
    let (mut folder, clock) = (Folder::new(&path), Clock::new());
    folder.scan(&Hints::default(), clock.after(seconds(10))).unwrap();
    fs::remove_dir_all(&path).unwrap();
    folder.scan(&Hints::default(), clock.after(seconds(20))).unwrap_err();
    fs::create_dir(&path).unwrap();
    fill("a.yaml");
    let gone = |folder: &mut Folder, at: Duration| {
        folder.scan(&Hints::default(), clock.after(at)).unwrap().gone.len()
    };
    assert_eq!(gone(&mut folder, seconds(30)), 0);
    fill("c.yaml");
    assert_eq!(gone(&mut folder, seconds(30) + REFILL / 2), 0);
    assert_eq!(gone(&mut folder, seconds(30) + REFILL), 0, "the folder was still being filled");
    assert_eq!(gone(&mut folder, seconds(30) + REFILL / 2 + REFILL), 1);
}

#[test]
fn a_mounted_volume_changes_as_a_whole() {
    use std::os::unix::fs::symlink;
    let (dir, mut folder) = folder(&[]);
    let at = |name: &str| dir.path().join(name);
    for version in ["..v1", "..v2"] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("a.yaml"), version).unwrap();
    }
    symlink("..v1", at(DATA_LINK)).unwrap();
    symlink("..data/a.yaml", at("a.yaml")).unwrap();
    let clock = Clock::new();
    let all = Hints { all_whole: true, ..Hints::default() };
    assert_eq!(names(&folder.scan(&all, clock.start).unwrap().read), ["a.yaml"]);
    symlink("..v2", at("..data_tmp")).unwrap();
    fs::rename(at("..data_tmp"), at(DATA_LINK)).unwrap();
    assert_eq!(names(&folder.scan(&all, clock.start).unwrap().read), ["a.yaml"]);
    fs::remove_file(at(DATA_LINK)).unwrap();
    let scan = folder.scan(&all, clock.after(seconds(9)));
    assert!(matches!(scan, Err(Unknown::NoDataLink)), "{scan:?}");
}
