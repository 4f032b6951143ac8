//! A peer watch against a real etcd, through everything that an etcd does to it.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, Txn, TxnOp};
use mesh_kv::testing::{Ca, Etcd};
use mesh_kv::{Change, Credentials, Dialer, Event, PeerWatch, Tls, Wanted};
use mesh_model::name::ClusterName;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const PREFIX: &str = "clustermesh/v1/";
const DEADLINE: Duration = Duration::from_secs(30);

/// What a consumer of the events knows.
#[derive(Clone, Debug, Default)]
struct Seen {
    view: BTreeMap<String, String>,
    listing: Option<BTreeMap<String, String>>,
    pages: Vec<usize>,
    lists: usize,
    resumes: usize,
    /// Records after which a list was cut.
    cuts: Vec<u64>,
    reads: usize,
    connects: usize,
    /// Changes per delivered event.
    bursts: Vec<usize>,
    errors: Vec<String>,
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

impl Seen {
    fn take(&mut self, event: Event) {
        match event {
            Event::Connected { .. } => self.connects += 1,
            Event::ListBegin => self.listing = Some(BTreeMap::new()),
            Event::ListPage(entries) => {
                self.pages.push(entries.len());
                let listing = self.listing.as_mut().expect("a list has begun");
                listing.extend(entries.into_iter().map(|entry| (entry.key, text(entry.value))));
            }
            Event::ListEnd { .. } => {
                self.view = self.listing.take().expect("a list has begun");
                self.lists += 1;
            }
            Event::ListCut { records } => self.cuts.push(records),
            Event::Read { entries, .. } => {
                self.reads += 1;
                self.view.extend(entries.into_iter().map(|entry| (entry.key, text(entry.value))));
            }
            Event::Resumed { .. } => self.resumes += 1,
            Event::Changed { changes, .. } => {
                self.bursts.push(changes.len());
                for change in changes {
                    match change {
                        Change::Put { key, value } => self.view.insert(key, text(value)),
                        Change::Delete { key } => self.view.remove(&key),
                    };
                }
            }
            Event::Disconnected { reason } => self.errors.push(reason.to_string()),
        }
    }
}

struct Watching {
    seen: watch::Receiver<Seen>,
    _end: tokio_util::sync::DropGuard,
}

impl Watching {
    fn start(dialer: Dialer) -> Self {
        Self::start_with(dialer, |watch| watch)
    }

    fn start_with(dialer: Dialer, with: impl FnOnce(PeerWatch) -> PeerWatch) -> Self {
        let (sender, seen) = watch::channel(Seen::default());
        let token = CancellationToken::new();
        let peer = PeerWatch::new(Arc::new(dialer), &ClusterName::new("hoth").unwrap());
        let run = with(peer).run(token.clone(), move |event| sender.send_modify(|seen| seen.take(event)));
        tokio::spawn(run);
        Self { seen, _end: token.drop_guard() }
    }

    fn of(etcd: &Etcd) -> Self {
        Self::start(Dialer::new(vec![etcd.endpoint()], None).unwrap())
    }

    async fn until(&mut self, what: &str, holds: impl FnMut(&Seen) -> bool) -> Seen {
        let found =
            tokio::time::timeout(DEADLINE, self.seen.wait_for(holds)).await.map(|seen| seen.unwrap().clone());
        found.unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}: {:?}", *self.seen.borrow()))
    }

    async fn until_value(&mut self, key: &str, value: &str) -> Seen {
        let key = format!("{PREFIX}{key}");
        self.until(&key, |seen| seen.view.get(&key).map(String::as_str) == Some(value)).await
    }
}

fn put(etcd: &Etcd, key: &str, value: &str) {
    etcd.ctl(&["put", &format!("{PREFIX}{key}"), value]);
}

