//! Files that somebody has open for writing, on real files and with what the kernel says of them.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::time::Duration;

use mesh_model::table::Knowledge;

use super::folder::KEPT_OPEN;
use super::tests::{Bench, app_a, app_b};
use super::*;
use crate::status::Reason;

/// A writer that truncates a file of the bench and is in the middle of writing its text.
fn half_written(bench: &Bench, name: &str, text: &str) -> File {
    let mut writer = File::create(bench.path(name)).unwrap();
    writer.write_all(&text.as_bytes()[..text.len() / 2]).unwrap();
    writer
}

fn both() -> String {
    app_a() + &app_b()
}

fn finish(mut writer: File, text: &str) {
    writer.write_all(&text.as_bytes()[text.len() / 2..]).unwrap();
}

#[test]
fn a_writer_that_pauses_loses_nothing() {
    let mut bench = Bench::with(&[("a.yaml", &both())]);
    let changed = both() + "# changed\n";
    let writer = half_written(&bench, "a.yaml", &changed);
    for _ in 0..4 {
        assert!(!bench.pass_after(Duration::from_secs(2), &Hints::default()), "the writer is not done");
        assert_eq!(bench.services(), ["default/a", "default/b"]);
    }
    finish(writer, &changed);
    bench.settle();
    assert_eq!(bench.services(), ["default/a", "default/b"]);
    assert_eq!(bench.problems(), []);
}

#[test]
fn a_file_that_stays_open_is_told_of_and_keeps_its_objects_until_it_is_closed() {
    let mut bench = Bench::with(&[("a.yaml", &both())]);
    let writer = half_written(&bench, "a.yaml", &app_a());
    bench.settle();
    bench.pass_after(KEPT_OPEN, &Hints::default());
    assert_eq!(bench.services(), ["default/a", "default/b"]);
    assert_eq!(bench.reasons(), [Reason::FileOpen]);
    assert_eq!(bench.metrics.kept.get(), 4);
    finish(writer, &app_a());
    bench.settle();
    assert_eq!(bench.services(), ["default/a"]);
    assert_eq!(bench.problems(), []);
}

#[test]
fn a_file_that_is_half_written_at_the_start_is_not_taken_for_whole() {
    for remembers in [true, false] {
        let mut bench = Bench::with(&[("a.yaml", &both())]);
        let writer = half_written(&bench, "a.yaml", &both());
        bench.restart(remembers);
        for _ in 0..3 {
            bench.pass_after(Duration::from_secs(2), &Hints::default());
            assert!(bench.snapshot.is_none(), "nothing is known yet");
        }
        finish(writer, &both());
        bench.settle();
        assert_eq!(bench.services(), ["default/a", "default/b"], "{remembers}");
    }
}

#[test]
fn a_file_that_stays_open_from_the_start_on_holds_nobody_up_and_deletes_nothing() {
    for remembers in [true, false] {
        let mut bench = Bench::with(&[("a.yaml", &app_a()), ("b.yaml", &app_b())]);
        let writer = half_written(&bench, "a.yaml", &app_a());
        bench.restart(remembers);
        bench.settle();
        bench.pass_after(KEPT_OPEN, &Hints::default());
        let snapshot = bench.snapshot.as_ref().unwrap();
        if remembers {
            assert_eq!(bench.services(), ["default/a", "default/b"]);
        } else {
            assert_eq!(bench.services(), ["default/b"]);
            assert!(snapshot.unread.anything, "what the file holds may be anything");
            assert_eq!(bench.reader_knowledge(), Knowledge::Partial);
        }
        finish(writer, &app_a());
        bench.settle();
        assert_eq!(bench.services(), ["default/a", "default/b"]);
        assert!(bench.snapshot.as_ref().unwrap().unread.is_empty());
    }
}

#[test]
fn a_file_renamed_into_place_while_it_is_written_waits_for_its_writer() {
    let mut bench = Bench::with(&[("a.yaml", &both())]);
    let writer = half_written(&bench, "new", &both());
    std::fs::rename(bench.path("new"), bench.path("a.yaml")).unwrap();
    let renamed = Hints { whole: ["a.yaml".into()].into(), ..Hints::default() };
    assert!(!bench.pass_after(Duration::ZERO, &renamed));
    assert_eq!(bench.services(), ["default/a", "default/b"]);
    finish(writer, &both());
    bench.settle();
    assert_eq!(bench.services(), ["default/a", "default/b"]);
}

#[test]
fn an_appender_counts_as_a_writer() {
    let mut bench = Bench::with(&[("a.yaml", &app_a())]);
    let mut writer = OpenOptions::new().append(true).open(bench.path("a.yaml")).unwrap();
    writer.write_all(app_b().as_bytes()).unwrap();
    bench.pass_after(Duration::from_secs(5), &Hints::default());
    assert_eq!(bench.services(), ["default/a"]);
    drop(writer);
    bench.settle();
    assert_eq!(bench.services(), ["default/a", "default/b"]);
}
