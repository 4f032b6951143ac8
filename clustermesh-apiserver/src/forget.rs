//! The command that removes what a cluster left in an etcd under a former name or id.

use std::fmt::Write as _;

use mesh_kv::forget::Remains;
use mesh_kv::{CallError, DialError, Session, forget};
use mesh_model::name::ClusterName;

use crate::config::{ConfigError, ForgetArgs};

/// Why it was not removed.
#[derive(Debug, thiserror::Error)]
pub enum ForgetError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("stop every clustermesh-apiserver of that name, then run this again")]
    Interrupted(#[from] forget::ForgetError),
    #[error(
        "an exporter leads as {cluster} ({leader}), and nothing was deleted: stop it or give it its new name, then run \
         this again"
    )]
    Led { cluster: ClusterName, leader: String },
}

/// Lists what a cluster has left, or deletes it. Returns what to print.
pub async fn forget(args: &ForgetArgs) -> Result<String, ForgetError> {
    let session = Session::open(&args.server.dialer()?).await?;
    let remains = Remains::read(&session, &args.cluster_name).await?;
    let place = format!("in the etcd at {}", session.endpoint());
    if !args.yes {
        return Ok(listed(&args.cluster_name, &remains, &place));
    }
    if let Some(leader) = remains.leader {
        return Err(ForgetError::Led { cluster: args.cluster_name.clone(), leader });
    }
    let deleted = remains.delete(&session).await?;
    Ok(match deleted {
        0 => none(&args.cluster_name, &remains, &place),
        _ => format!(
            "deleted {deleted} records of {name} {place}; peers drain what they know of it once they have no peer file \
             {name}.yaml any more\n",
            name = args.cluster_name
        ),
    })
}

fn listed(name: &ClusterName, remains: &Remains, place: &str) -> String {
    let (mut text, mut count) = (String::new(), 0_usize);
    for key in remains.keys() {
        text.push_str(key);
        text.push('\n');
        count += 1;
    }
    if count == 0 {
        return none(name, remains, place);
    }
    let next = match &remains.leader {
        Some(leader) => format!("an exporter leads under that name ({leader}): stop it first"),
        None => "--yes deletes them".into(),
    };
    writeln!(text, "{count} records of {name} stand {place}; nothing was deleted; {next}")
        .expect("a String takes all");
    text
}

fn none(name: &ClusterName, remains: &Remains, place: &str) -> String {
    match remains.others.as_slice() {
        [] => format!("no record of {name} stands {place}\n"),
        others => format!("no record of {name} stands {place}, only of {}\n", others.join(", ")),
    }
}
