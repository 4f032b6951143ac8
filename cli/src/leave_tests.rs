use clap::Parser;

use super::*;
use crate::args::{Cli, Noun};
use crate::cluster::fake::{Cut, Fake, mesh};

fn left(clusters: &[Fake], more: &[&str]) -> Result<()> {
    let line = ["clustermesh", "leave", "endor", "--yes", "--timeout=1s"];
    let Noun::Leave(args) = Cli::try_parse_from(line.iter().chain(more)).unwrap().noun else {
        unreachable!()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(leave(clusters, &args, Output::Table))
}

fn knows(clusters: &[Fake]) -> Vec<Vec<String>> {
    clusters.iter().map(Fake::knows).collect()
}

#[test]
fn who_leaves_is_forgotten_and_forgets() {
    let (_, clusters) = mesh();
    left(&clusters, &["--dry-run"]).unwrap();
    assert_eq!(knows(&clusters), [["endor", "yavin"], ["endor", "hoth"], ["hoth", "yavin"]]);
    left(&clusters, &[]).unwrap();
    assert_eq!(knows(&clusters), [vec!["yavin"], vec!["hoth"], vec![]]);
    left(&clusters, &[]).expect("a second time there is nothing to do");
}

#[test]
fn a_farewell_that_was_interrupted_anywhere_goes_on() {
    for cut in [Cut::Before, Cut::After] {
        for at in 0.. {
            let (wires, clusters) = mesh();
            wires.cut(at, cut);
            let ended = left(&clusters, &[]);
            wires.heal();
            left(&clusters, &[]).unwrap_or_else(|error| panic!("{cut:?} {at}: {error:#}"));
            assert_eq!(knows(&clusters), [vec!["yavin"], vec!["hoth"], vec![]], "{cut:?} {at}");
            if ended.is_ok() {
                assert!(at > 8, "{cut:?}: only {at} questions were asked");
                break;
            }
        }
    }
}

#[test]
fn a_dead_cluster_is_left_behind_only_by_force_and_what_stays_is_told() {
    let (_, clusters) = mesh();
    clusters[2].is_dead.set(true);
    let error = left(&clusters, &[]).unwrap_err();
    assert!(format!("{error:#}").contains("--force"), "{error:#}");
    left(&clusters, &["--force"]).unwrap();
    assert_eq!(
        knows(&clusters),
        [vec!["yavin".to_owned()], vec!["hoth".into()], vec!["hoth".into(), "yavin".into()]]
    );
    // It was not even named.
    left(&clusters[..2], &[]).unwrap_err();
    left(&clusters[..2], &["--force"]).unwrap();
}

#[test]
fn a_peer_that_was_not_named_is_not_forgotten_silently() {
    let (_, mut clusters) = mesh();
    clusters.remove(0);
    let error = left(&clusters, &[]).unwrap_err().to_string();
    assert!(error.contains("also has the peers hoth"), "{error}");
    left(&clusters, &["--force"]).unwrap();
    assert_eq!(knows(&clusters), [vec!["hoth"], vec![]]);
}