fn put_incarnation(etcd: &Etcd, incarnation: &str) {
    put(etcd, "clusters/hoth", &format!(r#"{{"incarnation":"{incarnation}","from_the_future":[1]}}"#));
}

async fn put_many(etcd: &Etcd, count: usize) {
    let mut client = Client::connect([etcd.endpoint().to_string()], None).await.unwrap();
    for first in (0..count).step_by(100) {
        let puts: Vec<TxnOp> = (first..(first + 100).min(count))
            .map(|index| TxnOp::put(format!("{PREFIX}services/hoth/ns/{index:05}"), "v", None))
            .collect();
        client.txn(Txn::new().and_then(puts)).await.unwrap();
    }
}

/// Values of 1 MB.
async fn put_big(etcd: &Etcd, numbers: std::ops::Range<usize>) {
    let mut client = Client::connect([etcd.endpoint().to_string()], None).await.unwrap();
    for number in numbers {
        client
            .put(format!("{PREFIX}services/hoth/ns/big-{number}"), vec![b'x'; 1_000_000], None)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_list_comes_in_pages_and_then_whole_revisions_follow() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(dir.path());
    put_incarnation(&etcd, "one");
    put_many(&etcd, 2500).await;
    let mut watching = Watching::of(&etcd);
    let seen = watching.until("listed", |seen| seen.lists == 1).await;
    assert_eq!(seen.pages, [1, 1000, 1000, 500]);
    assert_eq!(seen.view.len(), 2501);

    put_many(&etcd, 100).await;
    etcd.ctl(&["del", "--prefix", &format!("{PREFIX}services/hoth/ns/000")]);
    let seen = watching.until("deleted", |seen| seen.view.len() == 2401).await;
    assert_eq!(seen.bursts.iter().sum::<usize>(), 200);
    assert!(seen.bursts.iter().all(|burst| burst % 100 == 0), "half a revision: {:?}", seen.bursts);
    assert_eq!((seen.lists, seen.resumes, seen.errors.len()), (1, 0, 0));
}

#[tokio::test]
async fn a_list_is_cut_at_its_records_and_what_lies_beyond_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(dir.path());
    put_incarnation(&etcd, "one");
    put(&etcd, "synced/hoth/services", "{}");
    for slice in 0..20 {
        put(&etcd, &format!("endpoints/hoth/ns/s/{slice:02}"), "v");
    }
    put(&etcd, "services/hoth/ns/s", "v");
    let dialer = Dialer::new(vec![etcd.endpoint()], None).unwrap();
    let mut watching = Watching::start_with(dialer, |watch| watch.with_max_records(10));
    let seen = watching.until("listed", |seen| seen.lists == 1).await;
    assert_eq!((seen.cuts, seen.view.len()), (vec![10], 10));
    // What decides on the rest comes first, then as many endpoints as may be.
    let key = |key: &str| format!("{PREFIX}{key}");
    for known in ["clusters/hoth", "synced/hoth/services", "services/hoth/ns/s", "endpoints/hoth/ns/s/06"] {
        assert!(seen.view.contains_key(&key(known)), "{known}: {:?}", seen.view);
    }
    put(&etcd, "endpoints/hoth/ns/s/07", "beyond");
    put(&etcd, "endpoints/hoth/ns/s/99", "beyond");
    put(&etcd, "endpoints/hoth/ns/s/03", "new");
    let seen = watching.until_value("endpoints/hoth/ns/s/03", "new").await;
    assert!(!seen.view.values().any(|value| value == "beyond"), "{:?}", seen.view);
    assert_eq!(seen.errors.len(), 0);
}

#[tokio::test]
async fn services_that_are_wanted_are_read_at_the_known_revision() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(dir.path());
    put_incarnation(&etcd, "one");
    for service in ["s", "s-1", "s0"] {
        put(&etcd, &format!("services/hoth/ns/{service}"), service);
        put(&etcd, &format!("endpoints/hoth/ns/{service}/1"), service);
    }
    let (wanted, receiver) = tokio::sync::watch::channel(Wanted::default());
    let dialer = Dialer::new(vec![etcd.endpoint()], None).unwrap();
    let mut watching = Watching::start_with(dialer, |watch| watch.with_wanted(receiver));
    watching.until("listed", |seen| seen.lists == 1).await;
    // Nothing else is read than what is wanted.
    let (sender, mut read) = tokio::sync::watch::channel(Vec::new());
    let told = wanted.clone();
    let dialer = Dialer::new(vec![etcd.endpoint()], None).unwrap();
    let watch =
        PeerWatch::new(Arc::new(dialer), &ClusterName::new("hoth").unwrap()).with_wanted(wanted.subscribe());
    let token = CancellationToken::new();
    tokio::spawn(watch.run(token.clone(), move |event| {
        if let Event::Read { services, entries } = event {
            assert_eq!(services.len(), 1);
            sender.send_replace(entries.into_iter().map(|entry| entry.key).collect());
            told.send_replace(Wanted::default());
        }
    }));
    let services = std::collections::BTreeSet::from(["ns/s".parse().unwrap()]);
    wanted.send_replace(Wanted { services, is_cut: false });
    let keys = tokio::time::timeout(DEADLINE, read.wait_for(|keys| !keys.is_empty()))
        .await
        .unwrap()
        .unwrap()
        .clone();
    assert_eq!(keys, [format!("{PREFIX}services/hoth/ns/s"), format!("{PREFIX}endpoints/hoth/ns/s/1")]);
    token.cancel();
    // More than can be read one by one are listed.
    let many = (0..100).map(|n| format!("ns/many-{n}").parse().unwrap()).collect();
    wanted.send_replace(Wanted { services: many, is_cut: false });
    watching.until("listed again", |seen| seen.lists == 2).await;
    wanted.send_replace(Wanted::default());
    put(&etcd, "services/hoth/ns/s", "after");
    let seen = watching.until_value("services/hoth/ns/s", "after").await;
    assert_eq!(seen.errors.len(), 0);
}

#[tokio::test]
async fn starts_before_its_etcd_does() {
    let dir = tempfile::tempdir().unwrap();
    let mut etcd = Etcd::start(dir.path());
    put(&etcd, "services/hoth/ns/a", "1");
    etcd.kill();
    let mut watching = Watching::of(&etcd);
    let seen = watching.until("failed", |seen| seen.errors.len() > 1).await;
    assert!(seen.errors[0].contains(&etcd.endpoint().to_string()), "{}", seen.errors[0]);
    assert!(seen.errors[0].contains("connection refused"), "{}", seen.errors[0]);
    etcd.restart();
    watching.until_value("services/hoth/ns/a", "1").await;
}

#[tokio::test]
async fn a_restarted_etcd_is_resumed_without_a_list() {
    let dir = tempfile::tempdir().unwrap();
    let mut etcd = Etcd::start(dir.path());
    put_incarnation(&etcd, "one");
    let mut watching = Watching::of(&etcd);
    watching.until("listed", |seen| seen.lists == 1).await;
    etcd.restart();
    put(&etcd, "services/hoth/ns/a", "1");
    let seen = watching.until_value("services/hoth/ns/a", "1").await;
    assert_eq!((seen.lists, seen.resumes), (1, 1), "{:?}", seen.errors);
}

#[tokio::test]
async fn a_revision_that_was_compacted_away_leads_to_a_list() {
    let dir = tempfile::tempdir().unwrap();
    let mut etcd = Etcd::start(dir.path());
    put_incarnation(&etcd, "one");
    put(&etcd, "services/hoth/ns/gone", "1");
    let mut watching = Watching::of(&etcd);
    watching.until("listed", |seen| seen.lists == 1).await;
    // What happens on another port, the watch cannot see.
    etcd.kill();
    let mut elsewhere = etcd.on_another_port();
    elsewhere.ctl(&["del", &format!("{PREFIX}services/hoth/ns/gone")]);
    for value in ["1", "2", "3"] {
        put(&elsewhere, "services/hoth/ns/a", value);
    }
    let status = elsewhere.ctl(&["get", "-w", "json", "nothing"]);
    let revision = status.split("\"revision\":").nth(1).and_then(|rest| rest.split(',').next()).unwrap();
    elsewhere.ctl(&["compact", revision]);
    elsewhere.kill();
    etcd.restart();
    let seen = watching.until_value("services/hoth/ns/a", "3").await;
    assert_eq!(seen.lists, 2);
    assert!(!seen.view.contains_key("clustermesh/v1/services/hoth/ns/gone"));
    assert!(seen.errors.iter().any(|error| error.contains("compacted")), "{:?}", seen.errors);
}

#[tokio::test]
async fn a_wiped_etcd_is_listed_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut etcd = Etcd::start(dir.path());
    put_incarnation(&etcd, "one");
    put(&etcd, "services/hoth/ns/a", "1");
    let mut watching = Watching::of(&etcd);
    watching.until("listed", |seen| seen.lists == 1).await;
    etcd.kill();
    let mut elsewhere = etcd.on_another_port();
    elsewhere.wipe();
    put_incarnation(&elsewhere, "two");
    // The new history is longer than the old one: only the incarnation tells them apart.
    put_many(&elsewhere, 1000).await;
    elsewhere.kill();
    etcd.restart();
    let seen = watching.until("listed anew", |seen| seen.lists == 2).await;
    assert_eq!(seen.resumes, 0);
    assert_eq!(seen.view.len(), 1001);
}

