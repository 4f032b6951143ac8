//! The same writes, compactions, ranges and watches against a real etcd and against a server of its records give the same
//! answers. What happens is random; the seed is printed.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_client::{
    Client, CompactionOptions, DeleteOptions, EventType, GetOptions, KeyValue, PutOptions, SortOrder,
    SortTarget, Txn, TxnOp, WatchFilterType, WatchOptions, WatchResponse, WatchStream,
};
use mesh_kv::testing::Etcd;
use mesh_model::audience::Audience;

use super::cache::Window;
use super::testing::{Certificates, DEADLINE, Random, Replica};
use super::view::Scope;

impl Random {
    fn key(&mut self) -> String {
        format!("clustermesh/{}", self.pick(&["a", "a/1", "a/2", "a/3", "b", "b/1", "b/2", "c"]))
    }

    fn value(&mut self) -> String {
        // Few values, so that sorting by them meets equal ones; Go's sort keeps the order of so few.
        self.pick(&["", "x", "y", "zz"]).repeat(usize::try_from(1 + self.below(3)).unwrap())
    }
}

/// A record as both tell it.
type Pair = (String, String, i64, i64, i64, i64);

fn pair(kv: &KeyValue) -> Pair {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let numbers = (kv.create_revision(), kv.mod_revision(), kv.version(), kv.lease());
    (text(kv.key()), text(kv.value()), numbers.0, numbers.1, numbers.2, numbers.3)
}

#[derive(Debug, PartialEq)]
enum Answer {
    Found { revision: i64, pairs: Vec<Pair>, more: bool, count: i64 },
    Refused { code: tonic::Code, message: String },
}

async fn get(client: &Client, key: &str, options: GetOptions) -> Answer {
    match client.kv_client().get(key, Some(options)).await {
        Ok(found) => Answer::Found {
            revision: found.header().unwrap().revision(),
            pairs: found.kvs().iter().map(pair).collect(),
            more: found.more(),
            count: found.count(),
        },
        Err(etcd_client::Error::GRpcStatus(status)) => {
            Answer::Refused { code: status.code(), message: status.message().into() }
        }
        Err(error) => panic!("{error}"),
    }
}

/// What one watch was told.
#[derive(Debug, Default, PartialEq)]
struct Told {
    /// Created and cancelled, with header's revision, compact revision and reason.
    states: Vec<(bool, bool, i64, i64, String)>,
    events: Vec<(bool, Pair, Option<Pair>)>,
}

#[derive(Default)]
struct Heard(BTreeMap<i64, Told>);

impl Heard {
    fn take(&mut self, response: &WatchResponse) {
        let told = self.0.entry(response.watch_id()).or_default();
        if response.created() || response.canceled() {
            told.states.push((
                response.created(),
                response.canceled(),
                response.header().unwrap().revision(),
                response.compact_revision(),
                response.cancel_reason().into(),
            ));
        }
        for event in response.events() {
            let is_put = event.event_type() == EventType::Put;
            told.events.push((is_put, pair(event.kv().unwrap()), event.prev_kv().map(pair)));
        }
    }

    /// Such a watch's id stays taken in etcd until the client cancels it, which here it does not.
    fn is_compacted(&self, id: i64) -> bool {
        self.0.get(&id).is_some_and(|told| told.states.iter().any(|state| state.3 != 0))
    }

    /// What the two don't have in common, by watch.
    fn beside<'a>(&'a self, other: &'a Self) -> Vec<(i64, Option<&'a Told>, Option<&'a Told>)> {
        let ids: std::collections::BTreeSet<_> = self.0.keys().chain(other.0.keys()).copied().collect();
        let both = ids.into_iter().map(|id| (id, self.0.get(&id), other.0.get(&id)));
        both.filter(|(_, one, other)| one != other).collect()
    }

    fn count(&self) -> usize {
        self.0.values().map(|told| told.states.len() + told.events.len()).sum()
    }
}

/// One side's stream of watches.
struct Watching {
    stream: WatchStream,
    heard: Heard,
}

impl Watching {
    async fn open(client: &Client) -> Self {
        // A stream begins with a watch.
        let mut stream = client.watch_client().watch("clustermesh/none", None).await.unwrap();
        let mut heard = Heard::default();
        // It is made when its request comes in, which may be behind the next write.
        heard.take(&stream.message().await.unwrap().unwrap());
        Self { stream, heard }
    }

