use anyhow::Result;
use clap::Parser;
use mesh_admin::cluster::Problem;
use mesh_model::reason::Actor;

use super::*;
use crate::args::{Cli, Noun};
use crate::cluster::fake::{Cut, Fake, mesh};

fn run(clusters: &[Fake], more: &[&str]) -> Result<()> {
    let yes: &[&str] = if more.contains(&"show") { &[] } else { &["--yes"] };
    let line = ["clustermesh", "cert"].iter().chain(more).chain(yes);
    let Noun::Cert { verb } = Cli::try_parse_from(line).unwrap().noun else { unreachable!() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match &verb {
            CertVerb::Show { .. } => show::run(clusters, Output::Table).await,
            CertVerb::Rotate(args) if args.ca => authority::rotate(clusters, args, Output::Table).await,
            CertVerb::Rotate(args) => rotate::rotate(clusters, args, Output::Table).await,
            CertVerb::Revoke(args) => match &args.peer {
                Some(peer) => revoke::peer(clusters, peer, args, Output::Table).await,
                None => revoke::certificates(clusters, args, Output::Table).await,
            },
        }
    })
}

/// What a cluster's peers trust for it.
fn trusted<'a>(clusters: &'a [Fake], name: &'a str) -> impl Iterator<Item = String> + 'a {
    let others = clusters.iter().filter(move |at| at.name().as_str() != name);
    others.map(move |at| at.peers.borrow()[name].trust.clone().unwrap())
}

fn done(fake: &Fake) -> Vec<String> {
    fake.authority.borrow().done.clone()
}

#[test]
fn the_authority_of_each_cluster_is_replaced_and_every_peer_is_told_in_between() {
    let (_, clusters) = mesh();
    run(&clusters, &["rotate", "--ca", "--dry-run"]).unwrap();
    assert!(clusters.iter().all(|at| done(at).is_empty()));
    run(&clusters, &["rotate", "--ca"]).unwrap();
    for at in &clusters {
        assert_eq!(done(at), ["announced", "switched", "settled"]);
        let trust = at.trust();
        assert!(trusted(&clusters, at.name().as_str()).all(|known| known == trust));
        assert!(trust.contains(&format!("{}1", at.name())) && trust.matches("BEGIN").count() == 1, "{trust}");
    }
}

#[test]
fn a_rotation_that_was_interrupted_anywhere_goes_on_and_ends_the_same() {
    for cut in [Cut::Before, Cut::After] {
        for at in 0.. {
            let (wires, clusters) = mesh();
            wires.cut(at, cut);
            let ended = run(&clusters, &["rotate", "--ca", "--of", "hoth", "--timeout=1s"]);
            wires.heal();
            // What had been finished, but for an answer, is another rotation.
            let is_settled = clusters[0].authority.borrow().number == 1
                && trusted(&clusters, "hoth").all(|known| known == clusters[0].trust());
            if !is_settled || ended.is_ok() {
                let goes_on =
                    if ended.is_ok() { Ok(()) } else { run(&clusters, &["rotate", "--ca", "--of", "hoth"]) };
                goes_on.unwrap_or_else(|error| panic!("{cut:?} {at}: {error:#}"));
            }
            assert_eq!(done(&clusters[0]), ["announced", "switched", "settled"], "{cut:?} {at}: once each");
            assert!(trusted(&clusters, "hoth").all(|known| known == clusters[0].trust()), "{cut:?} {at}");
            assert!(done(&clusters[1]).is_empty(), "{cut:?} {at}");
            if ended.is_ok() {
                assert!(at > 40, "{cut:?}: only {at} questions were asked");
                break;
            }
        }
    }
}

