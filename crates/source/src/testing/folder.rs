//! A folder of manifests, a file for each Service, that are changed, broken, removed and corrected.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test ends there")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::{FILE, OF_A_FILE, OF_THE_FOLDER};

/// A Service of this ClusterIP and its slice, of one endpoint.
pub fn app(name: &str, cluster_ip: &str, endpoint: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: ns, annotations: {{clustermesh.io/global: \"true\"}}}}
spec: {{clusterIPs: [{cluster_ip}], ports: [{{name: http, port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: ns, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: http, port: 8080}}]
endpoints: [{{addresses: [{endpoint}]}}]
"
    )
}

/// Renames a file into place.
pub fn put(folder: &Path, file: &str, text: &str) {
    let beside = folder.join(format!("{file}.tmp"));
    fs::write(&beside, text).unwrap();
    fs::rename(beside, folder.join(file)).unwrap();
}

/// The folder, and what its files said when they were last readable.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// The text of a Service's file, of which the number is new with every change.
    text: fn(&str, u8) -> String,
    listed: BTreeMap<&'static str, u8>,
    broken: BTreeSet<&'static str>,
    is_broken: bool,
    numbers: u8,
}

impl Folder {
    /// Makes an empty one; its neighbour `next` is used for corrections.
    pub fn new(path: PathBuf, text: fn(&str, u8) -> String) -> Self {
        fs::create_dir(&path).unwrap();
        let (listed, broken) = (BTreeMap::new(), BTreeSet::new());
        Self { path, text, listed, broken, is_broken: false, numbers: 0 }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number that each file had when it was last readable, by the Service's name.
    pub fn listed(&self) -> &BTreeMap<&'static str, u8> {
        &self.listed
    }

    /// Whether the folder itself is broken.
    pub fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Whether everything can be read.
    pub fn is_readable(&self) -> bool {
        !self.is_broken && self.broken.is_empty()
    }

    /// A Service's file, which may be new, broken or removed, says something else.
    pub fn change(&mut self, name: &'static str) {
        let _it_may_be_a_link = self.broken.remove(name).then(|| fs::remove_file(self.file(name)));
        self.numbers += 1;
        self.listed.insert(name, self.numbers);
        put(&self.path, &format!("{name}.yaml"), &(self.text)(name, self.numbers));
    }

    /// Breaks a file that can be read, in one of the ways of [`OF_A_FILE`]. Returns whether there was one.
    pub fn break_file(&mut self, name: &'static str, how: usize) -> bool {
        if self.is_broken || !self.listed.contains_key(name) || !self.broken.insert(name) {
            return false;
        }
        // The breakages know one file's name only.
        let aside = tempfile::tempdir().unwrap();
        let (path, copy) = (self.file(name), aside.path().join(FILE));
        fs::copy(&path, &copy).unwrap();
        (OF_A_FILE[how].does)(aside.path());
        if copy.is_symlink() {
            fs::remove_file(&path).unwrap();
            symlink(&path, &path).unwrap();
        } else {
            fs::copy(&copy, &path).unwrap();
        }
        true
    }

    /// Breaks the folder in one of the ways of [`OF_THE_FOLDER`]. Returns whether it was whole.
    pub fn break_folder(&mut self, how: usize) -> bool {
        // The last of these breakages is of the file a.
        if self.is_broken || !self.listed.contains_key("a") {
            return false;
        }
        (OF_THE_FOLDER[how].does)(&self.path);
        self.is_broken = true;
        true
    }

    /// Removes a file, unless it is the last: an empty folder is none. Returns whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        if self.is_broken || self.listed.len() < 2 || self.listed.remove(name).is_none() {
            return false;
        }
        self.broken.remove(name);
        fs::remove_file(self.file(name)).unwrap();
        true
    }

    /// All files are as they should be, at once: who has just begun can't know that a folder is still being filled.
    pub fn repair(&mut self) {
        let next = self.path.with_file_name("next");
        fs::create_dir(&next).unwrap();
        for (name, number) in &self.listed {
            put(&next, &format!("{name}.yaml"), &(self.text)(name, *number));
        }
        let _it_may_be_gone = fs::remove_dir_all(&self.path);
        fs::rename(next, &self.path).unwrap();
        self.broken.clear();
        self.is_broken = false;
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.yaml"))
    }
}
