//! The rules of the peers folder, one test each.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::peers::{HELD, REMOVAL_GRACE};
use super::*;

struct Folder {
    _dir: tempfile::TempDir,
    path: PathBuf,
    peers: Peers,
    now: Instant,
    unix_seconds: u64,
}

impl Folder {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peers");
        fs::create_dir(&path).unwrap();
        Self { _dir: dir, path, peers: Peers::default(), now: Instant::now(), unix_seconds: 1000 }
    }

    /// With peers hoth (2) and endor (3), read once.
    fn with_two() -> Self {
        let mut folder = Self::new();
        folder.write("hoth.yaml", &good(2));
        folder.write("endor.yaml", &good(3));
        assert_eq!(folder.update().changed.len(), 2);
        folder
    }

    /// A Secret's mount with peers as its keys, not read yet.
    fn mounted(peers: &[(&str, u16)]) -> Self {
        let folder = Self::new();
        folder.mount(peers);
        folder
    }

    /// As the kubelet lays it out.
    fn mount(&self, peers: &[(&str, u16)]) {
        let version = self.path.join("..1");
        fs::create_dir_all(&version).unwrap();
        for (name, id) in peers {
            fs::write(version.join(format!("{name}.yaml")), good(*id)).unwrap();
            symlink(format!("..data/{name}.yaml"), self.path.join(format!("{name}.yaml"))).unwrap();
        }
        symlink("..1", self.path.join("..data")).unwrap();
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.path.join(file), text).unwrap();
    }

    fn remove(&self, file: &str) {
        fs::remove_file(self.path.join(file)).unwrap();
    }

    fn read(&self) -> FolderReading {
        read(&self.path, &ClusterName::new("tatooine").unwrap(), ClusterId::new(1).unwrap())
    }

    fn update(&mut self) -> PeersChange {
        let reading = self.read();
        self.peers.update(reading, Now { instant: self.now, unix_seconds: self.unix_seconds })
    }

    /// Another process goes on with what this one knew, which was written down and read again.
    fn restart(&mut self) {
        let text = serde_json::to_string(&self.peers.known()).unwrap();
        let before: Remembered = serde_json::from_str(&text).unwrap();
        assert_eq!(before, self.peers.known());
        self.peers =
            Peers::remembering(&before, &ClusterName::new("tatooine").unwrap(), ClusterId::new(1).unwrap());
        self.unix_seconds += 100;
    }

    fn update_later(&mut self, delay: Duration) -> PeersChange {
        self.now += delay;
        self.update()
    }

    fn peer(&self, name: &str) -> &Peer {
        &self.peers.peers()[&ClusterName::new(name).unwrap()]
    }

    fn error(&self, name: &str) -> String {
        self.peer(name).error.as_ref().expect("it is refused").to_string()
    }

    /// Nobody is removed, however long the folder stays like this.
    fn assert_ignorance(&mut self) {
        for _ in 0..3 {
            let change = self.update_later(10 * REMOVAL_GRACE);
            assert_eq!((change.removed.len(), change.read_again_after), (0, None));
        }
        assert_eq!(self.peers.peers().len(), 2);
        assert!(self.peers.peers().values().all(|peer| peer.file.is_some()));
    }
}

fn good(id: u16) -> String {
    format!("id: {id}\nendpoints: [\"http://10.{id}.0.1:2379\"]\nranges: {{pods: [10.{id}.0.0/16]}}\n")
}

fn names(names: &[ClusterName]) -> Vec<&str> {
    names.iter().map(ClusterName::as_str).collect()
}

fn ids(peers: &Peers) -> Option<Vec<u16>> {
    peers.claimed_ids().map(|ids| ids.into_iter().map(ClusterId::value).collect())
}

#[test]
fn an_unchanged_folder_changes_nothing() {
    let mut folder = Folder::with_two();
    assert_eq!(folder.update(), PeersChange::default());
    assert_eq!(ids(&folder.peers), Some(vec![2, 3]));
}

#[test]
fn a_changed_file_changes_its_peer() {
    let mut folder = Folder::with_two();
    folder.write("hoth.yaml", &good(4));
    assert_eq!(names(&folder.update().changed), ["hoth"]);
    assert_eq!(folder.peer("hoth").file.as_ref().unwrap().id.value(), 4);
}

