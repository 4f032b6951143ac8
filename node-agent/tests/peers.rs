//! The peers component on a folder of real peer files and real etcds, without any eBPF.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends there")]

mod world;

use std::time::Duration;

use mesh_kv::testing::{Ca, Etcd};
use node_agent::admin::api::{Event, PeerState};
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
async fn an_edited_file_keeps_what_is_known_until_the_peer_speaks_again() {
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
    assert_eq!(world.set().inputs().synced.len(), 1, "the merge still has it");

    etcd.restart();
    fill(&etcd, "mustafar", 2, &["10.2.0.1", "10.2.0.2"]);
    world.until_row("mustafar", |row| row.state == PeerState::Synced && row.backends == 2).await;
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
    assert!(world.claims(2), "a refused file still claims its id");
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

#[tokio::test]
async fn a_peer_over_mutual_tls_works_and_a_wrong_ca_is_named_with_the_remedy() {
    let (ca, other) = (Ca::new("tatooine"), Ca::new("other"));
    let dir = tempfile::tempdir().unwrap();
    let [server, ours] = ["server", "ours"].map(|name| dir.path().join(name));
    ca.issue("etcd", &server);
    ca.issue("hoth", &ours);
    let mut world = World::with_identity(Some(ours));
    let etcd = Etcd::start_tls(dir.path(), &server);
    fill(&etcd, "tatooine", 2, &["10.2.0.1"]);
    let trusting = |ca: &Ca| {
        let pem: String = ca.pem().lines().map(|line| format!("  {line}\n")).collect();
        file(2, &etcd.endpoint().to_string(), &agreed("10.2.0.0/16")) + "trust: |\n" + &pem
    };
    world.write("tatooine", &trusting(&other));
    let row = world.until_row("tatooine", |row| row.state == PeerState::Disconnected).await;
    let reason = row.reason.unwrap();
    assert!(reason.contains(&etcd.endpoint().to_string()), "{reason}");
    assert!(reason.contains("trust the CA that signed it"), "{reason}");

    world.write("tatooine", &trusting(&ca));
    let row = world.until_row("tatooine", |row| row.state == PeerState::Synced).await;
    assert_eq!(row.backends, 1);
    world.stop().await;
}

#[tokio::test]
async fn a_client_certificate_that_the_peer_does_not_trust_is_named_with_the_remedy() {
    let (ca, other) = (Ca::new("crait"), Ca::new("other"));
    let dir = tempfile::tempdir().unwrap();
    let [server, ours] = ["server", "ours"].map(|name| dir.path().join(name));
    ca.issue("etcd", &server);
    other.issue("hoth", &ours);
    let mut world = World::with_identity(Some(ours));
    let etcd = Etcd::start_tls(dir.path(), &server);
    let pem: String = ca.pem().lines().map(|line| format!("  {line}\n")).collect();
    let text = file(2, &etcd.endpoint().to_string(), &agreed("10.2.0.0/16")) + "trust: |\n" + &pem;
    world.write("crait", &text);
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
    assert_eq!(world.set().inputs().synced.len(), 1);
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
    assert!(world.set().inputs().synced.is_empty());
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
    assert!(world.set().inputs().synced.is_empty());
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
    assert_eq!(world.set().inputs().synced.len(), 1);
    etcd.restart();
    let row = world.until_row("geonosis", |row| row.state == PeerState::Synced).await;
    assert_eq!((row.backends, row.reason), (1, None));
    world.stop().await;
}