    /// Everything up to the server's revision, where that tells its progress behind all events.
    async fn drain(&mut self) {
        self.stream.request_progress().await.unwrap();
        loop {
            let message = self.stream.message().await.unwrap().unwrap();
            let is_progress = !message.created() && !message.canceled() && message.events().is_empty();
            if is_progress && message.watch_id() == -1 {
                return;
            }
            self.heard.take(&message);
        }
    }

    /// As much as the other has heard.
    async fn drain_as(&mut self, other: &Self) {
        while self.heard.count() < other.heard.count() {
            let message = tokio::time::timeout(DEADLINE, self.stream.message()).await;
            let message =
                message.unwrap_or_else(|_| panic!("too few: {:?}", other.heard.beside(&self.heard)));
            self.heard.take(&message.unwrap().expect("the stream goes on"));
        }
    }
}

struct Run {
    random: Random,
    etcd: Client,
    replica: Replica,
    ours: Client,
    watching: [Watching; 2],
    revision: i64,
    compacted: i64,
    leases: Vec<i64>,
}

impl Run {
    async fn begin(seed: u64, etcd: &Etcd, certificates: &Certificates) -> Self {
        let client = Client::connect([etcd.endpoint().to_string()], None).await.unwrap();
        let scope = Scope::of(|_| Some(Audience::Everybody));
        let mut replica = Replica::start(etcd, certificates, scope, Window::default()).await;
        replica.reach(1).await;
        let ours = replica.client(certificates, "yavin");
        let watching = [Watching::open(&client).await, Watching::open(&ours).await];
        let revision = replica.snapshots.borrow().as_ref().unwrap().cache.revision();
        let random = Random(seed);
        let leases = vec![0, client.lease_client().grant(3600, None).await.unwrap().id()];
        Self { random, etcd: client, replica, ours, watching, revision, compacted: revision, leases }
    }

    async fn write(&mut self) {
        let (mut kv, random) = (self.etcd.kv_client(), &mut self.random);
        let header = match random.below(10) {
            0..5 => {
                let lease = random.pick(&self.leases);
                let options = PutOptions::new().with_lease(lease);
                let put = kv.put(random.key(), random.value(), Some(options)).await.unwrap();
                put.header().unwrap().revision()
            }
            5..7 => {
                let options =
                    if random.chance(30) { DeleteOptions::new().with_prefix() } else { DeleteOptions::new() };
                let deleted = kv.delete(random.key(), Some(options)).await.unwrap();
                deleted.header().unwrap().revision()
            }
            _ => {
                let keys: std::collections::BTreeSet<_> = (0..4).map(|_| random.key()).collect();
                let mut operations: Vec<TxnOp> = Vec::new();
                for key in keys {
                    operations.push(match random.below(3) {
                        0 => TxnOp::delete(key, None),
                        _ => TxnOp::put(key, random.value(), None),
                    });
                }
                // Not in the order of their keys.
                operations.reverse();
                let written = kv.txn(Txn::new().and_then(operations)).await.unwrap();
                written.header().unwrap().revision()
            }
        };
        self.revision = header;
        self.replica.reach(header).await;
    }

    fn range_options(&mut self, key: &str) -> GetOptions {
        let (low, high) = (self.compacted.max(2) - 1, self.revision + 1);
        let random = &mut self.random;
        let mut options = match random.below(6) {
            0 => GetOptions::new(),
            1 | 2 => GetOptions::new().with_prefix(),
            3 => GetOptions::new().with_from_key(),
            4 => GetOptions::new().with_all_keys(),
            _ => GetOptions::new().with_range(format!("{key}{}", random.pick(&["", "/", "0", "/2"]))),
        };
        if random.chance(40) {
            options = options.with_limit(random.revision(0, 5));
        }
        if random.chance(50) {
            options = options.with_revision(random.revision(low, high));
        }
        if random.chance(60) {
            let target = [
                SortTarget::Key,
                SortTarget::Version,
                SortTarget::Create,
                SortTarget::Mod,
                SortTarget::Value,
            ];
            let order = [SortOrder::None, SortOrder::Ascend, SortOrder::Descend];
            options = options.with_sort(random.pick(&target), random.pick(&order));
        }
        for bound in [
            GetOptions::with_min_mod_revision as fn(GetOptions, i64) -> GetOptions,
            GetOptions::with_max_mod_revision,
            GetOptions::with_min_create_revision,
            GetOptions::with_max_create_revision,
        ] {
            if random.chance(10) {
                options = bound(options, random.revision(low, high));
            }
        }
        for flag in [
            GetOptions::with_keys_only as fn(GetOptions) -> GetOptions,
            GetOptions::with_count_only,
            GetOptions::with_serializable,
        ] {
            if random.chance(10) {
                options = flag(options);
            }
        }
        options
    }

