//! The peers component on a folder of real peer files and real etcds, without any eBPF.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends there")]

mod world;

use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_admin::api::{Event, PeerState};
use mesh_kv::forget::Remains;
use mesh_kv::testing::{Ca, Etcd};
use mesh_kv::{Dialer, Session};
use node_agent::merge::merger::PeerInputs;
use world::{World, agreed, bad_lines, file, fill, free_endpoint, put};

/// For every wait.
const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_peer_is_followed_as_its_file_comes_changes_and_goes() {
    let mut world = World::new();
    let (first, second) = (world.etcd("first"), world.etcd("second"));
    fill(&first, "endor", 2, &["10.2.0.1"]);
    fill(&second, "endor", 2, &["10.2.0.1", "10.2.0.2"]);
    world
        .until("an empty folder is known to be empty", |set| {
            set.claimed.as_ref().is_some_and(|c| c.is_empty())
        })
        .await;

    world.write("endor", &file(2, &first.endpoint().to_string(), &agreed("10.2.0.0/16")));
    let row = world.until_row("endor", |row| row.state == PeerState::Synced).await;
    assert_eq!((row.services, row.backends), (1, 1));
    assert!(world.claims(2));

    // Another endpoint.
    world.write("endor", &file(2, &second.endpoint().to_string(), &agreed("10.2.0.0/16")));
    world.until_row("endor", |row| row.state == PeerState::Synced && row.backends == 2).await;
    // Narrower ranges.
    world.write("endor", &file(2, &second.endpoint().to_string(), &agreed("10.2.0.2/32")));
    let row = world.until_row("endor", |row| row.backends == 1).await;
    assert!(
        row.rejections.iter().any(|text| text.contains("10.2.0.1") && text.contains("`ranges`")),
        "{row:?}"
    );

    world.remove("endor");
    world.until("the peer is gone", |set| set.peers.is_empty()).await;
    assert!(!world.claims(2), "what the maps hold of it shall be drained");
    let metrics = world.registry.encode();
    assert!(!metrics.contains("peer=\"endor\""), "series of a peer that is gone: {metrics}");
    world.stop().await;
}

#[tokio::test]
async fn an_edited_file_keeps_what_is_known_until_the_peer_is_synced_again() {
    let mut world = World::new();
    let mut etcd = world.etcd("peer");
    fill(&etcd, "mustafar", 2, &["10.2.0.1"]);
    let endpoint = etcd.endpoint().to_string();
    world.write("mustafar", &file(2, &endpoint, &agreed("10.2.0.0/16")));
    world.until_row("mustafar", |row| row.state == PeerState::Synced).await;
    etcd.kill();
    let other = free_endpoint();
    world.write("mustafar", &file(2, &format!("{endpoint}, {other}"), &agreed("10.2.0.0/16")));
    let tried = |reason: &Option<String>| reason.as_ref().is_some_and(|reason| reason.contains(&other));
    let row =
        world.until_row("mustafar", |row| row.state == PeerState::Disconnected && tried(&row.reason)).await;
    assert_eq!((row.services, row.backends), (1, 1), "{row:?}");
    assert_eq!(PeerInputs::of(&world.set()).synced.len(), 1, "the merge still has it");

    etcd.restart();
    fill(&etcd, "mustafar", 2, &["10.2.0.1", "10.2.0.2"]);
    world.until_row("mustafar", |row| row.state == PeerState::Synced && row.backends == 2).await;
    world.stop().await;
}

#[tokio::test]
async fn narrowed_ranges_count_at_once_although_the_peer_is_away_and_can_be_taken_back() {
    let mut world = World::new();
    let mut etcd = world.etcd("peer");
    fill(&etcd, "yavin", 2, &["10.2.1.4", "10.2.2.4"]);
    let endpoint = etcd.endpoint().to_string();
    world.write("yavin", &file(2, &endpoint, &agreed("10.2.0.0/16")));
    let row = world.until_row("yavin", |row| row.state == PeerState::Synced && row.backends == 2).await;
    assert_eq!(row.stale_since_unix_us, None);
    etcd.kill();
    let row = world.until_row("yavin", |row| row.state == PeerState::Disconnected).await;
    assert!(row.stale_since_unix_us.is_some(), "{row:?}");

    world.write("yavin", &file(2, &endpoint, &agreed("10.2.1.0/24")));
    let row = world.until_row("yavin", |row| row.backends == 1).await;
    assert_eq!(row.state, PeerState::Disconnected);
    assert!(row.rejections.iter().any(|text| text.contains("10.2.2.4")), "{row:?}");
    world.write("yavin", &file(2, &endpoint, &agreed("10.2.0.0/16")));
    world.until_row("yavin", |row| row.backends == 2).await;
    world.stop().await;
}

