//! `clustermesh join --invite`: the own cluster takes the invite of another one, whose operator need not be here.

use std::path::Path;

use anyhow::{Context, Result};
use mesh_admin::cluster::{Cluster as Described, TakeInvite, TakenInvite};
use mesh_membership::invite::Token;
use serde::Serialize;

use super::{Known, Progress, Wanted, wait};
use crate::args::{JoinArgs, Output};
use crate::cluster::{Cluster, Request, call};
use crate::confirm::confirm;
use crate::render;

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
    progress.say(&format!("{} invites; its authority: {}", token.cluster, token.fingerprint));
    let own: Described = call(cluster, &Request::get("/v1/cluster")).await?;
    let fingerprint = own.fingerprint.clone().with_context(|| {
        format!("{} has no certificate authority (yet): see the log of its clustermesh-apiserver", own.name)
    })?;
    progress.say(&format!(
        "{} joins; its authority: {fingerprint} (what `clustermesh invite list -o wide` shows there afterwards)",
        own.name
    ));
    if args.dry_run {
        return Ok(());
    }
    confirm(args.yes, &format!("Take the invite for {}?", own.name))?;
    let take = TakeInvite { token: token.encode() };
    let taken: TakenInvite = call(cluster, &Request::post("/v1/invites/take", &take))
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
fn token(text: &str) -> Result<Token> {
    let path = Path::new(text);
    let text = match path.is_file() {
        true => std::fs::read_to_string(path).with_context(|| format!("reading the invite {text}"))?,
        false => text.to_owned(),
    };
    // A file may hold all that `clustermesh invite` printed, which has the token first and a blank line behind it.
    let paragraph = text.trim().split("\n\n").next().unwrap_or_default();
    paragraph.parse().context("this is neither the token of an invite nor a file that can be read")
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
    use mesh_membership::invite::{Digest, InviteId, Secret};
    use mesh_model::name::ClusterName;

    use super::*;

    #[test]
    fn a_token_stands_on_the_line_or_in_a_file() {
        let made = Token {
            endpoints: vec!["https://mesh.yavin.example:2380".into()],
            cluster: ClusterName::new("yavin").unwrap(),
            fingerprint: Digest::new([7; 32]),
            invite: InviteId::new([1; 8]),
            secret: Secret::new([2; 32]),
        };
        let line = made.encode();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("invite");
        std::fs::write(&path, format!("\n{line}\n\nThe line above is a secret.\n")).unwrap();
        assert_eq!(token(path.to_str().unwrap()).unwrap(), made);
        let (start, end) = line.split_at(40);
        assert_eq!(token(&format!(" {start}\n  {end}\n")).unwrap(), made, "as a chat breaks it");
        for bad in ["", " \n", "/nowhere/invite", start] {
            let error = format!("{:#}", token(bad).unwrap_err());
            assert!(error.contains("neither the token of an invite nor a file"), "{error}");
        }
    }
}