#[test]
fn a_file_that_stays_away_removes_its_peer() {
    let mut folder = Folder::with_two();
    folder.remove("hoth.yaml");
    let change = folder.update();
    assert_eq!((change.removed.len(), change.read_again_after), (0, Some(REMOVAL_GRACE)));
    assert_eq!(names(&folder.update_later(REMOVAL_GRACE).removed), ["hoth"]);
    assert_eq!(ids(&folder.peers), Some(vec![3]));
    folder.remove("endor.yaml");
    folder.update();
    assert_eq!(names(&folder.update_later(REMOVAL_GRACE).removed), ["endor"]);
    assert_eq!(ids(&folder.peers), Some(vec![]));
}

#[test]
fn a_file_that_an_editor_replaces_removes_nobody() {
    let mut folder = Folder::with_two();
    folder.remove("hoth.yaml");
    folder.update();
    folder.write("hoth.yaml", &good(2));
    assert_eq!(folder.update_later(REMOVAL_GRACE), PeersChange::default());
    // The grace begins anew.
    folder.remove("hoth.yaml");
    assert_eq!(folder.update_later(REMOVAL_GRACE).removed.len(), 0);
}

#[test]
fn a_missing_folder_is_ignorance() {
    let mut folder = Folder::with_two();
    fs::rename(&folder.path, folder.path.with_extension("away")).unwrap();
    folder.assert_ignorance();
    let problem = folder.peers.problem().unwrap().to_string();
    assert!(
        problem.contains(folder.path.to_str().unwrap()) && problem.contains("make it a folder"),
        "{problem}"
    );
    assert_eq!(folder.peers.incomplete().map(|(reason, _)| reason), Some(problem.as_str()));
    fs::rename(folder.path.with_extension("away"), &folder.path).unwrap();
    let whole_again = PeersChange { is_otherwise_incomplete: true, ..PeersChange::default() };
    assert_eq!(folder.update(), whole_again);
    assert_eq!((folder.peers.problem(), folder.peers.incomplete()), (None, None));
    assert_eq!(folder.update(), PeersChange::default());
}

#[test]
fn a_folder_missing_from_the_start_claims_nothing_for_sure() {
    let mut folder = Folder::new();
    fs::remove_dir(&folder.path).unwrap();
    folder.update();
    assert_eq!(ids(&folder.peers), None);
}

#[test]
fn a_folder_that_is_a_file_is_ignorance() {
    let mut folder = Folder::with_two();
    fs::remove_dir_all(&folder.path).unwrap();
    fs::write(&folder.path, "").unwrap();
    folder.assert_ignorance();
}

#[test]
fn a_folder_replaced_by_an_empty_one_is_ignorance() {
    let mut folder = Folder::with_two();
    fs::rename(&folder.path, folder.path.with_extension("away")).unwrap();
    fs::create_dir(&folder.path).unwrap();
    folder.assert_ignorance();
    assert!(folder.peers.problem().unwrap().to_string().contains("replaced by an empty one"));
    // Once it is filled it counts, and what isn't in it is gone.
    folder.write("hoth.yaml", &good(2));
    folder.update();
    assert_eq!(names(&folder.update_later(REMOVAL_GRACE).removed), ["endor"]);
}

#[test]
fn a_secret_mount_without_data_is_ignorance() {
    let mut folder = Folder::mounted(&[("hoth", 2), ("endor", 3)]);
    folder.remove("..data");
    folder.update();
    assert_eq!(ids(&folder.peers), None);
    symlink("..1", folder.path.join("..data")).unwrap();
    assert_eq!(folder.update().changed.len(), 2);
    assert_eq!(ids(&folder.peers), Some(vec![2, 3]));

    folder.remove("..data");
    folder.assert_ignorance();
    // Everything is gone, the version's folder too: still the place where a Secret was mounted.
    fs::remove_dir_all(folder.path.join("..1")).unwrap();
    folder.remove("hoth.yaml");
    folder.remove("endor.yaml");
    folder.assert_ignorance();
    assert!(folder.peers.problem().unwrap().to_string().contains("without ..data"));
}