#[tokio::test]
async fn trust_that_shares_no_root_ends_what_was_learnt_although_the_peer_is_away() {
    let mut world = World::new();
    let mut etcd = world.etcd("peer");
    fill(&etcd, "yavin", 2, &["10.2.1.4"]);
    let endpoint = etcd.endpoint().to_string();
    let trusting = |cas: &[&Ca]| {
        let pem: Vec<String> = cas
            .iter()
            .flat_map(|ca| ca.pem().lines().map(|l| format!("  {l}")).collect::<Vec<_>>())
            .collect();
        format!("{}trust: |\n{}\n", file(2, &endpoint, &agreed("10.2.0.0/16")), pem.join("\n"))
    };
    let (old, new, other) = (Ca::new("old"), Ca::new("new"), Ca::new("other"));
    world.write("yavin", &trusting(&[&old]));
    world.until_row("yavin", |row| row.state == PeerState::Synced && row.backends == 1).await;
    etcd.kill();
    world.until_row("yavin", |row| row.state == PeerState::Disconnected).await;
    let failures = world.folder_failures();
    world.write("yavin", &trusting(&[&old, &new]));
    let keeps = |set: &node_agent::peers::PeerSet| {
        set.peers
            .values()
            .next()
            .and_then(|peer| peer.file.clone())
            .is_some_and(|file| file.trust.as_ref().is_some_and(|pem| pem.matches("BEGIN").count() == 2))
    };
    world.until("the file with both roots is read", keeps).await;
    assert_eq!(PeerInputs::of(&world.set()).synced.values().next().map(|services| services.len()), Some(1));
    world.write("yavin", &trusting(&[&other]));
    world
        .until("nothing of it counts, nor does what the maps hold", |set| {
            PeerInputs::of(set).synced.values().next().is_some_and(|services| services.is_empty())
        })
        .await;
    assert_eq!(world.folder_failures(), failures);
    world.stop().await;
}

#[tokio::test]
async fn another_id_in_the_file_forgets_what_the_former_cluster_said() {
    let mut world = World::new();
    let etcd = world.etcd("peer");
    fill(&etcd, "kamino", 2, &["10.2.0.1"]);
    world.write("kamino", &file(2, &etcd.endpoint().to_string(), &agreed("10.2.0.0/16")));
    world.until_row("kamino", |row| row.state == PeerState::Synced).await;
    world.write("kamino", &file(3, &etcd.endpoint().to_string(), &agreed("10.2.0.0/16")));
    let row = world.until_row("kamino", |row| row.state == PeerState::Refused).await;
    let reason = row.reason.unwrap();
    assert!(reason.contains("its id is 2") && reason.contains("correct `id` there"), "{reason}");
    assert_eq!(row.backends, 0);
    assert!(world.claims(3) && !world.claims(2));
    world.stop().await;
}