#[tokio::test]
async fn a_history_shorter_than_the_known_one_is_listed_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut etcd = Etcd::start(dir.path());
    put_incarnation(&etcd, "one");
    put_many(&etcd, 1000).await;
    let mut watching = Watching::of(&etcd);
    watching.until("listed", |seen| seen.lists == 1).await;
    etcd.kill();
    let mut elsewhere = etcd.on_another_port();
    elsewhere.wipe();
    put_incarnation(&elsewhere, "one");
    elsewhere.kill();
    etcd.restart();
    let seen = watching.until("listed anew", |seen| seen.lists == 2).await;
    assert_eq!((seen.view.len(), seen.resumes), (1, 0));
}

#[tokio::test]
async fn a_frozen_etcd_is_noticed_and_resumed_when_it_runs_again() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(dir.path());
    put_incarnation(&etcd, "one");
    let mut watching = Watching::of(&etcd);
    watching.until("listed", |seen| seen.lists == 1).await;
    etcd.freeze();
    let seen = watching.until("noticed", |seen| !seen.errors.is_empty()).await;
    assert!(seen.errors[0].contains("no answer in time"), "{}", seen.errors[0]);
    etcd.resume();
    put(&etcd, "services/hoth/ns/a", "1");
    let seen = watching.until_value("services/hoth/ns/a", "1").await;
    assert_eq!(seen.lists, 1, "{:?}", seen.errors);
    assert!(seen.resumes >= 1);
}

