//! `clustermesh peer export`, `import` and `remove`: peer files, to and from a cluster.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use mesh_admin::cluster::{Changed, PeerDocument, PeerEntry};
use mesh_membership::plan::{Level, Plan};
use mesh_model::name::ClusterName;

use crate::args::{AgentArgs, ClusterArgs, Endpoint, Output, PeerTarget};
use crate::cluster::{self, CallError, Cluster, Reach, Request, call, list};
use crate::join::{findings, member};
use crate::render;

/// Kubernetes allows no bigger Secret.
const MAX_BYTES: u64 = 1 << 20;

async fn one(of: &ClusterArgs, agent: &AgentArgs) -> Result<Reach> {
    cluster::only(cluster::reached(of, agent).await?)
}

/// A peer file that shall be written.
pub(crate) struct Import<'a> {
    pub file: &'a Path,
    pub name: Option<&'a ClusterName>,
    pub dry_run: bool,
    pub to: &'a ClusterArgs,
}

pub(crate) fn export(agent: &AgentArgs, of: &ClusterArgs, urls: &[String], output: Output) -> Result<()> {
    mesh_runtime::process::block_on(async {
        let (name, file) = exported(&one(of, agent).await?, urls).await?;
        render::print(&match output {
            Output::Json => serde_json::to_string_pretty(&file)? + "\n",
            _ => format!("# {name}.yaml: the peer file of {name}\n{}", serde_saphyr::to_string(&file)?),
        })
    })?
}

async fn exported(cluster: &impl Cluster, urls: &[String]) -> Result<(ClusterName, PeerDocument)> {
    let mut asked = member(cluster, &[]).await;
    // Who says where a cluster is need not hear that this can't be found out.
    if !urls.is_empty() {
        let described: mesh_admin::cluster::Cluster = call(cluster, &Request::get("/v1/cluster")).await?;
        let named = urls.iter().map(|url| Endpoint { cluster: described.name.clone(), url: url.clone() });
        asked = member(cluster, &named.collect::<Vec<_>>()).await;
    }
    let member = asked?;
    let file = member.document().with_context(|| {
        let wrong = Plan::of(std::slice::from_ref(&member)).findings;
        let wrong: Vec<_> = wrong.into_iter().filter(|finding| finding.level == Level::Error).collect();
        format!("{} can't be described to peers\n{}", member.name(), findings(&wrong))
    })?;
    Ok((member.cluster.name, file))
}

pub(crate) fn import(agent: &AgentArgs, import: &Import<'_>) -> Result<()> {
    let (name, file) = read(import.file, import.name)?;
    mesh_runtime::process::block_on(async {
        let cluster = one(import.to, agent).await?;
        render::print(&imported(&cluster, &name, &file, import.dry_run).await?)
    })?
}

/// Writes it; returns what became of it.
async fn imported(
    cluster: &impl Cluster,
    name: &ClusterName,
    file: &PeerDocument,
    dry_run: bool,
) -> Result<String> {
    if dry_run {
        let entries: Vec<PeerEntry> = list(cluster, &Request::get("/v1/peers")).await?;
        let before = entries.iter().find(|entry| entry.name == name.as_str());
        return Ok(match before {
            None => format!("{name} would be added\n"),
            Some(entry) if entry.file.as_ref() == Some(file) => {
                format!("{name} is known like this already\n")
            }
            Some(_) => format!("{name} would be changed\n"),
        });
    }
    let written: Changed = call(cluster, &Request::put(format!("/v1/peers/{name}"), file)).await?;
    Ok(match written.changed {
        true => format!("{name} is a peer now; its side has to do the same (clustermesh peer export)\n"),
        false => format!("{name} was known like this already\n"),
    })
}

fn read(path: &Path, name: Option<&ClusterName>) -> Result<(ClusterName, PeerDocument)> {
    let is_stdin = path == Path::new("-");
    let name = match (name, path.file_stem().and_then(|stem| stem.to_str())) {
        (Some(name), _) => name.clone(),
        (None, _) if is_stdin => bail!("standard input has no name; add --name, the peer's cluster name"),
        (None, stem) => ClusterName::new(stem.unwrap_or_default()).with_context(|| {
            format!("the stem of {} is no cluster name; rename it, or add --name", path.display())
        })?,
    };
    let text = text(path, is_stdin).with_context(|| format!("reading the peer file {}", path.display()))?;
    ensure!(
        !text.trim().is_empty(),
        "the peer file of {name} is empty; `clustermesh peer export` at {name} makes one"
    );
    let file = serde_saphyr::from_str(&text)
        .map_err(|error| anyhow::anyhow!("{}", error.to_string().lines().next().unwrap_or_default()))
        .with_context(|| {
            format!("the peer file of {name} is none (docs/peer-files.md); `clustermesh peer export` at {name} makes one")
        })?;
    Ok((name, file))
}

