//! Images without a container engine: one layer with a program and the libraries that it needs, in an OCI archive that
//! containerd imports.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::archive::Archive;
use super::assets::Assets;
use crate::lab::process::program;

/// The sandbox of every pod.
pub(crate) const PAUSE: &str = "lab.local/pause:dev";
/// Servers and clients of stories and tests; see `lab --help`.
pub const LAB: &str = "lab.local/lab:dev";
pub(crate) const COREDNS: &str = "lab.local/coredns:dev";
/// The cluster's etcd for the mesh.
pub(crate) const ETCD: &str = "lab.local/etcd:dev";
pub(crate) const KUBECTL: &str = "lab.local/kubectl:dev";
/// The chart's images, with `images.registry: lab.local` and `images.tag: dev`.
pub(crate) const AGENT: &str = "lab.local/clustermesh/node-agent:dev";
pub(crate) const APISERVER: &str = "lab.local/clustermesh/clustermesh-apiserver:dev";

/// The same of the version before, with `images.tag: before`.
pub(super) const AGENT_BEFORE: &str = "lab.local/clustermesh/node-agent:before";
pub(super) const APISERVER_BEFORE: &str = "lab.local/clustermesh/clustermesh-apiserver:before";

/// A program as an image.
#[derive(Clone, Debug)]
pub(super) struct Image {
    name: &'static str,
    /// The program first, then what else lies beside it.
    programs: Vec<PathBuf>,
    /// The program's arguments.
    args: &'static [&'static str],
}

/// Writes the archives of everything that the lab's nodes import.
pub(super) fn write_all(folder: &Path, assets: &Assets) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let image = |name, programs, args| Image { name, programs, args };
    let images = [
        image(PAUSE, vec![program("lab")?], &["pause"]),
        image(LAB, vec![program("lab")?], &[]),
        image(AGENT, vec![program("node-agent")?, program("clustermesh")?], &[]),
        // With etcdctl, for tests: etcd admits nobody but this pod.
        image(
            APISERVER,
            vec![program("clustermesh-apiserver")?, program("clustermesh")?, assets.etcd.join("etcdctl")],
            &[],
        ),
        image(KUBECTL, vec![installed("kubectl")?], &[]),
        image(COREDNS, vec![assets.coredns.join("coredns")], &[]),
        image(ETCD, vec![assets.etcd.join("etcd"), assets.etcd.join("etcdctl")], &[]),
    ];
    for image in images {
        image.write_to(folder)?;
    }
    Ok(())
}

/// A program on the PATH that a lab's processes have.
fn installed(name: &str) -> Result<PathBuf> {
    let folders = ["/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let found = folders.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.is_file());
    found.with_context(|| format!("no {name} in any of {}", folders.join(", ")))
}

impl Image {
    pub(super) fn of(name: &'static str, programs: Vec<PathBuf>) -> Self {
        Self { name, programs, args: &[] }
    }

    /// Writes the archive; says where.
    pub(super) fn write_to(&self, folder: &Path) -> Result<PathBuf> {
        let path = folder.join(self.name.replace(['/', ':'], "_") + ".tar");
        fs::write(&path, self.archive()?).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    fn archive(&self) -> Result<Vec<u8>> {
        let layer = self.layer()?;
        let entry = file_name(self.programs.first().context("an image without a program")?)?;
        let entrypoint: Vec<_> =
            [format!("/{entry}")].into_iter().chain(self.args.iter().map(ToString::to_string)).collect();
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {"Entrypoint": entrypoint, "Env": ["PATH=/"], "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
        })
        .to_string()
        .into_bytes();
        let kind = |name: &str| format!("application/vnd.oci.image.{name}");
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": kind("manifest.v1+json"),
            "config": descriptor(&kind("config.v1+json"), &config),
            "layers": [descriptor(&kind("layer.v1.tar"), &layer)],
        })
        .to_string()
        .into_bytes();
        let mut listed = descriptor(&kind("manifest.v1+json"), &manifest);
        listed["annotations"] = json!({"io.containerd.image.name": self.name});
        let index = json!({"schemaVersion": 2, "manifests": [listed]}).to_string();
        let mut archive = Archive::default();
        archive.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
        for blob in [&layer, &config, &manifest] {
            let name = digest(blob).replace(':', "/");
            archive.file(&format!("blobs/{name}"), 0o644, blob);
        }
        archive.file("index.json", 0o644, index.as_bytes());
        Ok(archive.finish())
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut layer = Archive::default();
        for (name, mode) in [("dev", 0o755), ("etc", 0o755), ("proc", 0o755), ("sys", 0o755), ("tmp", 0o1777)]
        {
            layer.folder(name, mode);
        }
        let users = b"root:x:0:0:root:/:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n";
        layer.file("etc/passwd", 0o644, users);
        layer.file("etc/group", 0o644, b"root:x:0:\nnobody:x:65534:\n");
        let mut libraries = BTreeSet::new();
        for program in &self.programs {
            libraries.extend(libraries_of(program)?);
            layer.file(file_name(program)?, 0o755, &stripped(program)?);
        }
        for library in libraries {
            let content = fs::read(&library).with_context(|| format!("reading {}", library.display()))?;
            layer.file(library.to_string_lossy().trim_start_matches('/'), 0o755, &content);
        }
        Ok(layer.finish())
    }
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    }
}

fn file_name(path: &Path) -> Result<&str> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.with_context(|| format!("{} is no file's path", path.display()))
}

fn digest(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn descriptor(kind: &str, blob: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": digest(blob), "size": blob.len()})
}

/// The program without its debug information: a quarter of its size.
fn stripped(program: &Path) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir().context("making a folder")?;
    let copy = folder.path().join("program");
    let strip = Command::new("strip").arg("-o").arg(&copy).arg(program).output().context("starting strip")?;
    let complaint = String::from_utf8_lossy(&strip.stderr);
    ensure!(strip.status.success(), "strip {}: {}", program.display(), complaint.trim());
    fs::read(&copy).with_context(|| format!("reading {}", copy.display()))
}

/// The libraries that the dynamic loader would take, and the loader; none for a static program.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("starting ldd")?;
    // It fails for static programs, and says so.
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(library).collect())
}

/// The path in a line like "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)".
fn library(line: &str) -> Option<PathBuf> {
    line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        let line = "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)";
        assert_eq!(library(line), Some("/lib/x86_64-linux-gnu/libc.so.6".into()));
        assert_eq!(
            library("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)"),
            Some("/lib64/ld-linux-x86-64.so.2".into())
        );
        assert_eq!(library("\tlinux-vdso.so.1 (0x00007ffd)"), None);
        assert_eq!(library("\tstatically linked"), None);
    }

    #[test]
    fn digests_are_sha256() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest(b""), empty);
    }
}