#[test]
fn a_secret_without_keys_removes_everybody_also_for_the_next_process() {
    let keys_go = |folder: &mut Folder| {
        fs::remove_file(folder.path.join("..1/hoth.yaml")).unwrap();
        folder.remove("hoth.yaml");
    };
    let restarts = |folder: &mut Folder| {
        // Every pod has a mount of its own.
        fs::rename(&folder.path, folder.path.with_extension("before")).unwrap();
        folder.mount(&[]);
        folder.restart();
    };
    for (what, happens) in [("its keys go", keys_go as fn(&mut Folder)), ("a new pod", restarts)] {
        let mut folder = Folder::mounted(&[("hoth", 2)]);
        folder.update();
        happens(&mut folder);
        folder.update();
        assert_eq!(names(&folder.update_later(REMOVAL_GRACE).removed), ["hoth"], "{what}");
        assert_eq!(ids(&folder.peers), Some(vec![]), "{what}");
    }
}

#[test]
fn a_file_that_breaks_keeps_its_last_good_content() {
    for text in ["", "id: [", "id: 2\n", "\u{0}\u{1}"] {
        let mut folder = Folder::with_two();
        folder.write("hoth.yaml", text);
        assert_eq!(names(&folder.update().changed), ["hoth"], "{text:?}");
        assert!(folder.error("hoth").contains("hoth.yaml"));
        folder.assert_ignorance();
        assert_eq!(ids(&folder.peers), Some(vec![2, 3]));
        folder.write("hoth.yaml", &good(2));
        assert_eq!(names(&folder.update().changed), ["hoth"]);
        assert_eq!(folder.peer("hoth").error, None);
    }
}

#[test]
fn a_file_that_cannot_be_read_keeps_its_last_good_content() {
    let mut folder = Folder::with_two();
    folder.remove("hoth.yaml");
    fs::create_dir(folder.path.join("hoth.yaml")).unwrap();
    folder.assert_ignorance();
    assert!(folder.error("hoth").contains("no plain file"));
    fs::remove_dir(folder.path.join("hoth.yaml")).unwrap();
    symlink("nowhere", folder.path.join("hoth.yaml")).unwrap();
    folder.assert_ignorance();
    folder.remove("hoth.yaml");
    fs::write(folder.path.join("hoth.yaml"), [0xff, 0xfe]).unwrap();
    folder.assert_ignorance();
    assert!(folder.error("hoth").contains("can't be read"));
    folder.write("hoth.yaml", &"#".repeat(2 << 20));
    folder.assert_ignorance();
    assert!(folder.error("hoth").contains("bigger than 1 MiB"));
}

#[test]
fn a_file_broken_from_the_start_leaves_it_open_whose_ids_are_claimed() {
    let mut folder = Folder::new();
    folder.write("hoth.yaml", "id: [");
    folder.update();
    assert_eq!(ids(&folder.peers), None);
    folder.write("hoth.yaml", "id: 2\n");
    folder.update();
    assert_eq!(ids(&folder.peers), None, "the id can be read, but it may have been another one before");
    folder.write("hoth.yaml", &good(2));
    folder.update();
    assert_eq!(ids(&folder.peers), Some(vec![2]));
    folder.write("Not_A_Name.yaml", &good(9));
    folder.update();
    assert_eq!(ids(&folder.peers), None);
    assert!(folder.peers.misnamed()[0].to_string().contains("no cluster name"));
}

#[test]
fn two_files_with_one_id_are_both_refused() {
    let mut folder = Folder::new();
    folder.write("hoth.yaml", &good(2));
    folder.write("endor.yaml", &good(2));
    folder.update();
    for (name, other) in [("hoth", "endor"), ("endor", "hoth")] {
        assert_eq!(folder.peer(name).file, None);
        let error = folder.error(name);
        assert!(error.contains("2 is claimed by") && error.contains(other), "{error}");
    }
}

#[test]
fn a_new_file_with_a_used_id_does_not_harm_the_peer_that_has_it() {
    let mut folder = Folder::with_two();
    folder.write("bespin.yaml", &good(2));
    folder.update();
    assert_eq!(folder.peer("bespin").file, None);
    assert_eq!(folder.peer("hoth").file.as_ref().unwrap().id.value(), 2);
    assert!(folder.error("hoth").contains("bespin"));
    folder.remove("bespin.yaml");
    folder.update();
    assert_eq!(folder.peer("hoth").error, None);
}

