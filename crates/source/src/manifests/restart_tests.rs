//! A restart is safe whatever is broken: over every way in which a file or the folder can be unreadable, with what the
//! last process remembered and without.

use mesh_model::snapshot::Unread;

use super::tests::{A, B, Bench, app, app_a, app_b, service, slice};
use crate::testing::{Breakage, OF_A_FILE, OF_THE_FOLDER};
/// Whether the process that has just begun may let go of `default/a` or of its slice.
fn lets_go(bench: &Bench) -> bool {
    let Some(snapshot) = &bench.snapshot else { return false };
    let Unread { services, slices, anything, .. } = &snapshot.unread;
    let named = services.keys().any(|name| name.as_str() == "default/a");
    let has_service = snapshot.services.keys().any(|name| name.as_str() == "default/a");
    let slice_unread =
        slices.iter().any(|(namespace, name)| (namespace.as_str(), name.as_str()) == ("default", "a-1"));
    let has_slice = has_service
        && bench.service("default/a").slices.values().any(|it| !it.endpoints.is_empty())
        || services.values().any(|slices| slices.values().any(|it| !it.endpoints.is_empty()));
    !*anything && !((has_service || named) && (has_slice || slice_unread))
}

#[test]
fn a_restart_with_memory_keeps_what_cannot_be_read_and_follows_the_rest() {
    for Breakage { what, does } in OF_A_FILE {
        let mut bench = Bench::with(&[("a.yaml", &app_a()), ("b.yaml", &app_b())]);
        let before = bench.service("default/a").clone();
        does(bench.dir.path());
        for restart in 1..3 {
            bench.restart(true);
            bench.settle();
            assert_eq!(bench.services(), ["default/a", "default/b"], "{what}, restart {restart}");
            let slices = &bench.service("default/a").slices;
            assert_eq!(*slices, before.slices, "{what}, restart {restart}");
        }
        bench.change("b.yaml", &app("b", B.1, "10.1.0.9"));
        let slice = bench.service("default/b").slices.values().next().unwrap();
        assert_eq!(slice.endpoints[0].address.to_string(), "10.1.0.9", "{what}: the other file is followed");
        std::fs::remove_file(bench.path("b.yaml")).unwrap();
        bench.settle();
        assert_eq!(bench.services(), ["default/a"], "{what}: what is gone from what is readable goes");
        assert!(bench.metrics.kept.get() > 0, "{what}");
        bench.change("b.yaml", &app_b());
        std::fs::remove_file(bench.path("a.yaml")).unwrap();
        bench.settle();
        assert_eq!(bench.services(), ["default/b"], "{what}: a removed file says that its objects are gone");
        assert_eq!(bench.metrics.kept.get(), 0, "{what}");
    }
}

#[test]
fn a_restart_without_memory_says_what_it_does_not_know() {
    for Breakage { what, does } in OF_A_FILE.into_iter().chain(OF_THE_FOLDER) {
        let mut bench = Bench::with(&[("a.yaml", &app_a()), ("b.yaml", &app_b())]);
        does(bench.dir.path());
        bench.restart(false);
        bench.settle();
        assert!(!lets_go(&bench), "{what}: {:?}", bench.snapshot);
    }
}

#[test]
fn a_folder_that_cannot_be_read_says_nothing_after_a_restart() {
    for Breakage { what, does } in OF_THE_FOLDER {
        for memory in [true, false] {
            let bench = &mut Bench::with(&[("a.yaml", &app_a())]);
            does(bench.dir.path());
            bench.restart(memory);
            bench.settle();
            assert!(bench.snapshot.is_none(), "{what}");
        }
    }
}

#[test]
fn what_was_removed_while_nobody_looked_goes_although_another_file_is_broken() {
    let mut bench = Bench::with(&[("a.yaml", &app_a()), ("b.yaml", &app_b())]);
    bench.write("a.yaml", "\t");
    std::fs::remove_file(bench.path("b.yaml")).unwrap();
    bench.restart(true);
    bench.settle();
    assert_eq!(bench.services(), ["default/a"]);
}

#[test]
fn a_file_that_nobody_remembers_may_hold_what_is_missing() {
    let mut bench = Bench::with(&[("a.yaml", &app_a()), ("b.yaml", &app_b())]);
    std::fs::rename(bench.path("b.yaml"), bench.path("c.yaml")).unwrap();
    bench.write("c.yaml", "\t");
    bench.restart(true);
    bench.settle();
    assert_eq!(bench.services(), ["default/a", "default/b"]);
    bench.change("a.yaml", "{apiVersion: v1, kind: List, items: []}");
    assert_eq!(bench.services(), ["default/b"], "what was said again and then taken back goes");
    bench.change("c.yaml", "{apiVersion: v1, kind: List, items: []}");
    assert_eq!(bench.services(), [] as [&str; 0]);
}

#[test]
fn slices_of_an_unreadable_service_go_on_changing() {
    let broken = service("a", A.1).replace("port: 80}", "port: \"80\"}");
    let mut bench = Bench::with(&[("a.yaml", &(broken.clone() + &slice("a", &[A.2]))), ("b.yaml", &app_b())]);
    let addresses = |bench: &Bench| -> Vec<String> {
        let unread = &bench.snapshot.as_ref().unwrap().unread.services;
        let slices = unread.values().flat_map(|slices| slices.values());
        slices.flat_map(|it| &it.endpoints).map(|it| it.address.to_string()).collect()
    };
    assert_eq!(addresses(&bench), [A.2]);
    bench.change("a.yaml", &(broken + &slice("a", &["10.1.0.7"])));
    assert_eq!(addresses(&bench), ["10.1.0.7"]);
    bench.change("a.yaml", &app_a());
    assert!(bench.snapshot.as_ref().unwrap().unread.is_empty());
}

#[test]
fn a_secret_mount_without_its_data_is_unknown_from_the_start() {
    let mut bench = Bench::new();
    bench.write("b.yaml", &app_b());
    std::os::unix::fs::symlink("..data/a.yaml", bench.path("a.yaml")).unwrap();
    bench.settle();
    assert!(bench.snapshot.is_none());
    assert!(bench.problems()[0].message.contains("mount is incomplete"), "{:?}", bench.problems());
}

#[test]
fn what_nobody_could_read_is_not_forgotten_by_the_next_process_either() {
    for Breakage { what, does } in OF_A_FILE {
        let mut bench = Bench::with(&[("a.yaml", &app_a()), ("b.yaml", &app_b())]);
        does(bench.dir.path());
        bench.restart(false);
        bench.settle();
        // What is written down now holds nothing of the broken file.
        for _ in 0..2 {
            bench.restart(true);
            bench.settle();
            assert!(!lets_go(&bench), "{what}: {:?}", bench.snapshot);
        }
        std::fs::remove_file(bench.path("a.yaml")).unwrap();
        bench.change("a.yaml", &app_a());
        bench.restart(true);
        bench.write("a.yaml", "\t");
        bench.settle();
        assert_eq!(bench.services(), ["default/a", "default/b"], "{what}");
        assert!(!bench.snapshot.as_ref().unwrap().unread.anything, "{what}: all is remembered again");
    }
}
