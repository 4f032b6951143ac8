//! The rules of the peers folder, one test each.

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::*;

struct Folder {
    _dir: tempfile::TempDir,
    path: PathBuf,
    peers: Peers,
    now: Instant,
}

impl Folder {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peers");
        fs::create_dir(&path).unwrap();
        Self { _dir: dir, path, peers: Peers::default(), now: Instant::now() }
    }

    /// With peers hoth (2) and endor (3), read once.
    fn with_two() -> Self {
        let mut folder = Self::new();
        folder.write("hoth.yaml", &good(2));
        folder.write("endor.yaml", &good(3));
        assert_eq!(folder.update().changed.len(), 2);
        folder
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
        self.peers.update(reading, self.now)
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
    fs::rename(folder.path.with_extension("away"), &folder.path).unwrap();
    assert_eq!(folder.update(), PeersChange::default());
    assert_eq!(folder.peers.problem(), None);
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
    let mut folder = Folder::new();
    let version = folder.path.join("..2026_11_24");
    fs::create_dir(&version).unwrap();
    fs::write(version.join("hoth.yaml"), good(2)).unwrap();
    fs::write(version.join("endor.yaml"), good(3)).unwrap();
    symlink("..data/hoth.yaml", folder.path.join("hoth.yaml")).unwrap();
    symlink("..data/endor.yaml", folder.path.join("endor.yaml")).unwrap();
    folder.update();
    assert_eq!(ids(&folder.peers), None);
    symlink("..2026_11_24", folder.path.join("..data")).unwrap();
    assert_eq!(folder.update().changed.len(), 2);
    assert_eq!(ids(&folder.peers), Some(vec![2, 3]));

    folder.remove("..data");
    folder.assert_ignorance();
    // Everything is gone, the version's folder too: still the place where a Secret was mounted.
    fs::remove_dir_all(&version).unwrap();
    folder.remove("hoth.yaml");
    folder.remove("endor.yaml");
    folder.assert_ignorance();
    assert!(folder.peers.problem().unwrap().to_string().contains("without ..data"));
}

#[test]
fn a_secret_without_keys_removes_everybody() {
    let mut folder = Folder::new();
    let version = folder.path.join("..1");
    fs::create_dir(&version).unwrap();
    fs::write(version.join("hoth.yaml"), good(2)).unwrap();
    symlink("..1", folder.path.join("..data")).unwrap();
    symlink("..data/hoth.yaml", folder.path.join("hoth.yaml")).unwrap();
    folder.update();
    fs::remove_file(version.join("hoth.yaml")).unwrap();
    folder.remove("hoth.yaml");
    folder.update();
    assert_eq!(names(&folder.update_later(REMOVAL_GRACE).removed), ["hoth"]);
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
    assert_eq!(ids(&folder.peers), Some(vec![2]), "the id can be read although the rest is wrong");
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