#[tokio::test]
async fn a_quiet_etcd_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(dir.path());
    let mut watching = Watching::of(&etcd);
    watching.until("listed", |seen| seen.lists == 1).await;
    // Longer than the silence after which progress is asked for, and than its deadline.
    let quiet = tokio::time::timeout(Duration::from_secs(12), watching.seen.changed()).await;
    assert!(quiet.is_err(), "{:?}", *watching.seen.borrow());
}

#[tokio::test]
async fn the_next_endpoint_is_used_when_one_is_frozen() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (Etcd::start(first.path()), Etcd::start(second.path()));
    put(&two, "services/hoth/ns/a", "2");
    one.freeze();
    let mut watching = Watching::start(Dialer::new(vec![one.endpoint(), two.endpoint()], None).unwrap());
    let seen = watching.until_value("services/hoth/ns/a", "2").await;
    assert_eq!(seen.errors.len(), 1, "{:?}", seen.errors);
}

#[tokio::test]
async fn values_too_big_for_one_message_come_in_smaller_pages() {
    let dir = tempfile::tempdir().unwrap();
    let mut etcd = Etcd::start(dir.path());
    put_incarnation(&etcd, "one");
    put_big(&etcd, 0..80).await;
    let mut watching = Watching::of(&etcd);
    let seen = watching.until("listed", |seen| seen.lists == 1).await;
    assert_eq!((seen.view.len(), seen.errors.len()), (81, 0), "{:?}", seen.errors);
    assert!(seen.pages.iter().all(|page| *page < 80), "{:?}", seen.pages);
    // What was missed meanwhile is too much for one message of the watch: it is listed.
    etcd.kill();
    let mut elsewhere = etcd.on_another_port();
    put_big(&elsewhere, 80..160).await;
    elsewhere.kill();
    etcd.restart();
    let seen = watching.until("listed again", |seen| seen.lists == 2).await;
    assert_eq!(seen.view.len(), 161);
    assert!(seen.errors.iter().any(|error| error.contains("too large")), "{:?}", seen.errors);
}

