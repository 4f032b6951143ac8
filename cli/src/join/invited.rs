//! `clustermesh join --invite`: the own cluster takes the invite of another one, whose operator need not be here.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use mesh_admin::cluster::{Cluster as Described, TakeInvite, TakenInvite};
use serde::Serialize;

use super::{Known, Progress, Wanted, wait};
use crate::args::{JoinArgs, Output};
use crate::cluster::{Cluster, Request, call};
use crate::confirm::confirm;
use crate::render;

/// A longer text is no token.
const MAX_TOKEN: usize = 16 << 10;

/// What came of it.
#[derive(Serialize)]
struct Joined<'a> {
    own: &'a Described,
    other: &'a TakenInvite,
}

pub(super) async fn join<C: Cluster>(
    cluster: &C,
    invite: &str,
    args: &JoinArgs,
    output: Output,
) -> Result<()> {
    let token = token(invite)?;
    let progress = Progress::new();
    let own: Described = call(cluster, &Request::get("/v1/cluster")).await?;
    let fingerprint = own.fingerprint.clone().with_context(|| {
        format!("{} has no certificate authority (yet): see the log of its clustermesh-apiserver", own.name)
    })?;
    progress.say(&format!(
        "{} has the authority {fingerprint}: the other side shows it when this has joined",
        own.name
    ));
    if args.dry_run {
        return Ok(());
    }
    confirm(args.yes, &format!("Take the invite for {}?", own.name))?;
    let taken: TakenInvite =
        call(cluster, &Request::post("/v1/invites/take", &TakeInvite { token }))
            .await
            .context("taking the invite; the same command again goes on where this was interrupted")?;
    show(&Joined { own: &own, other: &taken }, output)?;
    if args.no_wait {
        return Ok(());
    }
    let known = Known { cluster, name: own.name.clone(), peers: vec![taken.name.clone()] };
    wait::until(Wanted::Synced, &[known], args.timeout, &progress)
        .await
        .context("the clusters are each other's peers, and the nodes go on: `clustermesh status --wait` waits for them")
}

/// The token, or what the file of that name holds.
fn token(text: &str) -> Result<String> {
    let path = Path::new(text);
    let token = match path.is_file() {
        true => std::fs::read_to_string(path).with_context(|| format!("reading the invite {text}"))?,
        false => text.to_owned(),
    };
    // A file may hold all that `clustermesh invite` printed; the token is its first line.
    let token = token.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned();
    ensure!(!token.is_empty(), "the invite is empty; `clustermesh invite` at the other cluster makes one");
    if token.len() > MAX_TOKEN || token.contains('/') && !path.exists() {
        bail!(
            "the invite is neither a token nor a file that can be read; `clustermesh invite` at the other cluster makes one"
        );
    }
    Ok(token)
}

fn show(joined: &Joined<'_>, output: Output) -> Result<()> {
    let Joined { own, other } = joined;
    match output {
        Output::Json => render::print(&(serde_json::to_string_pretty(joined)? + "\n")),
        Output::Yaml => render::print(&serde_saphyr::to_string(joined)?),
        Output::Table | Output::Wide => render::table(
            &["CLUSTER", "ID", "AUTHORITY"],
            vec![
                vec![own.name.to_string(), own.id.to_string(), render::or_dash(own.fingerprint.as_ref())],
                vec![other.name.to_string(), other.file.id.to_string(), other.fingerprint.clone()],
            ],
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_stands_on_the_line_or_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("invite");
        std::fs::write(&path, "\ncm1-abc\n\nThe line above is a secret.\n").unwrap();
        assert_eq!(token(path.to_str().unwrap()).unwrap(), "cm1-abc");
        assert_eq!(token(" cm1-abc\n").unwrap(), "cm1-abc");
        for bad in ["", " \n", "/nowhere/invite"] {
            let error = token(bad).unwrap_err().to_string();
            assert!(error.contains("clustermesh invite"), "{error}");
        }
    }
}