#[test]
fn what_somebody_else_has_to_do_ends_it_with_the_words_and_it_goes_on_afterwards() {
    let (_, clusters) = mesh();
    let problem =
        Problem { who: Actor::Peer, error: "endor does not trust".into(), remedy: "import there".into() };
    let obstacle = mesh_admin::cluster::Obstacle { peer: Some(clusters[2].name().clone()), problem };
    clusters[0].authority.borrow_mut().obstacles = vec![obstacle];
    // endor is somebody else's.
    let error = run(&clusters[..2], &["rotate", "--ca", "--of", "hoth"]).unwrap_err().to_string();
    assert!(error.contains("run the same command again"), "{error}");
    assert_eq!(done(&clusters[0]), ["announced"]);
    assert!(clusters[1].peers.borrow()["hoth"].trust.as_ref().unwrap().contains("hoth1"), "yavin is told");
    run(&clusters[..2], &["rotate", "--ca", "--of", "hoth", "--without", "endor"]).unwrap();
    assert_eq!(done(&clusters[0]), ["announced", "switched", "settled"]);
    let left = left_at_peers(clusters[0].name(), &named_of(&clusters[..2]), "why");
    assert!(left.len() == 1 && left[0].starts_with("at endor: import the peer file of hoth"), "{left:?}");
}

fn named_of(clusters: &[Fake]) -> Vec<Named> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { named(&sites(clusters).await.unwrap()).await.unwrap() })
}

#[test]
fn a_cluster_that_is_known_by_another_authority_is_nobodys_to_rotate() {
    let (_, clusters) = mesh();
    let other = "-----BEGIN CERTIFICATE-----\nother\n-----END CERTIFICATE-----\n";
    clusters[1].peers.borrow_mut().get_mut("hoth").unwrap().trust = Some(other.into());
    let error = run(&clusters, &["rotate", "--ca"]).unwrap_err().to_string();
    assert!(error.contains("yavin knows hoth by another authority"), "{error}");
    assert!(clusters.iter().all(|at| done(at).is_empty()));
    let error = run(&clusters, &["rotate", "--ca", "--of", "dantooine"]).unwrap_err().to_string();
    assert!(error.contains("dantooine is none of the clusters"), "{error}");
}

#[test]
fn certificates_of_named_holders_are_made_anew_or_all() {
    let (_, clusters) = mesh();
    run(&clusters[..1], &["rotate", "agent"]).unwrap();
    assert_eq!(done(&clusters[0]), ["agent"]);
    run(&clusters[..2], &["rotate"]).unwrap();
    assert_eq!((done(&clusters[0]).len(), done(&clusters[1]).len()), (3, 2));
    for (holder, part) in [("ca", "by --ca"), ("etcd", "keeps no certificate of a holder \"etcd\"")] {
        let error = run(&clusters[..1], &["rotate", holder]).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn what_is_revoked_is_told_to_every_cluster_that_was_named() {
    let (_, clusters) = mesh();
    run(&clusters, &["revoke", "--dry-run", "02:01"]).unwrap();
    assert!(clusters[0].authority.borrow().revoked.is_empty());
    // Whose it is follows from the certificate.
    run(&clusters[..2], &["revoke", "02:01"]).unwrap();
    assert_eq!(clusters[0].authority.borrow().revoked, ["02:01"]);
    assert!(clusters[1].peers.borrow()["hoth"].trust.as_ref().unwrap().contains("CRL"));
    assert!(!clusters[2].peers.borrow()["hoth"].trust.as_ref().unwrap().contains("CRL"), "it was not named");
    let error = run(&clusters, &["revoke", "0F"]).unwrap_err().to_string();
    assert!(error.contains("--of CLUSTER"), "{error}");
    run(&clusters, &["revoke", "0F", "--of", "yavin"]).unwrap();
    assert_eq!(clusters[1].authority.borrow().revoked, ["0F"]);
    run(&clusters, &["show"]).unwrap();
}

#[test]
fn a_peer_that_is_revoked_is_no_peer_any_more() {
    let (_, clusters) = mesh();
    run(&clusters[..2], &["revoke", "--peer", "endor"]).unwrap();
    assert_eq!((clusters[0].knows(), clusters[1].knows()), (vec!["yavin".to_owned()], vec!["hoth".into()]));
    assert_eq!(clusters[2].knows(), ["hoth", "yavin"]);
    run(&clusters[..2], &["revoke", "--peer", "endor"]).expect("a second time there is nothing to do");
}
