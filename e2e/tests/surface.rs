//! How much of a crate is public: what no other crate uses is `pub(crate)` or private.
//!
//! Counts public items (functions, types, constants, modules, re-exports) per 1,000 lines of the product's code. Tests and the
//! fixtures of `testing` count neither way.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// A crate's folder, and how many public items it may have per 1,000 lines. 28 is the goal. A limit above it is what the
/// crate has while other crates use its items: processes are put together from `runtime`, `kv`, `peers` and `trust`, `admin`
/// and `abi` are formats, and `model` has the terms of all of them.
const LIMITS: &[(&str, usize)] = &[
    ("clustermesh-apiserver", 16),
    ("cli", 28),
    ("crates/admin", 78),
    ("crates/failure", 100),
    ("crates/files", 54),
    ("crates/kube", 56),
    ("crates/kv", 37),
    ("crates/membership", 48),
    ("crates/model", 45),
    ("crates/peers", 48),
    ("crates/runtime", 61),
    ("crates/secrets", 52),
    ("crates/source", 22),
    ("crates/trust", 56),
    ("crates/verdict", 28),
    ("ebpf/abi", 58),
    ("node-agent", 24),
];
/// Of all crates together: the goal.
const ALL: usize = 28;

const ITEMS: [&str; 10] =
    ["fn ", "async fn ", "const ", "unsafe fn ", "struct ", "enum ", "trait ", "type ", "mod ", "use "];

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let is_test = name == "testing" || name == "tests" || name.ends_with("_tests");
        match path.extension() {
            _ if is_test => {}
            None if path.is_dir() => rust_files(&path, found),
            Some(extension) if extension == "rs" => found.push(path),
            _ => {}
        }
    }
}

/// Public items and lines, without the tests at the file's end.
fn count(file: &Path) -> (usize, usize) {
    let text = fs::read_to_string(file).unwrap();
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let product: Vec<&str> = text[..end].lines().collect();
    let is_public = |line: &&&str| {
        let item = line.trim_start().strip_prefix("pub ");
        item.is_some_and(|item| ITEMS.iter().any(|kind| item.starts_with(kind)))
    };
    (product.iter().filter(is_public).count(), product.len())
}

#[test]
fn little_of_each_crate_is_public() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let (mut all, mut wrong) = ((0, 0), Vec::new());
    for (krate, limit) in LIMITS {
        let mut files = Vec::new();
        rust_files(&root.join(krate).join("src"), &mut files);
        let counts = files.iter().map(|file| count(file));
        let (public, lines) = counts.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        all = (all.0 + public, all.1 + lines);
        println!("{krate}: {public} public items in {lines} lines: {} per 1,000", 1000 * public / lines);
        if 1000 * public > limit * lines {
            wrong.push(format!("{krate}: {public} in {lines} lines, more than {limit} per 1,000"));
        }
    }
    println!("all: {} per 1,000", 1000 * all.0 / all.1);
    assert!(wrong.is_empty(), "make private what no other crate uses: {wrong:#?}");
    assert!(1000 * all.0 <= ALL * all.1, "{} public items in {} lines", all.0, all.1);
}