#[tokio::test]
async fn a_folder_that_vanishes_or_is_replaced_drains_nobody() {
    let mut world = World::new();
    let etcd = world.etcd("peer");
    fill(&etcd, "jakku", 2, &["10.2.0.1"]);
    world.write("jakku", &file(2, &etcd.endpoint().to_string(), &agreed("10.2.0.0/16")));
    world.until_row("jakku", |row| row.state == PeerState::Synced).await;

    let away = world.folder.with_extension("away");
    std::fs::rename(&world.folder, &away).unwrap();
    let failures = world.folder_failures();
    world.until_metric("the folder is missed", |world| world.folder_failures() > failures).await;
    assert!(world.claims(2));
    let kept = world.set().kept();
    assert!(
        matches!(&kept[..], [one] if one.contains("(since 20") && one.contains("no peer is drained")),
        "{kept:?}"
    );
    // What the peer says is followed all the same.
    fill(&etcd, "jakku", 2, &["10.2.0.1", "10.2.0.2"]);
    world.until_row("jakku", |row| row.state == PeerState::Synced && row.backends == 2).await;

    // An unmounted volume leaves an empty folder behind.
    std::fs::create_dir(&world.folder).unwrap();
    let failures = world.folder_failures();
    world.until_metric("the folder is still missed", |world| world.folder_failures() > failures).await;
    assert!(world.claims(2));
    assert_eq!(world.row("jakku").unwrap().backends, 2);

    std::fs::remove_dir(&world.folder).unwrap();
    std::fs::rename(&away, &world.folder).unwrap();
    world.remove("jakku");
    world.until("now it may go", |set| set.peers.is_empty()).await;
    world.stop().await;
}

#[tokio::test]
async fn two_files_with_one_id_are_both_refused_until_one_goes() {
    let mut world = World::new();
    let etcd = world.etcd("peer");
    fill(&etcd, "naboo", 2, &["10.2.0.1"]);
    let text = file(2, &etcd.endpoint().to_string(), &agreed("10.2.0.0/16"));
    // Renamed into the folder together, so that neither was good before.
    world.replace_folder(&[("naboo", &text), ("corellia", &text)]);
    for (name, other) in [("naboo", "corellia"), ("corellia", "naboo")] {
        let row = world.until_row(name, |row| row.state == PeerState::Refused).await;
        let reason = row.reason.unwrap();
        assert!(reason.contains(other) && reason.contains("correct one of the two"), "{reason}");
        assert_eq!(row.id.map(|id| id.value()), Some(2));
    }
    assert_eq!(world.set().claimed, None, "nobody knows what the files said while they were good");
    world.remove("corellia");
    world.until_row("naboo", |row| row.state == PeerState::Synced).await;
    let refused = |event: &Event| matches!(event, Event::PeerState { peer, state: PeerState::Refused, .. } if peer == "naboo");
    assert!(world.past_events().iter().any(refused), "a refusal is an event");
    world.stop().await;
}

#[tokio::test]
async fn a_misnamed_file_is_shown_and_drains_nobody() {
    let mut world = World::new();
    world.write("Not_A_Name", &file(2, &free_endpoint(), "declared"));
    let row = world.until_row("Not_A_Name.yaml", |row| row.state == PeerState::Refused).await;
    let reason = row.reason.unwrap();
    assert!(reason.contains("RFC 1123") && reason.contains("as NAME.yaml"), "{reason}");
    assert_eq!(world.set().claimed, None);
    world.stop().await;
}

#[tokio::test]
async fn a_file_that_breaks_keeps_its_last_good_content() {
    let mut world = World::new();
    let etcd = world.etcd("peer");
    fill(&etcd, "bespin", 2, &["10.2.0.1"]);
    world.write("bespin", &file(2, &etcd.endpoint().to_string(), &agreed("10.2.0.0/16")));
    world.until_row("bespin", |row| row.state == PeerState::Synced).await;
    for (broken, part) in [("", "it is empty"), ("id: [", "not YAML"), ("id: 2\n", "`endpoints` is missing")]
    {
        world.write("bespin", broken);
        let said = |reason: &Option<String>| reason.as_ref().is_some_and(|reason| reason.contains(part));
        let row = world.until_row("bespin", |row| said(&row.reason)).await;
        assert_eq!((row.state, row.backends), (PeerState::Synced, 1), "{row:?}");
        assert!(world.claims(2));
    }
    world.stop().await;
}

/// An agent whose certificate `ours` made, and an etcd whose certificate `ca` made and which trusts nobody else; and the
/// folder of that one.
fn mutual_tls(dir: &Path, ca: &Ca, ours: &Ca) -> (World, Etcd, PathBuf) {
    let [server, client] = ["server", "ours"].map(|name| dir.join(name));
    ca.issue("etcd", &server);
    ours.issue("hoth", &client);
    let world = World::with_identity(Some(client));
    (world, Etcd::start_tls(dir, &server), server)
}