#[test]
fn an_id_that_a_broken_file_keeps_is_not_given_away() {
    let mut folder = Folder::with_two();
    folder.write("hoth.yaml", "");
    folder.write("endor.yaml", &good(2));
    folder.update();
    assert!(folder.error("endor").contains("peer hoth"), "{}", folder.error("endor"));
    let effective: Vec<u16> =
        folder.peers.peers().values().flat_map(|peer| &peer.file).map(|file| file.id.value()).collect();
    assert_eq!(effective, [3, 2]);
}

#[test]
fn a_peer_can_be_renamed_and_ids_can_be_swapped() {
    let mut folder = Folder::with_two();
    folder.remove("hoth.yaml");
    folder.write("bespin.yaml", &good(2));
    let change = folder.update();
    assert_eq!((names(&change.changed), names(&change.removed)), (vec!["bespin"], vec!["hoth"]));
    assert_eq!(folder.peer("bespin").error, None);
    folder.write("bespin.yaml", &good(3));
    folder.write("endor.yaml", &good(2));
    folder.update_later(REMOVAL_GRACE);
    assert_eq!(folder.peer("bespin").file.as_ref().unwrap().id.value(), 3);
    assert_eq!(folder.peer("endor").file.as_ref().unwrap().id.value(), 2);
}

#[test]
fn two_files_of_one_name_are_both_refused() {
    let mut folder = Folder::new();
    folder.write("hoth.yaml", &good(2));
    folder.write("hoth.json", &good(3));
    folder.update();
    assert_eq!(folder.peer("hoth").file, None);
    assert!(folder.error("hoth").contains("same peer"), "{}", folder.error("hoth"));
}

#[test]
fn own_name_and_own_id_are_refused() {
    let mut folder = Folder::new();
    folder.write("tatooine.yaml", &good(2));
    folder.write("hoth.yaml", &good(1));
    folder.update();
    assert!(folder.error("tatooine").contains("not its own peer"));
    assert!(folder.error("hoth").contains("this cluster's own id"));
    assert!(folder.peers.peers().values().all(|peer| peer.file.is_none()));
}

#[test]
fn hidden_swap_and_foreign_files_are_no_peers() {
    let mut folder = Folder::with_two();
    for file in
        [".hoth.yaml.swp", ".bespin.yaml", "hoth.yaml~", "#hoth.yaml#", "4913", "README.md", ".#hoth.yaml"]
    {
        folder.write(file, "garbage");
    }
    assert_eq!(folder.update(), PeersChange::default());
    assert!(folder.peers.misnamed().is_empty());
}