    async fn compare_range(&mut self) {
        let key = if self.random.chance(2) { String::new() } else { self.random.key() };
        let options = self.range_options(&key);
        let theirs = get(&self.etcd, &key, options.clone()).await;
        let ours = get(&self.ours, &key, options.clone()).await;
        assert_eq!(ours, theirs, "{key} {options:?}");
    }

    fn watch_options(&mut self, key: &str) -> WatchOptions {
        let (low, high) = (self.compacted, self.revision + 3);
        let random = &mut self.random;
        let mut options = match random.below(5) {
            0 => WatchOptions::new(),
            1 | 2 => WatchOptions::new().with_prefix(),
            3 => WatchOptions::new().with_from_key(),
            _ => WatchOptions::new().with_range(format!("{key}{}", random.pick(&["", "/", "0"]))),
        };
        if random.chance(60) {
            // At the compacted revision itself, etcd 3.4 knows no deletions any more.
            let start = random.revision(low - 1, high);
            options = options.with_start_revision(if start == low { low + 1 } else { start.max(1) });
        }
        if random.chance(30) {
            // Beyond those that a server chooses.
            let id = random.revision(100, 112);
            if !self.watching[0].heard.is_compacted(id) {
                options = options.with_watch_id(id);
            }
        }
        if random.chance(30) {
            options = options.with_prev_key();
        }
        if random.chance(20) {
            options = options.with_fragment();
        }
        match random.below(6) {
            0 => options.with_filters([WatchFilterType::NoPut]),
            1 => options.with_filters([WatchFilterType::NoDelete]),
            _ => options,
        }
    }

    /// Opens a watch on both sides, or ends one.
    async fn watch(&mut self) {
        if self.random.chance(20) {
            let id = self.random.revision(0, 15) + self.random.pick(&[0, 100]);
            self.compare_watches().await;
            if self.watching[0].heard.is_compacted(id) {
                return;
            }
            for side in &mut self.watching {
                side.stream.cancel(id).await.unwrap();
            }
        } else {
            let key = self.random.key();
            let options = self.watch_options(&key);
            for side in &mut self.watching {
                side.stream.watch(key.clone(), Some(options.clone())).await.unwrap();
            }
        }
        self.compare_watches().await;
    }

    async fn compare_watches(&mut self) {
        let [theirs, ours] = &mut self.watching;
        ours.drain().await;
        theirs.drain_as(ours).await;
        let differing = ours.heard.beside(&theirs.heard);
        assert!(differing.is_empty(), "ours and theirs: {differing:?}");
    }

    async fn compact(&mut self) {
        self.compare_watches().await;
        // etcd looks at what a watch from the past is to be told every 100 ms, and shows nothing of it where that is nothing.
        tokio::time::sleep(Duration::from_millis(400)).await;
        let to = self.random.revision(self.compacted, self.revision);
        if to <= self.compacted {
            return;
        }
        let options = CompactionOptions::new().with_physical();
        self.etcd.kv_client().compact(to, Some(options)).await.unwrap();
        self.replica.feed.lock().unwrap().compact(to);
        self.compacted = to;
    }
}

async fn run(seed: u64, steps: usize) {
    println!("seed {seed}");
    let (dir, certificates) = (tempfile::tempdir().unwrap(), Certificates::new());
    let etcd = Etcd::start(dir.path());
    etcd.ctl(&["put", "clustermesh/v1/clusters/hoth", r#"{"incarnation":"one"}"#]);
    let mut run = Run::begin(seed, &etcd, &certificates).await;
    // Both keep the past from here on. (Of the listed revision itself the replica does not know the deletions.)
    while run.revision == run.compacted {
        run.write().await;
    }
    run.compacted = run.revision;
    run.etcd.kv_client().compact(run.revision, None).await.unwrap();
    run.replica.feed.lock().unwrap().compact(run.revision);
    for _ in 0..steps {
        match run.random.below(100) {
            0..45 => run.write().await,
            45..80 => run.compare_range().await,
            80..97 => run.watch().await,
            _ => run.compact().await,
        }
    }
    run.compare_watches().await;
    // etcd has nothing more to tell either.
    let [theirs, _] = &mut run.watching;
    let more = tokio::time::timeout(Duration::from_millis(500), theirs.stream.message()).await;
    assert!(more.is_err(), "{more:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_histories_are_answered_as_etcd_answers_them() {
    let seeds = [1, 2, 3].map(|seed: u64| 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
    futures::future::join_all(seeds.map(|seed| Box::pin(run(seed, 300)))).await;
}
