//! Whatever happened to a folder on the way, what it adds up to in the end is what a fresh reader sees.

use std::fs;
use std::path::Path;
use std::time::Duration;

use mesh_model::snapshot::ClusterSnapshot;
use proptest::prelude::*;

use super::fingerprint::Now;
use super::reader::Reader;
use super::scan::Hints;
use crate::metrics::SourceMetrics;

const FILES: [&str; 3] = ["1.yaml", "2.yaml", "3.yaml"];
const NAMES: [&str; 3] = ["a", "b", "c"];

/// A document: a Service (address, port), or a slice of one, by indexes into small sets, so that they collide.
#[derive(Clone, Debug)]
enum Item {
    Service { name: usize, address: usize, port: u16 },
    Slice { name: usize, service: usize, endpoints: u8 },
    Headless { name: usize },
}

#[derive(Clone, Debug)]
enum Step {
    Write { file: usize, items: Vec<Item> },
    Break { file: usize, how: usize },
    Remove { file: usize },
    Pass { wait_ms: u64, announced: Announced },
}

/// What the kernel announces of what happened since the last pass.
#[derive(Clone, Copy, Debug)]
enum Announced {
    Nothing,
    /// Each file that was written, and that files came or went.
    Files,
    DataLink,
}

fn render(items: &[Item]) -> String {
    let mut text = "apiVersion: v1\nkind: List\nitems: []\n".to_owned();
    for item in items {
        text.push_str("---\n");
        text.push_str(&match item {
            Item::Service { name, address, port } => format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: {}, annotations: {{clustermesh.io/global: \"true\"}}}}\n\
                 spec: {{clusterIPs: [10.96.0.{address}], ports: [{{port: {port}}}]}}\n",
                NAMES[*name]
            ),
            Item::Slice { name, service, endpoints } => {
                let endpoints: Vec<_> = (1..=*endpoints).map(|n| format!("{{addresses: [10.1.0.{n}]}}")).collect();
                format!(
                    "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
                     metadata: {{name: s-{name}, labels: {{kubernetes.io/service-name: {}}}}}\n\
                     ports: [{{port: 80}}]\nendpoints: [{}]\n",
                    NAMES[*service],
                    endpoints.join(", ")
                )
            }
            Item::Headless { name } => format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: {}, annotations: {{clustermesh.io/global: \"true\"}}}}\n\
                 spec: {{clusterIP: None}}\n",
                NAMES[*name]
            ),
        });
    }
    text
}

const ANNOUNCED: &[Announced] =
    &[Announced::Nothing, Announced::Files, Announced::Files, Announced::DataLink];

const BROKEN: [&str; 5] = ["", "kind: [", "---\n", "apiVersion: v1\nkind: Service\n", "\u{0}"];

fn item() -> impl Strategy<Value = Item> {
    prop_oneof![
        4 => (0..3usize, 1..4usize, 80..82u16)
            .prop_map(|(name, address, port)| Item::Service { name, address, port }),
        4 => (0..3usize, 0..3usize, 0..3u8)
            .prop_map(|(name, service, endpoints)| Item::Slice { name, service, endpoints }),
        1 => (0..3usize).prop_map(|name| Item::Headless { name }),
    ]
}

fn items() -> impl Strategy<Value = Vec<Item>> {
    prop::collection::vec(item(), 0..4)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..3usize, items()).prop_map(|(file, items)| Step::Write { file, items }),
        1 => (0..3usize, 0..BROKEN.len()).prop_map(|(file, how)| Step::Break { file, how }),
        1 => (0..3usize).prop_map(|file| Step::Remove { file }),
        4 => (0..400u64, prop::sample::select(ANNOUNCED))
            .prop_map(|(wait_ms, announced)| Step::Pass { wait_ms, announced }),
    ]
}

struct Bench {
    reader: Reader,
    start: Now,
    passed: Duration,
    snapshot: Option<ClusterSnapshot>,
    /// Since the last pass.
    happened: Hints,
}

impl Bench {
    fn new(folder: &Path) -> Self {
        let reader = Reader::new(folder, SourceMetrics::unregistered());
        Self {
            reader,
            start: Now::read(),
            passed: Duration::ZERO,
            snapshot: None,
            happened: Hints::default(),
        }
    }

    fn write(&mut self, file: usize, text: &str) {
        let path = self.reader.folder().join(FILES[file]);
        self.happened.elsewhere |= !path.exists();
        self.happened.whole.insert(FILES[file].into());
        fs::write(path, text).unwrap();
    }

    fn remove(&mut self, file: usize) {
        self.happened.elsewhere = true;
        drop(fs::remove_file(self.reader.folder().join(FILES[file])));
    }

    fn pass(&mut self, wait: Duration, announced: Announced) {
        self.passed += wait;
        let happened = std::mem::take(&mut self.happened);
        let hints = match announced {
            Announced::Nothing => Hints::default(),
            Announced::Files => happened,
            Announced::DataLink => Hints { all_whole: true, ..Hints::default() },
        };
        let now = Now { monotonic: self.start.monotonic + self.passed, wall: self.start.wall + self.passed };
        let pass = self.reader.pass(&hints, now);
        self.snapshot = pass.snapshot.or(self.snapshot.take());
    }

    fn settle(&mut self) {
        for _ in 0..3 {
            self.pass(Duration::from_secs(5), Announced::Nothing);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn the_way_does_not_matter(steps in prop::collection::vec(step(), 0..24), last in prop::collection::vec(items(), 3)) {
        let dir = tempfile::tempdir().unwrap();
        let mut bench = Bench::new(dir.path());
        for step in &steps {
            match step {
                Step::Write { file, items } => bench.write(*file, &render(items)),
                Step::Break { file, how } => bench.write(*file, BROKEN[*how]),
                Step::Remove { file } => bench.remove(*file),
                Step::Pass { wait_ms, announced } => bench.pass(Duration::from_millis(*wait_ms), *announced),
            }
        }
        for (file, items) in last.iter().enumerate() {
            bench.write(file, &render(items));
        }
        bench.settle();
        let mut fresh = Bench::new(dir.path());
        fresh.settle();
        prop_assert!(fresh.snapshot.is_some());
        prop_assert_eq!(&bench.snapshot, &fresh.snapshot);
        prop_assert_eq!(&bench.reader.status().problems, &fresh.reader.status().problems);
    }

    #[test]
    fn bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), json in any::<bool>()) {
        let text = String::from_utf8_lossy(&bytes);
        super::document::documents(&text, json);
    }

    #[test]
    fn mangled_manifests_never_panic(items in items(), at in 0..1000usize, junk in "[\\[\\]{}:&*!|>'\"%@`#,?\\-\t\n a0]{0,8}") {
        let mut text = render(&items);
        let at = at % (text.len() + 1);
        text.insert_str(at, &junk);
        super::document::documents(&text, false);
    }
}
