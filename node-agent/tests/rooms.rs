//! Arrows between the folders of a crate: which room of the agent may use which, and that no crate has a circle of folders.
//!
//! A room is a folder below `src`, or a file there that folders use. Arrows between crates are kept by `e2e/tests/arrows.rs`.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A room of the agent and those that it may use: the table of rooms in docs/architecture.md. Every other file below `src`
/// puts rooms together: it may use them all, and no room uses it.
const ROOMS: &[(&str, &[&str])] = &[
    ("datapath", &[]),
    ("heap", &[]),
    ("quota", &["datapath"]),
    ("admin", &["datapath"]),
    ("peers", &["admin", "datapath", "quota"]),
    ("hooks", &["admin", "datapath"]),
    ("merge", &["admin", "datapath", "heap", "peers", "quota"]),
    ("findings", &["merge"]),
];

/// The parts of the merge loop in `node-agent/src/merge`, each with the file that has its tests. Other files there are
/// answers, metrics, and what tests share.
const PARTS: &[(&str, &str)] = &[
    ("claims", "claims"),
    ("connects", "connects"),
    ("failback", "failback"),
    ("failures", "writer"),
    ("heartbeat", "heartbeat"),
    ("inherited", "inherited"),
    ("inputs", "merger_tests"),
    ("left_out", "left_out"),
    ("logged", "planner"),
    ("marks", "merger_tests"),
    ("merger", "merger_tests"),
    ("next_plan", "merger_tests"),
    ("one_service", "merger_tests"),
    ("passes", "passes"),
    ("planner", "planner"),
    ("refusal", "refused"),
    ("refused", "refused"),
    ("retired", "retired"),
    ("retries", "retries"),
    ("shown", "shown"),
    ("sources", "sources"),
    ("start", "passes"),
    ("sweep", "sweep"),
    ("task", "task_tests"),
    ("terminating", "merger_tests"),
    ("trimming", "trimming"),
    ("view", "view"),
    ("writer", "writer"),
];
const NO_PARTS: &[&str] = &["metrics", "mod", "names", "names_file", "query", "reasons", "rows", "testing"];
/// Lines of a part without its tests.
const PART: usize = 150;

/// The rooms that each room uses. Files of no folder are rooms too.
type Arrows = BTreeMap<String, BTreeSet<String>>;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All Rust files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] });
    files.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// The names of the modules on the way to a file; none for the crate's root.
fn modules(file: &Path) -> Vec<String> {
    let names = file.with_extension("");
    let mut names: Vec<String> = names.iter().map(|name| name.to_str().unwrap().to_owned()).collect();
    if matches!(names.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        names.pop();
    }
    names
}

/// The modules of the crate's root that a text names, by `crate::` or by as many `super::` as lead there.
fn used(text: &str, depth: usize) -> BTreeSet<String> {
    let code: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap()).collect();
    let code = code.join("\n");
    let root = ["crate::".to_owned(), "super::".repeat(depth)];
    let paths =
        root.iter().filter(|root| !root.is_empty()).flat_map(|root| code.split(root.as_str()).skip(1));
    paths.flat_map(first_names).collect()
}

/// The first name of a path, or of each in its braces.
fn first_names(path: &str) -> Vec<String> {
    let Some(list) = path.strip_prefix('{') else { return vec![name(path)] };
    let (mut names, mut depth, mut begins) = (Vec::new(), 0, true);
    for (at, character) in list.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            _ if begins && !character.is_whitespace() => {
                names.push(name(&list[at..]));
                begins = false;
            }
            _ => {}
        }
    }
    names
}

fn name(path: &str) -> String {
    path.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect()
}

fn arrows(source: &Path) -> Arrows {
    let mut arrows = Arrows::new();
    for file in files(source) {
        let modules = modules(file.strip_prefix(source).unwrap());
        if let Some(room) = modules.first() {
            let used = used(&fs::read_to_string(&file).unwrap(), modules.len());
            arrows.entry(room.clone()).or_default().extend(used);
        }
    }
    let rooms: BTreeSet<String> = arrows.keys().cloned().collect();
    for (room, used) in &mut arrows {
        used.retain(|other| rooms.contains(other) && other != room);
    }
    arrows
}