/// The file of a peer whose certificates these roots vouch for.
fn trusting(etcd: &Etcd, pods: &str, roots: &str) -> String {
    let roots: String = roots.lines().map(|line| format!("  {line}\n")).collect();
    file(2, &etcd.endpoint().to_string(), &agreed(pods)) + "trust: |\n" + &roots
}

#[tokio::test]
async fn a_peer_over_mutual_tls_works_and_a_wrong_ca_is_named_with_the_remedy() {
    let (ca, other) = (Ca::new("tatooine"), Ca::new("other"));
    let dir = tempfile::tempdir().unwrap();
    let (mut world, etcd, _) = mutual_tls(dir.path(), &ca, &ca);
    fill(&etcd, "tatooine", 2, &["10.2.0.1"]);
    world.write("tatooine", &trusting(&etcd, "10.2.0.0/16", other.pem()));
    let row = world.until_row("tatooine", |row| row.state == PeerState::Disconnected).await;
    let reason = row.reason.unwrap();
    assert!(reason.contains(&etcd.endpoint().to_string()), "{reason}");
    assert!(reason.contains("trust the CA that signed it"), "{reason}");

    world.write("tatooine", &trusting(&etcd, "10.2.0.0/16", ca.pem()));
    let row = world.until_row("tatooine", |row| row.state == PeerState::Synced).await;
    assert_eq!(row.backends, 1);
    world.stop().await;
}

#[tokio::test]
async fn a_change_of_trust_ends_only_the_connection_that_no_longer_counts() {
    let (ca, other) = (Ca::new("jakku"), Ca::new("other"));
    let dir = tempfile::tempdir().unwrap();
    let (mut world, etcd, server) = mutual_tls(dir.path(), &ca, &ca);
    fill(&etcd, "jakku", 2, &["10.2.0.1"]);
    let trusting = |roots: &str, id: &str| trusting(&etcd, &format!("10.{id}.0.0/16"), roots);
    world.write("jakku", &trusting(ca.pem(), "2"));
    world.until_row("jakku", |row| row.state == PeerState::Synced).await;
    // The ranges say when the file counts.
    let wider = format!("{}{}", ca.pem(), other.pem());
    world.write("jakku", &trusting(&wider, "3"));
    let row = world.until_row("jakku", |row| row.backends == 0).await;
    assert_eq!(row.state, PeerState::Synced, "{row:?}");
    assert!(world.registry.encode().contains("clustermesh_peer_disconnects_total{peer=\"jakku\"} 0"));
    world.write("jakku", &trusting(&ca.revoking(&server), "2"));
    let row = world.until_row("jakku", |row| row.state == PeerState::Disconnected).await;
    assert!(row.reason.as_ref().is_some_and(|reason| reason.contains("Revoked")), "{row:?}");
    assert_eq!(row.backends, 1, "what is known stays");
    world.write("jakku", &trusting(ca.pem(), "2"));
    world.until_row("jakku", |row| row.state == PeerState::Synced).await;
    world.stop().await;
}

#[tokio::test]
async fn a_client_certificate_that_the_peer_does_not_trust_is_named_with_the_remedy() {
    let (ca, other) = (Ca::new("crait"), Ca::new("other"));
    let dir = tempfile::tempdir().unwrap();
    let (mut world, etcd, _) = mutual_tls(dir.path(), &ca, &other);
    world.write("crait", &trusting(&etcd, "10.2.0.0/16", ca.pem()));
    let row = world.until_row("crait", |row| row.state == PeerState::Disconnected).await;
    let reason = row.reason.unwrap();
    assert!(reason.contains("tls.crt is signed by a CA that it trusts"), "{reason}");
    world.stop().await;
}

