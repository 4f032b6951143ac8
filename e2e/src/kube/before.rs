//! The version from which an upgrade comes: the last one whose peers read etcd directly, installed as its own docs/install.md
//! told, with its own programs, chart and certificates.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::chart::{Chart, NAMESPACE, ROOT, Site, output};
use super::image::{self, Image};
use super::{KubeCluster, KubeLab};

/// Of its images.
const TAG: &str = "before";
const MADE_BY: &str = "clustermesh.io/made-by=clustermesh-apiserver";
/// The certificates of its script, which the new version takes over.
const CERTIFICATES: [&str; 3] =
    ["clustermesh-etcd-tls", "clustermesh-apiserver-tls", "clustermesh-agent-tls"];

/// What e2e/kube/before.sh built.
#[derive(Debug)]
pub struct Before {
    folder: PathBuf,
}

impl Before {
    /// Builds it where it is missing, which takes some minutes, and puts its images on all nodes.
    pub fn on(lab: &KubeLab) -> Result<Self> {
        let said = output(&mut Command::new(format!("{ROOT}/e2e/kube/before.sh")))?;
        let before = Self { folder: said.trim().into() };
        let archives = lab.lab_dir().path().join("images-before");
        fs::create_dir_all(&archives).with_context(|| format!("creating {}", archives.display()))?;
        let program = |name: &str| before.folder.join("bin").join(name);
        let images = [
            Image::of(image::AGENT_BEFORE, vec![program("node-agent"), program("clustermesh")]),
            Image::of(image::APISERVER_BEFORE, vec![program("clustermesh-apiserver")]),
        ];
        for image in images {
            let archive = image.write_to(&archives)?;
            lab.clusters().iter().try_for_each(|cluster| import(cluster, &archive))?;
        }
        Ok(before)
    }

    /// Installs it in every cluster, with its certificates, and waits until everything is ready.
    pub fn install(&self, chart: &Chart) -> Result<()> {
        chart.everywhere(|site| {
            let mut command = Command::new(self.folder.join("certificates.sh"));
            command.env("NAMESPACE", NAMESPACE).arg(site.name()).arg(self.certificates(chart, site));
            output(command.args(site.addresses.iter().map(ToString::to_string))).map(drop)
        })?;
        chart.everywhere(|site| {
            chart.make_namespace(site)?;
            let path = self.certificates(chart, site).join("secrets.yaml");
            let secrets = fs::read_to_string(&path);
            site.context.apply(&secrets.with_context(|| format!("reading {}", path.display()))?)?;
            chart.release_of(&self.folder.join("chart"), site, &self.values(chart, site)?, &[])
        })
    }

    /// Upgrades a cluster to this version by the steps of docs/install.md, and waits until everything is ready.
    pub fn upgrade(&self, chart: &Chart, cluster: &str) -> Result<()> {
        let site = chart.site(cluster)?;
        let folder = self.certificates(chart, site);
        let [certificate, key] =
            ["crt", "key"].map(|end| folder.join(format!("ca.{end}")).display().to_string());
        let create = ["-n", NAMESPACE, "create", "secret", "tls", "clustermesh-ca"];
        let [certificate, key] = [format!("--cert={certificate}"), format!("--key={key}")];
        site.context.kubectl(&[&create[..], &[&certificate, &key]].concat())?;
        let annotate = ["-n", NAMESPACE, "annotate", "secret"];
        site.context.kubectl(&[&annotate[..], &CERTIFICATES, &[MADE_BY]].concat())?;
        let mut values = chart.values_alone(site)?;
        values["peers"] = self.peers(chart, site)?;
        values["tls"] = json!({"names": site.addresses});
        chart.release(site, &values, &[])
    }

    /// Where its script keeps those of a cluster.
    fn certificates(&self, chart: &Chart, site: &Site) -> PathBuf {
        chart.folder_of(site).join("certificates-before")
    }

    fn authority(&self, chart: &Chart, site: &Site) -> Result<String> {
        let path = self.certificates(chart, site).join("ca.crt");
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    }

    fn peers(&self, chart: &Chart, site: &Site) -> Result<Value> {
        let others = chart.sites.iter().filter(|peer| peer.name() != site.name());
        let peer = |peer: &Site| Ok((peer.name().to_owned(), peer.as_peer(self.authority(chart, peer)?)));
        Ok(Value::Object(others.map(peer).collect::<Result<_>>()?))
    }

    fn values(&self, chart: &Chart, site: &Site) -> Result<Value> {
        let trusted: Result<Vec<_>> = chart.sites.iter().map(|site| self.authority(chart, site)).collect();
        let mut values = chart.values_alone(site)?;
        values["images"]["tag"] = TAG.into();
        values["tls"] = json!({"clientTrust": trusted?.concat()});
        values["peers"] = self.peers(chart, site)?;
        Ok(values)
    }
}

fn import(cluster: &KubeCluster, archive: &Path) -> Result<()> {
    let archive = archive.display().to_string();
    let ctr = ["ctr", "-a", "/run/containerd/containerd.sock", "-n", "k8s.io", "images", "import", &archive];
    cluster.nodes().iter().try_for_each(|node| cluster.run_on_node(node, &ctr).map(drop))
}
