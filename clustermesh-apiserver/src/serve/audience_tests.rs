//! Readers of different audiences, at two replicas: each sees what etcd holds, less the records that are not for it, at every
//! revision, over resumes, and however late. What happens is random; the seed is printed.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use etcd_client::{Client, EventType, GetOptions, Txn, TxnOp, WatchOptions, WatchStream};
use mesh_kv::testing::Etcd;

use super::testing::{Certificates, DEADLINE, Random, Replica};

const PREFIX: &str = "clustermesh/v1/";
/// Each with those who see it beside hoth.
const AUDIENCES: [(&str, &[&str]); 7] = [
    ("", &["yavin", "endor"]),
    (r#","export_to":["yavin"]"#, &["yavin"]),
    (r#","export_to":["endor"]"#, &["endor"]),
    (r#","export_to":["endor","yavin"]"#, &["yavin", "endor"]),
    (r#","export_to":["jakku"]"#, &[]),
    (r#","export_to":[]"#, &[]),
    (r#","export_to":"yavin""#, &[]),
];

/// Key and value with the revisions that etcd counts.
type State = BTreeMap<String, (String, i64, i64)>;

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn sees(reader: &str, value: &str) -> bool {
    let end = value.strip_suffix('}').unwrap();
    let field = end.find(r#","export_to""#).map_or("", |at| &end[at..]);
    let (_, audience) = AUDIENCES.iter().find(|(text, _)| *text == field).unwrap();
    reader == "hoth" || audience.contains(&reader)
}

async fn list(client: &Client, revision: i64) -> (i64, State) {
    let options = GetOptions::new().with_prefix().with_revision(revision);
    let found = client.kv_client().get(PREFIX, Some(options)).await.unwrap();
    assert_eq!(found.count(), i64::try_from(found.kvs().len()).unwrap());
    let record = |kv: &etcd_client::KeyValue| {
        (text(kv.key()), (text(kv.value()), kv.create_revision(), kv.mod_revision()))
    };
    (found.header().unwrap().revision(), found.kvs().iter().map(record).collect())
}

/// Somebody who lists once and watches from there on.
struct Reader {
    name: &'static str,
    state: State,
    /// Everything up to there is known.
    revision: i64,
    stream: WatchStream,
}

impl Reader {
    async fn begin(name: &'static str, client: &Client) -> Self {
        let (revision, state) = list(client, 0).await;
        let stream = watch(client, revision).await;
        Self { name, state, revision, stream }
    }

    /// Goes on where it was, at another replica perhaps.
    async fn resume(&mut self, client: &Client) {
        self.stream = watch(client, self.revision).await;
    }

    /// Everything up to the server's revision.
    async fn drain(&mut self) {
        self.stream.request_progress().await.unwrap();
        loop {
            let message = tokio::time::timeout(DEADLINE, self.stream.message()).await.unwrap();
            let message = message.unwrap().unwrap();
            assert!(!message.canceled(), "{message:?}");
            message.events().iter().for_each(|event| self.take(event));
            if message.watch_id() == -1 {
                self.revision = message.header().unwrap().revision();
                return;
            }
        }
    }

    fn take(&mut self, event: &etcd_client::Event) {
        let kv = event.kv().unwrap();
        assert!(kv.mod_revision() >= self.revision, "{} goes back: {event:?}", self.name);
        self.revision = kv.mod_revision();
        let known = match event.event_type() {
            EventType::Put => {
                let value = text(kv.value());
                assert!(sees(self.name, &value), "{} sees {event:?}", self.name);
                let record = (value, kv.create_revision(), kv.mod_revision());
                self.state.insert(text(kv.key()), record)
            }
            EventType::Delete => {
                let known = self.state.remove(&text(kv.key()));
                assert!(known.is_some(), "{} is told that what it never saw is gone: {event:?}", self.name);
                known
            }
        };
        let previous = event.prev_kv().map(|kv| (text(kv.value()), kv.create_revision(), kv.mod_revision()));
        assert_eq!(known, previous, "{} is told of what was before", self.name);
    }
}

async fn watch(client: &Client, behind: i64) -> WatchStream {
    let options = WatchOptions::new().with_prefix().with_prev_key().with_start_revision(behind + 1);
    let mut stream = client.watch_client().watch(PREFIX, Some(options)).await.unwrap();
    assert!(stream.message().await.unwrap().unwrap().created());
    stream
}

/// Some records of two services, in one transaction, as the exporter writes them.
async fn write(random: &mut Random, etcd: &Client) -> i64 {
    let service = random.pick(&["a", "b"]);
    let keys = ["services/hoth/ns/S", "endpoints/hoth/ns/S/S-1", "endpoints/hoth/ns/S/S-2"]
        .map(|key| format!("{PREFIX}{}", key.replace('S', service)));
    let audience = random.pick(&AUDIENCES).0;
    let number = random.below(1_000_000);
    let mut operations = Vec::new();
    for key in keys {
        match random.below(10) {
            0 => operations.push(TxnOp::delete(key, None)),
            1 => {}
            _ => operations.push(TxnOp::put(key, format!(r#"{{"n":{number}{audience}}}"#), None)),
        }
    }
    etcd.kv_client().txn(Txn::new().and_then(operations)).await.unwrap().header().unwrap().revision()
}

async fn run(seed: u64, steps: usize) {
    println!("seed {seed}");
    let (dir, certificates) = (tempfile::tempdir().unwrap(), Certificates::new());
    let etcd = Etcd::start(dir.path());
    let direct = Client::connect([etcd.endpoint().to_string()], None).await.unwrap();
    let mut random = Random(seed);
    write(&mut random, &direct).await;
    let mut replicas =
        [Replica::of_hoth(&etcd, &certificates).await, Replica::of_hoth(&etcd, &certificates).await];
    let mut revision = write(&mut random, &direct).await;
    let first = revision;
    for replica in &mut replicas {
        replica.reach(revision).await;
    }
    let mut readers = Vec::new();
    for name in ["hoth", "yavin", "endor"] {
        let clients = [0, 1].map(|replica: usize| replicas[replica].client(&certificates, name));
        let (now, late) = (Reader::begin(name, &clients[0]).await, Reader::begin(name, &clients[1]).await);
        readers.push((clients, now, late));
    }
    for _ in 0..steps {
        revision = write(&mut random, &direct).await.max(revision);
        for replica in &mut replicas {
            replica.reach(revision).await;
        }
        let past = random.revision(first, revision);
        let (clients, reader, _) = &mut readers[usize::try_from(random.below(3)).unwrap()];
        let client = &clients[usize::try_from(random.below(2)).unwrap()];
        if random.chance(30) {
            reader.resume(client).await;
        }
        reader.drain().await;
        assert_eq!(reader.state, of_etcd(&direct, reader.name, revision).await, "at {revision}");
        assert_eq!(list(client, past).await.1, of_etcd(&direct, reader.name, past).await, "at {past}");
    }
    for (_, now, late) in &mut readers {
        for reader in [now, late] {
            reader.drain().await;
            assert_eq!(reader.state, of_etcd(&direct, reader.name, revision).await, "at the end");
        }
    }
}

async fn of_etcd(direct: &Client, reader: &str, revision: i64) -> State {
    let mut all = list(direct, revision).await.1;
    all.retain(|_, (value, ..)| sees(reader, value));
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_reader_sees_what_etcd_holds_less_what_is_not_for_it() {
    let seeds = [1, 2].map(|seed: u64| 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
    futures::future::join_all(seeds.map(|seed| Box::pin(run(seed, 150)))).await;
}