/// Rooms that lead back to the first of them, if there are any.
fn circle(arrows: &Arrows) -> Option<Vec<String>> {
    let mut ways: Vec<Vec<String>> = arrows.keys().map(|room| vec![room.clone()]).collect();
    let mut seen = BTreeSet::new();
    while let Some(way) = ways.pop() {
        let (first, last) = (way.first().unwrap().clone(), way.last().unwrap().clone());
        for next in arrows.get(&last).into_iter().flatten() {
            let way: Vec<String> = way.iter().chain([next]).cloned().collect();
            if *next == first {
                return Some(way);
            }
            if seen.insert((first.clone(), next.clone())) {
                ways.push(way);
            }
        }
    }
    None
}

#[test]
fn every_room_uses_only_those_that_it_may() {
    let arrows = arrows(&workspace().join("node-agent/src"));
    let allowed: BTreeMap<&str, &[&str]> = ROOMS.iter().copied().collect();
    let folders = fs::read_dir(workspace().join("node-agent/src")).unwrap();
    for folder in folders.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
        let room = folder.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(allowed.contains_key(&*room), "folder {room} is not in this test's table");
    }
    for (room, allowed) in allowed {
        let used: Vec<&str> = arrows[room].iter().map(String::as_str).collect();
        assert_eq!(used, allowed, "{room} uses more or less than this test's table says");
    }
}

#[test]
fn no_crate_has_a_circle_of_folders() {
    let text = fs::read_to_string(workspace().join("Cargo.toml")).unwrap();
    let members = text.split_once("members = [").unwrap().1.split_once(']').unwrap().0;
    let members: Vec<&str> = members.split('"').skip(1).step_by(2).collect();
    assert!(
        members.contains(&"node-agent"),
        "the list of members is another than this test reads: {members:?}"
    );
    for member in members {
        let source = workspace().join(member).join("src");
        let mut arrows = arrows(&source);
        arrows.retain(|room, _| source.join(room).is_dir());
        assert_eq!(circle(&arrows), None, "{member}: folders that use each other");
    }
}

#[test]
fn no_files_of_the_etcd_client_use_each_other() {
    assert_eq!(circle(&arrows(&workspace().join("crates/kv/src"))), None);
}

#[test]
fn the_parts_of_the_merge_loop_are_small_and_have_tests() {
    let folder = workspace().join("node-agent/src/merge");
    let text = |part: &str| fs::read_to_string(folder.join(part).with_extension("rs")).unwrap();
    for (part, tests) in PARTS {
        let lines = text(part).lines().take_while(|line| *line != "#[cfg(test)]").count();
        assert!(lines <= PART, "{part} has {lines} lines: split it");
        let has_tests = ["#[test]", "#[tokio::test"].iter().any(|mark| text(tests).contains(mark));
        assert!(has_tests, "{part} has no tests in {tests}");
    }
    let files = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let names = files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned());
    let parts: BTreeSet<String> = names.filter(|name| !name.ends_with("_tests")).collect();
    let listed = PARTS.iter().map(|(part, _)| *part).chain(NO_PARTS.iter().copied());
    assert_eq!(parts, listed.map(ToOwned::to_owned).collect(), "this test's lists are of other files");
}

#[test]
fn arrows_and_circles_are_found() {
    let text = "use crate::a::B;\nuse crate::{c::{D, E}, f};\n// crate::g\nfn h() { crate::i::j() } use super::super::k;";
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    assert_eq!(used(text, 2), names(&["a", "c", "f", "i", "k"]));
    assert_eq!(used("use super::k;", 2), names(&[]));
    assert_eq!(modules(Path::new("merge/mod.rs")), ["merge"]);
    assert_eq!(modules(Path::new("lib.rs")), [""; 0]);
    let arrows = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(from, to)| ((*from).to_owned(), names(&[*to]))).collect::<Arrows>()
    };
    assert_eq!(circle(&arrows(&[("a", "b"), ("b", "c")])), None);
    assert!(circle(&arrows(&[("a", "b"), ("b", "c"), ("c", "b")])).is_some());
}
