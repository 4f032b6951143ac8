//! For the tests of everybody who relies on a source: ways in which a folder of manifests breaks, and an API server.

pub mod api;
pub mod folder;

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

/// The file that breaks; it holds a Service and its slice.
pub const FILE: &str = "a.yaml";

/// A way to make [`FILE`], or the whole folder, unreadable.
#[derive(Clone, Copy, Debug)]
pub struct Breakage {
    pub what: &'static str,
    /// Called with the folder.
    pub does: fn(&Path),
}

/// Of the file alone: everything else can be read.
pub const OF_A_FILE: [Breakage; 13] = [
    breakage("a field of a wrong type", |it| edit(it, "port: 80}", "port: \"80\"}")),
    breakage("a slice's field of a wrong type", |it| edit(it, "port: 8080", "port: many")),
    breakage("a rule broken", |it| edit(it, "port: 80}", "port: 0}")),
    breakage("an address missing", |it| edit(it, "clusterIPs", "noClusterIPs")),
    breakage("a tab", |it| edit(it, "metadata:", "\tmetadata:")),
    breakage("a key twice", |it| edit(it, "kind: Service\n", "kind: Service\nkind: Service\n")),
    breakage("nothing", |it| write(it, b"")),
    breakage("only comments", |it| write(it, b"# to be filled in\n---\n")),
    breakage("other bytes than text", |it| write(it, b"apiVersion: v1\n\xff\xfe\n")),
    breakage("half of it", |it| {
        let text = read(it);
        write(it, &text.as_bytes()[..text.len() * 2 / 3]);
    }),
    breakage("too much", |it| {
        let file = File::create(it.join(FILE)).expect("the folder is there");
        file.set_len(9 << 20).expect("the file has holes");
    }),
    breakage("a version that is not read", |it| edit(it, "apiVersion: v1\n", "apiVersion: v2\n")),
    breakage("a link that leads nowhere", |it| {
        // As root everything can be read but this.
        fs::remove_file(it.join(FILE)).expect("the file is there");
        symlink(FILE, it.join(FILE)).expect("the name is free");
    }),
];

/// Of the folder: nothing can be read.
pub const OF_THE_FOLDER: [Breakage; 3] = [
    breakage("the folder is gone", |it| fs::remove_dir_all(it).expect("it is there")),
    breakage("the folder is empty", |it| {
        for file in fs::read_dir(it).expect("it is there") {
            fs::remove_file(file.expect("it can be listed").path()).expect("it is a file");
        }
    }),
    breakage("a mount without its data", |it| {
        fs::remove_file(it.join(FILE)).expect("the file is there");
        symlink(format!("..data/{FILE}"), it.join(FILE)).expect("the name is free");
    }),
];

const fn breakage(what: &'static str, does: fn(&Path)) -> Breakage {
    Breakage { what, does }
}

fn read(folder: &Path) -> String {
    fs::read_to_string(folder.join(FILE)).expect("the file is good before it breaks")
}

fn write(folder: &Path, text: &[u8]) {
    fs::write(folder.join(FILE), text).expect("the folder is there");
}

fn edit(folder: &Path, from: &str, to: &str) {
    let text = read(folder);
    assert!(text.contains(from), "{from:?} is in the file");
    write(folder, text.replacen(from, to, 1).as_bytes());
}