#[tokio::test]
async fn a_dead_peer_delays_nobody() {
    // Takes connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut world = World::new();
    let etcd = world.etcd("peer");
    fill(&etcd, "dantooine", 2, &["10.2.0.1"]);
    let dead = [format!("http://{}", silent.local_addr().unwrap()), free_endpoint()];
    world.write("alderaan", &file(3, &dead[0], &agreed("10.3.0.0/16")));
    world.write("despayre", &file(4, &dead[1], &agreed("10.4.0.0/16")));
    world.write("dantooine", &file(2, &etcd.endpoint().to_string(), &agreed("10.2.0.0/16")));
    world.until_row("dantooine", |row| row.state == PeerState::Synced).await;
    let row = world.until_row("despayre", |row| row.state == PeerState::Disconnected).await;
    let reason = row.reason.unwrap();
    assert!(reason.contains("connection refused; check that etcd runs"), "{reason}");
    let row = world.until_row("alderaan", |row| row.state == PeerState::Disconnected).await;
    let reason = row.reason.unwrap();
    assert!(reason.contains("no answer in time; is the process stopped"), "{reason}");
    assert_eq!(PeerInputs::of(&world.set()).synced.len(), 1);
    assert!([2, 3, 4].into_iter().all(|id| world.claims(id)), "the silent are no leavers");
    world.stop().await;
}

#[tokio::test]
async fn a_bad_record_is_counted_shown_and_logged_once_and_the_good_state_stays() {
    let mut world = World::new();
    let etcd = world.etcd("peer");
    fill(&etcd, "ryloth", 2, &["10.2.0.1"]);
    world.write("ryloth", &file(2, &etcd.endpoint().to_string(), &agreed("10.2.0.0/16")));
    world.until_row("ryloth", |row| row.state == PeerState::Synced).await;
    let slice = "endpoints/ryloth/default/rebel-base/rebel-base-x1";
    for times in 1..=3 {
        put(&etcd, slice, "{]");
        let row = world.until_row("ryloth", |row| row.rejected == times).await;
        assert_eq!((row.state, row.services, row.backends), (PeerState::Synced, 1, 1), "{row:?}");
        let [rejection] = &row.rejections[..] else { panic!("one text for one fault: {row:?}") };
        assert!(
            rejection.contains(slice) && rejection.contains("let the peer's exporter write it again"),
            "{rejection}"
        );
    }
    let refused =
        || bad_lines("ryloth").into_iter().filter(|line| line.contains("refused what")).collect::<Vec<_>>();
    assert_eq!(refused().len(), 1, "{:?}", refused());
    let metric = "clustermesh_peer_rejected_records{peer=\"ryloth\",reason=\"not_json\"} 3";
    assert!(world.registry.encode().contains(metric), "{}", world.registry.encode());

    // Another fault is another line; a good value ends the matter.
    put(&etcd, "services/ryloth/default/other", "[]");
    world.until_row("ryloth", |row| row.rejected == 4).await;
    assert_eq!(refused().len(), 2, "{:?}", refused());
    fill(&etcd, "ryloth", 2, &["10.2.0.3", "10.2.0.4"]);
    world.until_row("ryloth", |row| row.backends == 2).await;
    world.stop().await;
}

#[tokio::test]
async fn the_etcd_of_another_cluster_is_refused_with_the_remedy() {
    let mut world = World::new();
    let etcd = world.etcd("peer");
    fill(&etcd, "lothal", 2, &["10.2.0.1"]);
    world.write("scarif", &file(2, &etcd.endpoint().to_string(), &agreed("10.2.0.0/16")));
    let row = world.until_row("scarif", |row| row.state == PeerState::Refused).await;
    let reason = row.reason.unwrap();
    assert!(
        reason.contains("belongs to cluster lothal") && reason.contains("check the endpoints"),
        "{reason}"
    );
    assert_eq!(row.backends, 0);
    assert!(PeerInputs::of(&world.set()).synced.is_empty());
    world.stop().await;
}