type Breakage = (&'static str, fn(&Folder));

/// Ways in which the file of hoth, whose id is 2, can be unreadable.
const BREAKAGES: [Breakage; 12] = [
    ("not YAML", |it| it.write("hoth.yaml", "id: [")),
    ("a tab", |it| it.write("hoth.yaml", &good(2).replace("endpoints", "\tendpoints"))),
    ("empty", |it| it.write("hoth.yaml", "")),
    ("half-written, within the id", |it| it.write("hoth.yaml", "id: 4")),
    ("half-written, this cluster's own id", |it| it.write("hoth.yaml", "id: 1\n")),
    ("half-written", |it| it.write("hoth.yaml", &good(2)[..good(2).len() - 10])),
    ("bad PEM", |it| it.write("hoth.yaml", &(good(2) + "trust: |\n  -----BEGIN CERTIFICATE-----\n"))),
    ("no text", |it| fs::write(it.path.join("hoth.yaml"), [0xff, 0xfe]).unwrap()),
    ("too big", |it| it.write("hoth.yaml", &"#".repeat(2 << 20))),
    ("the id of another", |it| it.write("hoth.yaml", &good(3))),
    ("another file of the same peer", |it| it.write("hoth.json", &good(2))),
    ("no permission", |it| {
        // As root everything can be read but this.
        it.remove("hoth.yaml");
        symlink("hoth.yaml", it.path.join("hoth.yaml")).unwrap();
    }),
];

fn effective_ids(folder: &Folder) -> Vec<u16> {
    let files = folder.peers.peers().values().flat_map(|peer| &peer.file);
    let mut ids: Vec<u16> = files.map(|file| file.id.value()).collect();
    ids.sort_unstable();
    ids
}

#[test]
fn a_file_that_is_broken_at_the_start_keeps_what_it_said_before() {
    for (what, does) in BREAKAGES {
        let mut folder = Folder::with_two();
        let before = folder.peer("hoth").file.clone();
        does(&folder);
        for restart in 0..3 {
            folder.restart();
            folder.update();
            assert_eq!(folder.peer("hoth").file, before, "{what}");
            assert!(folder.peer("hoth").error.is_some(), "{what}");
            assert_eq!(folder.peer("hoth").kept_since, Some(1100), "{what}, restart {restart}");
            assert_eq!(effective_ids(&folder), [2, 3], "{what}");
            let claimed = ids(&folder.peers);
            assert!(claimed.is_none_or(|ids| ids.contains(&2) && ids.contains(&3)), "{what}");
            folder.assert_ignorance();
        }
        let _there_may_be_none = fs::remove_file(folder.path.join("hoth.json"));
        folder.remove("hoth.yaml");
        folder.write("hoth.yaml", &good(2).replace("10.2.0.0/16", "10.2.1.0/24"));
        folder.update();
        assert_eq!(folder.peer("hoth").error, None, "{what}");
        assert_eq!(folder.peer("hoth").kept_since, None, "{what}");
        assert_ne!(folder.peer("hoth").file, before, "{what}: narrowed ranges count at once");
        folder.restart();
        folder.remove("hoth.yaml");
        folder.update();
        folder.update_later(REMOVAL_GRACE);
        assert_eq!(ids(&folder.peers), Some(vec![3]), "{what}");
    }
}

#[test]
fn a_file_that_is_refused_for_another_keeps_what_it_said_before() {
    let mut folder = Folder::with_two();
    folder.write("hoth.yaml", &good(3));
    folder.write("endor.yaml", "");
    for _ in 0..2 {
        folder.restart();
        assert_eq!(names(&folder.update().changed), ["endor", "hoth"]);
        assert_eq!(effective_ids(&folder), [2, 3]);
        assert!(folder.error("hoth").contains("peer endor"), "{}", folder.error("hoth"));
    }
}

#[test]
fn what_a_readable_file_says_at_the_start_counts_at_once() {
    let mut folder = Folder::with_two();
    folder.write("hoth.yaml", &good(2).replace("10.2.0.0/16", "10.2.1.0/24"));
    folder.restart();
    folder.update();
    let ranges = format!("{:?}", folder.peer("hoth").file.as_ref().unwrap().ranges);
    assert!(ranges.contains("10.2.1.0/24") && !ranges.contains("10.2.0.0/16"), "{ranges}");
}

#[test]
fn a_file_removed_while_nobody_looked_is_not_followed_and_drained_a_second_later() {
    let mut folder = Folder::with_two();
    folder.remove("hoth.yaml");
    folder.restart();
    let change = folder.update();
    assert_eq!((change.removed.len(), change.read_again_after), (0, Some(REMOVAL_GRACE)));
    assert_eq!(effective_ids(&folder), [3], "it is not followed");
    assert_eq!(ids(&folder.peers), Some(vec![2, 3]), "an editor may be about to write it again");
    assert_eq!(names(&folder.update_later(REMOVAL_GRACE).removed), ["hoth"]);
    assert_eq!(ids(&folder.peers), Some(vec![3]));
    folder.restart();
    folder.write("hoth.yaml", "");
    folder.update();
    assert_eq!(folder.peer("hoth").file, None, "what was removed does not come back");
}

#[test]
fn a_peer_renamed_while_nobody_looked_is_followed_by_its_new_name() {
    let mut folder = Folder::with_two();
    folder.remove("hoth.yaml");
    folder.write("bespin.yaml", &good(2));
    folder.restart();
    assert_eq!(names(&folder.update().removed), ["hoth"]);
    assert_eq!((folder.peer("bespin").error.as_ref(), ids(&folder.peers)), (None, Some(vec![2, 3])));
}

#[test]
fn a_folder_that_cannot_be_read_at_the_start_keeps_everybody() {
    for (what, does) in [
        ("gone", (|it| fs::remove_dir_all(&it.path).unwrap()) as fn(&Folder)),
        ("a file", |it| {
            fs::remove_dir_all(&it.path).unwrap();
            fs::write(&it.path, "").unwrap();
        }),
        ("another one, and empty", |it| {
            fs::rename(&it.path, it.path.with_extension("away")).unwrap();
            fs::create_dir(&it.path).unwrap();
        }),
        ("a mount without its data", |it| {
            it.remove("hoth.yaml");
            symlink("..data/hoth.yaml", it.path.join("hoth.yaml")).unwrap();
        }),
    ] {
        let mut folder = Folder::with_two();
        does(&folder);
        for _ in 0..3 {
            folder.restart();
            assert_eq!(folder.update().changed.len(), 2, "{what}");
            assert_eq!(effective_ids(&folder), [2, 3], "{what}");
            assert_eq!(ids(&folder.peers), None, "{what}");
            folder.assert_ignorance();
        }
    }
}

#[test]
fn what_was_remembered_is_checked_like_a_file() {
    let folder = Folder::with_two();
    let text = serde_json::to_string(&folder.peers.known()).unwrap();
    let own = (ClusterName::new("tatooine").unwrap(), ClusterId::new(1).unwrap());
    let count = |text: &str| {
        let before = serde_json::from_str(text).unwrap();
        Peers::remembering(&before, &own.0, own.1).known().len()
    };
    assert_eq!(count(&text), 2);
    assert_eq!(count(&text.replace("\"id\":3", "\"id\":1")), 1, "this cluster's own id");
    assert_eq!(count(&text.replace("\"id\":3", "\"id\":2")), 1, "the id of another peer");
    assert_eq!(count(&text.replace("hoth", "tatooine")), 1, "this cluster's own name");
    assert_eq!(count(&text.replace("10.3.0.0/16", "10.3.0.1/16")), 1, "no range");
}

/// A writer that has truncated a file and written part of it.
fn half_written(folder: &Folder, file: &str, text: &str) -> fs::File {
    let mut writer = fs::File::create(folder.path.join(file)).unwrap();
    std::io::Write::write_all(&mut writer, &text.as_bytes()[..text.len() / 2]).unwrap();
    writer
}

#[test]
fn a_file_that_is_being_written_keeps_what_it_said_and_is_told_of_when_it_stays_open() {
    let mut folder = Folder::with_two();
    let before = folder.peer("hoth").clone();
    let writer = half_written(&folder, "hoth.yaml", &good(2));
    for delay in [Duration::ZERO, HELD / 2] {
        let change = folder.update_later(delay);
        assert_eq!((change.changed.len(), change.removed.len()), (0, 0));
        assert!(change.read_again_after.is_some());
        assert_eq!(*folder.peer("hoth"), before);
    }
    folder.update_later(HELD);
    assert!(folder.error("hoth").contains("open for writing"), "{}", folder.error("hoth"));
    assert_eq!(folder.peer("hoth").file, before.file, "the last good version stays");
    drop(writer);
    folder.write("hoth.yaml", &good(2));
    folder.update();
    assert_eq!(*folder.peer("hoth"), before);
}

#[test]
fn a_new_file_is_no_peer_until_it_is_written_and_drains_nobody_meanwhile() {
    let mut folder = Folder::with_two();
    let writer = half_written(&folder, "dagobah.yaml", &good(4));
    assert_eq!(folder.update().changed.len(), 0);
    assert_eq!(folder.peers.claimed_ids(), None, "nobody knows which id the file claims");
    drop(writer);
    folder.write("dagobah.yaml", &good(4));
    assert_eq!(folder.update().changed.len(), 1);
    assert_eq!(folder.peers.claimed_ids().map(|ids| ids.len()), Some(3));
}

#[test]
fn a_file_that_is_removed_while_it_is_being_written_is_a_removed_file() {
    let mut folder = Folder::with_two();
    let _writer = half_written(&folder, "hoth.yaml", &good(2));
    folder.update();
    folder.remove("hoth.yaml");
    folder.update_later(Duration::from_millis(1));
    assert_eq!(folder.update_later(REMOVAL_GRACE).removed.len(), 1);
    assert_eq!(folder.peers.claimed_ids().map(|ids| ids.len()), Some(1));
}

#[test]
fn a_remembered_peer_whose_file_is_being_written_at_the_start_is_followed_as_before() {
    let mut folder = Folder::with_two();
    let before = folder.peer("hoth").clone();
    let _writer = half_written(&folder, "hoth.yaml", &good(2));
    folder.restart();
    let change = folder.update();
    assert_eq!((names(&change.changed), change.removed.len()), (vec!["endor", "hoth"], 0));
    assert_eq!(*folder.peer("hoth"), before);
    assert_eq!(folder.peers.claimed_ids().map(|ids| ids.len()), Some(2));
}