#[tokio::test]
async fn mutual_tls_works_and_follows_rotated_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let (server, client) = (dir.path().join("server"), dir.path().join("client"));
    let ca = Ca::new("hoth");
    ca.issue("etcd", &server);
    ca.issue("endor", &client);
    let etcd = Etcd::start_tls(dir.path(), &server);
    put(&etcd, "services/hoth/ns/a", "1");

    let stranger = dir.path().join("stranger");
    Ca::new("empire").issue("vader", &stranger);
    let cases = [
        ("no client certificate", Tls::trusting(ca.pem(), None).unwrap(), "refused our certificate"),
        (
            "a certificate of another CA",
            Tls::trusting(ca.pem(), Some(&Credentials::in_folder(&stranger))).unwrap(),
            "refused our certificate",
        ),
        ("trust in another CA", Tls::from_dir(&stranger), "trust the CA that signed it"),
        ("no files", Tls::from_dir(&dir.path().join("nowhere")), "check that the file exists"),
    ];
    for (case, tls, part) in cases {
        let mut watching = Watching::start(Dialer::new(vec![etcd.endpoint()], Some(tls)).unwrap());
        let seen = watching.until(case, |seen| !seen.errors.is_empty()).await;
        assert!(seen.errors[0].contains(part), "{case}: {}", seen.errors[0]);
        assert!(seen.errors[0].contains(&etcd.endpoint().to_string()), "{case}: {}", seen.errors[0]);
        assert_eq!(seen.connects, 0, "{case}");
    }

    // The identity is wrong at first, and is put right while the watch runs.
    let rotated = dir.path().join("rotated");
    Ca::new("empire").issue("endor", &rotated);
    let tls = Tls::trusting(ca.pem(), Some(&Credentials::in_folder(&rotated))).unwrap();
    let mut watching = Watching::start(Dialer::new(vec![etcd.endpoint()], Some(tls)).unwrap());
    watching.until("refused", |seen| !seen.errors.is_empty()).await;
    ca.issue("endor", &rotated);
    watching.until_value("services/hoth/ns/a", "1").await;
}