#[tokio::test]
async fn a_peer_whose_exporter_is_not_done_is_waited_for() {
    let mut world = World::new();
    let etcd = world.etcd("peer");
    world.write("mygeeto", &file(2, &etcd.endpoint().to_string(), &agreed("10.2.0.0/16")));
    let waiting =
        |reason: &Option<String>| reason.as_ref().is_some_and(|reason| reason.contains("first export"));
    let row = world.until_row("mygeeto", |row| waiting(&row.reason)).await;
    assert_eq!(row.state, PeerState::Listing);
    assert!(PeerInputs::of(&world.set()).synced.is_empty());
    fill(&etcd, "mygeeto", 2, &["10.2.0.1"]);
    let row = world.until_row("mygeeto", |row| row.state == PeerState::Synced).await;
    assert_eq!((row.backends, row.reason), (1, None));
    let states: Vec<PeerState> = (world.past_events().into_iter())
        .filter_map(|event| match event {
            Event::PeerState { peer, state, .. } if peer == "mygeeto" => Some(state),
            _ => None,
        })
        .collect();
    assert_eq!(states, [PeerState::Connecting, PeerState::Listing, PeerState::Synced]);
    world.stop().await;
}

#[tokio::test]
async fn a_peer_that_goes_and_comes_back_is_resumed_with_what_it_had() {
    let mut world = World::new();
    let mut etcd = world.etcd("peer");
    fill(&etcd, "geonosis", 2, &["10.2.0.1"]);
    world.write("geonosis", &file(2, &etcd.endpoint().to_string(), &agreed("10.2.0.0/16")));
    world.until_row("geonosis", |row| row.state == PeerState::Synced).await;
    etcd.kill();
    let row = world.until_row("geonosis", |row| row.state == PeerState::Disconnected).await;
    assert_eq!((row.services, row.backends, row.endpoint), (1, 1, None));
    assert_eq!(PeerInputs::of(&world.set()).synced.len(), 1);
    etcd.restart();
    let row = world.until_row("geonosis", |row| row.state == PeerState::Synced).await;
    assert_eq!((row.backends, row.reason), (1, None));
    world.stop().await;
}

