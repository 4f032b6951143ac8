//! Access to a cluster's API server: tokens, and the kubeconfigs that hold them.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

/// Somebody with a token.
#[derive(Clone, Debug)]
pub(super) struct User {
    /// Of the kubeconfig and in the token: no secret, in a lab.
    pub(super) file: String,
    name: String,
    group: &'static str,
}

/// Everybody who talks to the API server from outside of pods.
pub(super) fn users(nodes: &[String]) -> Vec<User> {
    let user = |file: &str, name: &str, group| User { file: file.to_owned(), name: name.to_owned(), group };
    let mut users = vec![
        user("admin", "admin", "system:masters"),
        user("controller-manager", "system:kube-controller-manager", ""),
        user("scheduler", "system:kube-scheduler", ""),
        user("proxy", "system:kube-proxy", ""),
    ];
    users.extend(nodes.iter().map(|node| user(node, &format!("system:node:{node}"), "system:nodes")));
    users
}

fn token(cluster: &str, user: &User) -> String {
    format!("{cluster}-{}", user.file)
}

/// Where a user's kubeconfig lies.
pub(super) fn kubeconfig(folder: &Path, user: &str) -> PathBuf {
    folder.join(format!("{user}.kubeconfig"))
}

/// Writes the table of tokens and everybody's kubeconfig, for use within the cluster's network.
pub(super) fn write(folder: &Path, cluster: &str, server: SocketAddr, users: &[User]) -> Result<()> {
    let row = |user: &User| format!("{},{},{},{}\n", token(cluster, user), user.name, user.file, user.group);
    let table = folder.join("tokens.csv");
    fs::write(&table, users.iter().map(row).collect::<String>()).context("writing the table of tokens")?;
    for user in users {
        let config = render(&[Door { cluster, server, token: token(cluster, user), folder }]);
        let path = kubeconfig(folder, &user.file);
        fs::write(&path, config).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// One context of a kubeconfig, called as its cluster.
struct Door<'a> {
    cluster: &'a str,
    server: SocketAddr,
    token: String,
    folder: &'a Path,
}

/// Writes the kubeconfig of the host: an admin's context per cluster, each through the cluster's gate.
pub(super) fn write_host(path: &Path, clusters: &[(String, SocketAddr, PathBuf)]) -> Result<()> {
    let contexts = clusters.iter().map(|(cluster, server, folder)| Door {
        cluster,
        server: *server,
        token: format!("{cluster}-admin"),
        folder,
    });
    let text = render(&contexts.collect::<Vec<_>>());
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

fn render(contexts: &[Door<'_>]) -> String {
    let cluster = |context: &Door<'_>| {
        let authority = context.folder.join("ca.crt");
        let server = format!("https://{}", context.server);
        json!({"name": context.cluster, "cluster": {"server": server, "certificate-authority": authority}})
    };
    let user = |context: &Door<'_>| json!({"name": context.cluster, "user": {"token": context.token}});
    let entry = |context: &Door<'_>| json!({"name": context.cluster, "context": {"cluster": context.cluster, "user": context.cluster}});
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": contexts.iter().map(cluster).collect::<Vec<_>>(),
        "users": contexts.iter().map(user).collect::<Vec<_>>(),
        "contexts": contexts.iter().map(entry).collect::<Vec<_>>(),
        "current-context": contexts.first().map(|context| context.cluster),
    });
    format!("{config:#}\n")
}