/// What dials an etcd over TLS by what is trusted.
fn trusting(etcd: &Etcd, trust: &str, own: &Credentials) -> Dialer {
    let tls = Tls::trusting(trust, Some(own)).unwrap();
    Dialer::new(vec![etcd.endpoint()], Some(tls)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_ends_with_the_trust_in_its_server_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let [server, client] = ["server", "client"].map(|name| dir.path().join(name));
    let (ca, other) = (Ca::new("hoth"), Ca::new("empire"));
    ca.issue("etcd", &server);
    ca.issue("endor", &client);
    let (etcd, own) = (Etcd::start_tls(dir.path(), &server), Credentials::in_folder(&client));
    put_incarnation(&etcd, "one");
    put(&etcd, "services/hoth/ns/a", "1");
    let dials = watch::Sender::new(Arc::new(trusting(&etcd, ca.pem(), &own)));
    let dialers = dials.subscribe();
    let mut watching =
        Watching::start_with(trusting(&etcd, ca.pem(), &own), |watch| watch.with_dialers(dialers));
    watching.until_value("services/hoth/ns/a", "1").await;

    // More trust, and a certificate of ours that is another one, are for the next connection.
    let both = format!("{}{}", other.pem(), ca.pem());
    dials.send_replace(Arc::new(trusting(&etcd, &both, &own)));
    ca.issue("endor", &client);
    put(&etcd, "services/hoth/ns/a", "2");
    let seen = watching.until_value("services/hoth/ns/a", "2").await;
    assert_eq!((seen.connects, seen.lists, &seen.errors[..]), (1, 1, &[][..]));

    for (trust, why) in [(ca.revoking(&server), "Revoked"), (other.pem().to_owned(), "UnknownIssuer")] {
        let before = watching.seen.borrow().errors.len();
        dials.send_replace(Arc::new(trusting(&etcd, &trust, &own)));
        let told = |seen: &Seen| seen.errors.len() > before + 1;
        let seen = watching.until(why, told).await;
        let (ended, refused) = (&seen.errors[before], &seen.errors[before + 1]);
        assert!(ended.contains("does not vouch for the server") && ended.contains(why), "{ended}");
        assert!(refused.contains("TLS handshake failed") && refused.contains(why), "{refused}");
        // What is right again counts at once, whatever the last attempt has come to, and nothing is listed anew.
        dials.send_replace(Arc::new(trusting(&etcd, ca.pem(), &own)));
        put(&etcd, "services/hoth/ns/a", why);
        watching.until_value("services/hoth/ns/a", why).await;
    }
    let seen = watching.seen.borrow().clone();
    assert_eq!((seen.connects, seen.lists, seen.resumes), (3, 1, 2));
}

const ALIVE: &str = "alive/hoth";

/// An etcd that is restored after a reader has seen more than the backup holds, and then grows.
async fn restored(growth: usize) {
    let dir = tempfile::tempdir().unwrap();
    let (mut etcd, backup) = (Etcd::start(dir.path()), dir.path().join("backup"));
    put_incarnation(&etcd, "one");
    put(&etcd, ALIVE, "1");
    put(&etcd, "services/hoth/ns/a", "before");
    etcd.back_up(&backup);
    let mut watching = Watching::of(&etcd);
    put(&etcd, "services/hoth/ns/a", "lost");
    put(&etcd, "services/hoth/ns/b", "lost");
    watching.until_value("services/hoth/ns/b", "lost").await;
    etcd.restore_stopped(&backup);
    // Nobody sees it before it has grown.
    let mut hidden = etcd.on_another_port();
    for number in 0..growth {
        put(&hidden, ALIVE, &format!("{}", 2 + number));
    }
    hidden.kill();
    etcd.restart();
    let seen = watching
        .until("what was restored", |seen| {
            seen.lists == 2 && !seen.view.contains_key(&format!("{PREFIX}services/hoth/ns/b"))
        })
        .await;
    assert_eq!(seen.view[&format!("{PREFIX}services/hoth/ns/a")], "before");
    put(&etcd, "services/hoth/ns/c", "after");
    watching.until_value("services/hoth/ns/c", "after").await;
}

#[tokio::test]
async fn an_etcd_restored_from_a_backup_is_listed_anew() {
    restored(0).await;
}

#[tokio::test]
async fn a_restored_etcd_that_grew_up_to_the_known_revision_is_listed_anew() {
    restored(2).await;
}

#[tokio::test]
async fn a_restored_etcd_that_grew_past_the_known_revision_is_listed_anew() {
    restored(50).await;
}