/// Removes all records of a cluster by hand, in one of the ways that there are.
type Removal = (&'static str, fn(&Etcd));

const REMOVALS: [Removal; 3] = [
    ("in one revision", |etcd| drop(etcd.ctl(&["del", "--prefix", "clustermesh/v1/"]))),
    ("marks first, then key by key", |etcd| {
        for key in ["synced/", "alive/", "clusters/", "endpoints/", "nodes/", "services/"] {
            etcd.ctl(&["del", "--prefix", &format!("clustermesh/v1/{key}")]);
        }
    }),
    ("all but the cluster record in one revision", |etcd| {
        etcd.ctl(&["del", "clustermesh/v1/endpoints/", "clustermesh/v1/t"]);
        etcd.ctl(&["del", "--prefix", "clustermesh/v1/clusters/"]);
    }),
];

#[tokio::test]
async fn records_deleted_by_hand_drain_nothing_and_later_changes_count_again() {
    let mut world = World::new();
    let etcd = world.etcd("peer");
    fill(&etcd, "endor-moon", 2, &["10.2.0.1"]);
    world.write("endor-moon", &file(2, &etcd.endpoint().to_string(), &agreed("10.2.0.0/16")));
    world.until_row("endor-moon", |row| row.state == PeerState::Synced).await;
    for (what, remove) in REMOVALS {
        remove(&etcd);
        until_seen_whole(&mut world, &etcd, "endor-moon", what).await;
        // Its exporter writes everything again, with one backend more; then that one goes.
        fill(&etcd, "endor-moon", 2, &["10.2.0.1", "10.2.0.2"]);
        world.until_row("endor-moon", |row| row.backends == 2).await;
        fill(&etcd, "endor-moon", 2, &["10.2.0.1"]);
        world.until_row("endor-moon", |row| row.backends == 1).await;
    }
    world.stop().await;
}

#[tokio::test]
async fn a_forgotten_name_is_drained_with_its_peer_file_and_not_before() {
    let mut world = World::new();
    let etcd = world.etcd("peer");
    fill(&etcd, "echo", 2, &["10.2.0.1"]);
    world.write("echo", &file(2, &etcd.endpoint().to_string(), &agreed("10.2.0.0/16")));
    world.until_row("echo", |row| row.state == PeerState::Synced).await;
    let dialer = Dialer::new(vec![etcd.endpoint()], None).unwrap();
    let session = Session::open(&std::sync::Arc::new(dialer)).await.unwrap();
    let remains = Remains::read(&session, &"echo".parse().unwrap()).await.unwrap();
    assert_eq!(remains.delete(&session).await.unwrap(), 6);
    until_seen_whole(&mut world, &etcd, "echo", "forgotten").await;
    world.remove("echo");
    world.until("the peer is gone", |set| set.peers.is_empty()).await;
    assert!(!world.claims(2));
    world.stop().await;
}

/// Waits until the agent has seen everything that happened in etcd; on the way nothing of the peer may have gone.
async fn until_seen_whole(world: &mut World, etcd: &Etcd, peer: &str, what: &str) {
    let revision = etcd.revision().await;
    world
        .until(what, |set| {
            let row = set.rows().into_iter().find(|row| row.name == peer).expect("its file stands");
            assert_eq!((row.services, row.backends), (1, 1), "{what}: {row:?}");
            assert_eq!(PeerInputs::of(set).synced.len(), 1, "{what}");
            row.revision.is_some_and(|seen| seen >= revision)
        })
        .await;
}

#[tokio::test]
async fn a_file_that_is_broken_at_the_start_is_followed_as_it_was_and_says_so() {
    let mut world = World::new();
    let etcd = world.etcd("peer");
    fill(&etcd, "kessel", 2, &["10.2.0.1"]);
    let good = file(2, &etcd.endpoint().to_string(), &agreed("10.2.0.0/16"));
    world.write("kessel", &good);
    world.until_row("kessel", |row| row.state == PeerState::Synced).await;
    let metric = |world: &World| {
        let text = world.registry.encode();
        let name = "clustermesh_peer_file_kept_since_seconds{peer=\"kessel\"} ";
        text.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(metric(&world), 0);
    for broken in ["", "id: [", "id: 1", &good[..20], &(good.clone() + "trust: x\n")] {
        world = world.restart(|world| world.write("kessel", broken)).await;
        let row = world.until_row("kessel", |row| row.state == PeerState::Synced && row.backends == 1).await;
        let reason = row.reason.unwrap();
        assert!(reason.contains("kessel.yaml") && reason.contains("; what it said before 20"), "{reason}");
        let since = row.kept_since_unix_us.unwrap() / 1_000_000;
        assert_eq!(metric(&world), since, "{broken:?}");
        let [kept] = &world.set().kept()[..] else { panic!("one is kept: {:?}", world.set().kept()) };
        assert!(kept.contains("kessel.yaml") && kept.ends_with("Z stays"), "{kept}");
        assert!(world.claims(2), "{broken:?}");
    }
    let said = |line: &String| line.contains("what it said before stays") && line.contains("since=");
    assert!(bad_lines("kessel").iter().any(said), "{:?}", bad_lines("kessel"));

    // What is narrowed counts as soon as it can be read.
    world = world.restart(|world| world.write("kessel", &good.replace("10.2.0.0/16", "10.2.9.0/24"))).await;
    let row = world.until_row("kessel", |row| row.state == PeerState::Synced && row.backends == 0).await;
    assert_eq!((row.kept_since_unix_us, row.reason, metric(&world)), (None, None, 0));
    assert_eq!(world.set().kept(), [] as [&str; 0]);
    world.stop().await;
}

#[tokio::test]
async fn a_file_removed_while_no_agent_ran_is_not_followed_again() {
    let mut world = World::new();
    let etcd = world.etcd("peer");
    fill(&etcd, "sullust", 2, &["10.2.0.1"]);
    world.write("sullust", &file(2, &etcd.endpoint().to_string(), &agreed("10.2.0.0/16")));
    world.until_row("sullust", |row| row.state == PeerState::Synced).await;
    let mut world = world.restart(|world| world.remove("sullust")).await;
    let drained = |set: &node_agent::peers::PeerSet| set.claimed.as_ref().is_some_and(|ids| ids.is_empty());
    world.until("it is drained", drained).await;
    assert_eq!(world.past_events(), []);
    let mut world = world.restart(|world| world.write("sullust", "")).await;
    let row = world.until_row("sullust", |row| row.state == PeerState::Refused).await;
    assert_eq!((row.backends, row.kept_since_unix_us), (0, None));
    world.stop().await;
}
