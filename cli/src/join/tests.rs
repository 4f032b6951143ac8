use std::rc::Rc;

use clap::Parser;

use super::*;
use crate::args::{Cli, Noun};
use crate::cluster::fake::{Cut, Fake, Wires};

fn mesh(count: u8) -> (Rc<Wires>, Vec<Fake>) {
    let wires = Rc::new(Wires::default());
    let names = ["hoth", "yavin", "endor"];
    let fakes = (1..=count).map(|id| Fake::new(&wires, names[usize::from(id) - 1], id)).collect();
    (wires, fakes)
}

fn joined(clusters: &[Fake], more: &[&str]) -> Result<()> {
    let line = ["clustermesh", "join", "--yes", "--timeout=1s"];
    let Noun::Join(args) = Cli::try_parse_from(line.iter().chain(more)).unwrap().noun else { unreachable!() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(join(clusters, &args, Output::Table))
}

fn everybody_knows_everybody(clusters: &[Fake]) -> bool {
    clusters.iter().all(|cluster| cluster.knows().len() == clusters.len() - 1)
}

#[test]
fn three_clusters_become_a_full_mesh() {
    let (_, clusters) = mesh(3);
    joined(&clusters, &[]).unwrap();
    assert_eq!(clusters[0].knows(), ["endor", "yavin"]);
    assert!(everybody_knows_everybody(&clusters));
}

#[test]
fn a_join_that_was_interrupted_anywhere_goes_on_and_ends_the_same() {
    let (_, clusters) = mesh(3);
    joined(&clusters, &[]).unwrap();
    let wanted: Vec<_> = clusters.iter().map(|cluster| cluster.peers.borrow().clone()).collect();
    for cut in [Cut::Before, Cut::After] {
        let mut at = 0;
        loop {
            let (wires, clusters) = mesh(3);
            wires.cut(at, cut);
            let ended = joined(&clusters, &[]);
            wires.heal();
            joined(&clusters, &[]).unwrap_or_else(|error| panic!("{cut:?} {at}: {error:#}"));
            let known: Vec<_> = clusters.iter().map(|cluster| cluster.peers.borrow().clone()).collect();
            assert_eq!(known, wanted, "{cut:?} {at}");
            if ended.is_ok() {
                break;
            }
            at += 1;
        }
        // Three descriptions of two questions, twelve probes, six files, three clusters' nodes.
        assert_eq!(at, 6 + 12 + 6 + 3, "{cut:?}: each of the questions was cut off once");
    }
}

#[test]
fn nothing_is_changed_where_something_is_wrong_or_only_asked() {
    let (_, mut clusters) = mesh(2);
    joined(&clusters, &["--dry-run"]).unwrap();
    clusters[0].probe_error.replace(Some("timed out".into()));
    let error = joined(&clusters, &[]).unwrap_err().to_string();
    assert!(error.contains("nothing was changed"), "{error}");
    clusters[1].described.id = clusters[0].described.id;
    joined(&clusters, &["--no-probe"]).unwrap_err();
    assert!(clusters.iter().all(|cluster| cluster.knows().is_empty()));
}

#[test]
fn an_endpoint_of_the_user_counts_more_than_the_clusters_own() {
    let (_, clusters) = mesh(2);
    joined(&clusters, &["--endpoint", "hoth=https://mesh.hoth.example:443"]).unwrap();
    assert_eq!(clusters[1].peers.borrow()["hoth"].endpoints, ["https://mesh.hoth.example:443"]);
    assert_eq!(clusters[0].peers.borrow()["yavin"].endpoints, ["https://192.168.2.1:2379"]);
}

#[test]
fn clusters_that_do_not_reach_each_other_join_when_told_so() {
    let (_, clusters) = mesh(2);
    clusters[0].probe_error.replace(Some("timed out".into()));
    joined(&clusters, &["--no-probe"]).unwrap();
    assert!(everybody_knows_everybody(&clusters));
}

#[test]
fn one_cluster_alone_does_not_join() {
    let (_, clusters) = mesh(1);
    let error = joined(&clusters, &[]).unwrap_err().to_string();
    assert!(error.contains("two or more") && error.contains("--invite"), "{error}");
}