fn text(path: &Path, is_stdin: bool) -> Result<String> {
    let mut bytes = Vec::new();
    match is_stdin {
        true => std::io::stdin().lock().take(MAX_BYTES + 1).read_to_end(&mut bytes)?,
        false => std::fs::File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?,
    };
    ensure!(
        bytes.len() as u64 <= MAX_BYTES,
        "it is bigger than 1 MiB; only id, endpoints, ranges and trust belong into it"
    );
    Ok(String::from_utf8(bytes)?)
}

pub(crate) fn remove(agent: &AgentArgs, target: &PeerTarget) -> Result<()> {
    mesh_runtime::process::block_on(async {
        let cluster = one(&target.of, agent).await?;
        render::print(&removed(&cluster, &target.peer).await?)
    })?
}

async fn removed(cluster: &impl Cluster, peer: &ClusterName) -> Result<String> {
    let answer: Result<Changed, CallError> =
        call(cluster, &Request::delete(format!("/v1/peers/{peer}"))).await;
    match answer {
        Ok(Changed { changed: true }) => Ok(format!(
            "{peer} is no peer any more; it goes on sending connections here until it removes this cluster, too\n"
        )),
        Ok(Changed { changed: false }) => Ok(format!("{peer} was no peer\n")),
        Err(error) if error.is_unknown() => Ok(format!("{peer} was no peer\n")),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::cluster::fake::{Fake, Wires};

    fn wait<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn what_one_cluster_exports_the_other_imports() {
        let wires = Rc::new(Wires::default());
        let (hoth, yavin) = (Fake::new(&wires, "hoth", 1), Fake::new(&wires, "yavin", 2));
        let (name, file) = wait(exported(&hoth, &["https://mesh.hoth.example:1".into()])).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hoth.yaml");
        std::fs::write(&path, format!("# a word\n{}", serde_saphyr::to_string(&file).unwrap())).unwrap();
        let (read_name, read_file) = read(&path, None).unwrap();
        assert_eq!((&read_name, &read_file), (&name, &file));
        assert_eq!(wait(imported(&yavin, &name, &file, true)).unwrap(), "hoth would be added\n");
        assert!(yavin.knows().is_empty());
        assert!(wait(imported(&yavin, &name, &file, false)).unwrap().contains("is a peer now"));
        assert!(wait(imported(&yavin, &name, &file, false)).unwrap().contains("already"));
        assert_eq!(yavin.peers.borrow()["hoth"].endpoints, ["https://mesh.hoth.example:1"]);
        assert!(wait(removed(&yavin, &name)).unwrap().contains("no peer any more"));
        assert_eq!(wait(removed(&yavin, &name)).unwrap(), "hoth was no peer\n");
    }

    #[test]
    fn a_cluster_without_certificates_can_not_be_described() {
        let mut hoth = Fake::new(&Rc::new(Wires::default()), "hoth", 1);
        hoth.described.trust = None;
        let error = wait(exported(&hoth, &[])).unwrap_err().to_string();
        assert!(error.contains("hoth can't be described") && error.contains("--certificates-dir"), "{error}");
    }

    #[test]
    fn what_is_no_peer_file_is_refused_with_a_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let said = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            format!("{:#}", read(&path, None).unwrap_err())
        };
        assert!(said("Hoth.yaml", "id: 1").contains("no cluster name"));
        assert!(said("hoth.yaml", "\n").contains("peer export"));
        assert!(said("hoth.yaml", "id: 0").contains("the peer file of hoth is none"));
        assert!(format!("{:#}", read(Path::new("-"), None).unwrap_err()).contains("--name"));
        assert!(
            format!("{:#}", read(&folder.path().join("endor.yaml"), None).unwrap_err()).contains("reading")
        );
    }
}
