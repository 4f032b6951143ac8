//! The rules for bad input, on real files, with the time given; at the end, the running task.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use mesh_model::name::ServiceName;
use mesh_model::snapshot::{Service, Slice};
use mesh_model::table::Knowledge;
use tempfile::TempDir;

use super::*;
use crate::status::{Problem, Reason};

/// A folder and its reader, at a time of its own.
pub(super) struct Bench {
    pub(super) dir: TempDir,
    reader: Reader,
    start: Now,
    passed: Duration,
    pub(super) snapshot: Option<ClusterSnapshot>,
    origins: Origins,
    pub(super) metrics: SourceMetrics,
}

impl Bench {
    pub(super) fn new() -> Self {
        let (dir, metrics) = (tempfile::tempdir().unwrap(), SourceMetrics::unregistered());
        let reader = Reader::new(dir.path(), metrics.clone());
        Self {
            dir,
            reader,
            start: Now::read(),
            passed: Duration::ZERO,
            snapshot: None,
            origins: Origins::new(),
            metrics,
        }
    }

    /// With a reader that takes ClusterIPs of this range only.
    pub(super) fn within(range: &str) -> Self {
        let mut bench = Self::new();
        bench.reader.confine(vec![range.parse().unwrap()]);
        bench
    }

    pub(super) fn with(files: &[(&str, &str)]) -> Self {
        let mut bench = Self::new();
        for (name, text) in files {
            bench.write(name, text);
        }
        bench.settle();
        bench
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// One pass, so long after the one before. Returns whether it brought a new snapshot.
    pub(super) fn pass_after(&mut self, wait: Duration, hints: &Hints) -> bool {
        self.passed += wait;
        let now = Now { monotonic: self.start.monotonic + self.passed, wall: self.start.wall + self.passed };
        let pass = self.reader.pass(hints, now);
        let new = pass.snapshot.is_some();
        self.snapshot = pass.snapshot.or(self.snapshot.take());
        self.origins = pass.origins.unwrap_or(std::mem::take(&mut self.origins));
        new
    }

    /// Another process goes on, with what this one remembered or without.
    pub(super) fn restart(&mut self, remembers: bool) {
        self.metrics = SourceMetrics::unregistered();
        self.reader = Reader::new(self.dir.path(), self.metrics.clone());
        let snapshot = Arc::new(self.snapshot.take().unwrap_or_default());
        if remembers {
            let origins = Arc::new(self.origins.clone());
            self.reader.remember(&Known::new(snapshot, origins));
        }
    }

    /// Passes until nothing is pending.
    pub(super) fn settle(&mut self) {
        for _ in 0..3 {
            self.pass_after(Duration::from_secs(5), &Hints::default());
        }
    }

    pub(super) fn change(&mut self, name: &str, text: &str) {
        self.write(name, text);
        self.settle();
    }

    pub(super) fn services(&self) -> Vec<&str> {
        let snapshot = self.snapshot.as_ref().expect("a snapshot was published");
        snapshot.services.keys().map(ServiceName::as_str).collect()
    }

    pub(super) fn service(&self, name: &str) -> &Arc<Service> {
        &self.snapshot.as_ref().unwrap().services[&name.parse::<ServiceName>().unwrap()]
    }

    pub(super) fn problems(&self) -> &[Problem] {
        &self.reader.status().problems
    }

    pub(super) fn reader_knowledge(&self) -> Knowledge {
        self.reader.status().knowledge
    }

    pub(super) fn reasons(&self) -> Vec<Reason> {
        self.problems().iter().map(|problem| problem.reason).collect()
    }

    fn rejections(&self, reason: Reason) -> u64 {
        self.metrics.rejections(reason).get()
    }
}

pub(super) fn service(name: &str, ip: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, annotations: {{clustermesh.io/global: \"true\"}}}}
spec: {{clusterIPs: [{ip}], ports: [{{name: http, port: 80}}]}}
"
    )
}

pub(super) fn slice(service: &str, addresses: &[&str]) -> String {
    let endpoints: String =
        addresses.iter().map(|address| format!("- {{addresses: [{address}]}}\n")).collect();
    format!(
        "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {service}-1, labels: {{kubernetes.io/service-name: {service}}}}}
addressType: IPv4
ports: [{{name: http, port: 8080}}]
endpoints:
{endpoints}"
    )
}

/// A Service with a slice.
pub(super) fn app(name: &str, ip: &str, endpoint: &str) -> String {
    service(name, ip) + &slice(name, &[endpoint])
}

pub(super) const A: (&str, &str, &str) = ("a", "10.96.0.1", "10.1.0.1");
pub(super) const B: (&str, &str, &str) = ("b", "10.96.0.2", "10.1.0.2");

pub(super) fn app_a() -> String {
    app(A.0, A.1, A.2)
}

pub(super) fn app_b() -> String {
    app(B.0, B.1, B.2)
}

#[test]
fn services_with_slices_make_a_snapshot() {
    let bench = Bench::with(&[("a.yaml", &app_a()), ("b.yml", &app_b())]);
    assert_eq!(bench.services(), ["default/a", "default/b"]);
    let slice: &Slice = bench.service("default/a").slices.values().next().unwrap();
    assert_eq!(slice.endpoints[0].address, A.2.parse().unwrap());
    assert_eq!(bench.problems(), []);
    assert_eq!(bench.reader.status().knowledge, Knowledge::Complete);
}

#[test]
fn broken_yaml_keeps_the_last_good_objects() {
    let mut bench = Bench::with(&[("a.yaml", &app_a()), ("b.yaml", &app_b())]);
    bench.change("a.yaml", "apiVersion: [v1\nkind: Service\n");
    assert_eq!(bench.services(), ["default/a", "default/b"]);
    assert_eq!(bench.reasons(), [Reason::Syntax]);
    assert_eq!(bench.problems()[0].file, "a.yaml");
    assert_eq!(bench.reader.status().knowledge, Knowledge::Complete);
    bench.change("a.yaml", "apiVersion: v1\nkind: List\nitems: []\n");
    assert_eq!(
        bench.services(),
        ["default/b"],
        "a good file that doesn't hold it any more says that it is gone"
    );
    assert_eq!(bench.problems(), []);
}

#[test]
fn one_bad_document_among_good_ones_leaves_the_good_ones() {
    let text = format!("{}---\nkind: [\n{}", app_a(), app_b());
    let mut bench = Bench::with(&[("all.yaml", &text)]);
    assert_eq!(bench.services(), ["default/a", "default/b"]);
    assert_eq!(bench.problems()[0].place, "document 3");
    assert_eq!(bench.reader.status().knowledge, Knowledge::Partial, "nobody knows what that document was");
    let better = app("a", A.1, "10.1.0.9") + "---\nkind: [\n";
    bench.change("all.yaml", &better);
    assert_eq!(bench.services(), ["default/a", "default/b"], "the bad document may be what was b");
    let slice = bench.service("default/a").slices.values().next().unwrap();
    assert_eq!(slice.endpoints[0].address.to_string(), "10.1.0.9", "the good one counts");
}

#[test]
fn a_bad_object_keeps_its_last_good_value() {
    let mut bench = Bench::with(&[("a.yaml", &(app_a() + &app_b()))]);
    let text = app_a().replace("port: 80,", "port: 0,").replace("port: 80}]}", "port: 0}]}") + &app_b();
    bench.change("a.yaml", &text);
    assert_eq!(bench.services(), ["default/a", "default/b"]);
    assert_eq!(bench.service("default/a").ports[0].port, 80);
    assert_eq!(bench.reasons(), [Reason::Service]);
}

#[test]
fn an_unknown_annotation_value_is_told_and_means_the_default() {
    let text = app_a().replace("global: \"true\"", "global: \"true\", clustermesh.io/affinity: near");
    let bench = Bench::with(&[("a.yaml", &text)]);
    assert_eq!(bench.services(), ["default/a"]);
    assert_eq!(bench.reasons(), [Reason::Annotation]);
    assert_eq!(bench.rejections(Reason::Annotation), 1);
}

#[test]
fn a_service_without_a_cluster_ip_is_rejected() {
    let text = app_a().replace("clusterIPs: [10.96.0.1], ", "") + &app_b();
    let bench = Bench::with(&[("a.yaml", &text)]);
    assert_eq!(bench.services(), ["default/b"]);
    let problem = &bench.problems()[0];
    assert_eq!((problem.reason, problem.object.as_str()), (Reason::NoClusterIp, "Service default/a"));
    assert!(problem.message.contains("spec.clusterIPs"), "{problem}");
}

#[test]
fn a_service_that_becomes_headless_goes_and_is_told() {
    let mut bench = Bench::with(&[("a.yaml", &(app_a() + &app_b()))]);
    bench.change("a.yaml", &(app_a().replace("clusterIPs: [10.96.0.1]", "clusterIP: None") + &app_b()));
    assert_eq!(bench.services(), ["default/b"]);
    assert_eq!(bench.reasons(), [Reason::Headless]);
}

#[test]
fn a_service_without_slices_counts_and_is_told() {
    let bench = Bench::with(&[("a.yaml", &service(A.0, A.1))]);
    assert_eq!(bench.services(), ["default/a"]);
    assert_eq!(bench.reasons(), [Reason::NoSlices]);
    assert_eq!(
        (bench.problems()[0].file.as_str(), bench.problems()[0].place.as_str()),
        ("a.yaml", "document 1")
    );
}

#[test]
fn slices_without_a_service_wait_for_it() {
    let mut bench = Bench::with(&[("b.yaml", &slice(A.0, &[A.2]))]);
    assert_eq!(bench.services(), [""; 0]);
    assert_eq!(bench.problems(), []);
    bench.change("a.yaml", &service(A.0, A.1));
    assert_eq!(bench.service("default/a").slices.len(), 1);
}

#[test]
fn of_duplicate_names_the_first_path_wins() {
    let second = app("a", "10.96.0.9", "10.1.0.9");
    let mut bench = Bench::with(&[("2.yaml", &second), ("1.yaml", &app_a())]);
    assert_eq!(bench.service("default/a").cluster_ips[0].to_string(), A.1);
    assert_eq!(bench.reasons(), [Reason::Duplicate, Reason::Duplicate]);
    let problem = &bench.problems()[0];
    assert!(problem.file == "2.yaml" && problem.message.contains("1.yaml"), "{problem}");
    fs::remove_file(bench.path("1.yaml")).unwrap();
    bench.settle();
    assert_eq!(bench.service("default/a").cluster_ips[0].to_string(), "10.96.0.9");
    assert_eq!(bench.problems(), []);
}

#[test]
fn of_two_services_with_one_address_the_first_wins() {
    let bench = Bench::with(&[("1.yaml", &app_a()), ("2.yaml", &app("b", A.1, B.2))]);
    assert_eq!(bench.services(), ["default/a"]);
    assert_eq!(bench.reasons(), [Reason::AddressTaken]);
    assert!(bench.problems()[0].message.contains("Service default/a"), "{}", bench.problems()[0]);
}

#[test]
fn a_file_truncated_and_rewritten_by_an_editor_is_never_seen_half() {
    let mut bench = Bench::with(&[("a.yaml", &(app_a() + &app_b()))]);
    let whole = Hints { whole: [std::ffi::OsString::from("a.yaml")].into(), ..Hints::default() };
    for half in ["", "---\napiVersion: v1\n", &app_a()] {
        bench.start = Now::read();
        bench.passed = Duration::ZERO;
        bench.write("a.yaml", half);
        assert!(!bench.pass_after(Duration::ZERO, &Hints::default()), "the writer was not done: {half:?}");
        assert_eq!(bench.services(), ["default/a", "default/b"]);
    }
    bench.write("a.yaml", &app("a", A.1, "10.1.0.9"));
    assert!(bench.pass_after(Duration::ZERO, &whole), "an announced file is read at once");
    assert_eq!(bench.services(), ["default/a"]);
    assert_eq!(bench.problems(), []);
}

#[test]
fn an_emptied_file_keeps_its_last_good_objects() {
    let mut bench = Bench::with(&[("a.yaml", &app_a()), ("b.yaml", &app_b())]);
    for empty in ["", "# nothing\n", "---\n---\n"] {
        bench.change("a.yaml", empty);
        assert_eq!(bench.services(), ["default/a", "default/b"]);
        assert_eq!(bench.reasons(), [Reason::FileEmpty]);
    }
    bench.change("a.yaml", &app_a());
    assert_eq!(bench.problems(), []);
}

#[test]
fn a_vanished_file_counts_as_deleted_after_200_ms() {
    let mut bench = Bench::with(&[("a.yaml", &app_a()), ("b.yaml", &app_b())]);
    fs::remove_file(bench.path("a.yaml")).unwrap();
    bench.pass_after(Duration::from_secs(1), &Hints::default());
    bench.pass_after(Duration::from_millis(199), &Hints::default());
    assert_eq!(bench.services(), ["default/a", "default/b"]);
    bench.pass_after(Duration::from_millis(1), &Hints::default());
    assert_eq!(bench.services(), ["default/b"]);
}

#[test]
fn a_removed_or_emptied_folder_keeps_everything() {
    let mut bench = Bench::with(&[("a.yaml", &app_a()), ("b.yaml", &app_b())]);
    fs::remove_file(bench.path("a.yaml")).unwrap();
    fs::remove_file(bench.path("b.yaml")).unwrap();
    bench.settle();
    assert_eq!(bench.services(), ["default/a", "default/b"]);
    assert_eq!(bench.reasons(), [Reason::FolderUnknown]);
    fs::remove_dir(bench.dir.path()).unwrap();
    bench.settle();
    assert_eq!(bench.services(), ["default/a", "default/b"]);
    fs::create_dir(bench.dir.path()).unwrap();
    bench.settle();
    assert_eq!(bench.services(), ["default/a", "default/b"]);
    bench.change("b.yaml", &app_b());
    assert_eq!(bench.services(), ["default/b"], "a folder that was filled again and left alone is knowledge");
    assert_eq!(bench.problems(), []);
}

#[test]
fn nothing_is_published_before_the_folder_says_something() {
    let mut bench = Bench::with(&[]);
    assert_eq!((bench.snapshot.is_none(), bench.reasons()), (true, vec![Reason::FolderUnknown]));
    assert_eq!(bench.problems()[0].file, bench.dir.path().display().to_string());
    bench.change("a.yaml", "");
    assert_eq!(
        (bench.snapshot.is_none(), bench.reasons()),
        (true, vec![Reason::FolderUnknown, Reason::FileEmpty])
    );
    bench.change("a.yaml", &app_a());
    assert_eq!(bench.services(), ["default/a"]);
    assert_eq!(bench.problems(), []);
}

#[test]
fn a_file_that_was_never_readable_makes_knowledge_partial() {
    let mut bench = Bench::with(&[("a.yaml", &app_a()), ("b.yaml", "kind: [")]);
    assert_eq!(bench.services(), ["default/a"]);
    assert_eq!(bench.reader.status().knowledge, Knowledge::Partial);
    bench.change("b.yaml", &app_b());
    assert_eq!(bench.reader.status().knowledge, Knowledge::Complete);
}

#[test]
fn swap_hidden_and_backup_files_are_ignored() {
    let other = app_b();
    let bench = Bench::with(&[
        ("a.yaml", &app_a()),
        (".a.yaml.swp", "\u{0}binary"),
        (".hidden.yaml", &other),
        ("a.yaml~", &other),
        ("4913", &other),
    ]);
    assert_eq!(bench.services(), ["default/a"]);
    assert_eq!(bench.problems(), []);
}

#[test]
fn a_file_over_8_mib_is_refused() {
    let mut bench = Bench::with(&[("a.yaml", &app_a()), ("b.yaml", &app_b())]);
    bench.change("a.yaml", &"# padding\n".repeat(900_000));
    assert_eq!(bench.services(), ["default/a", "default/b"]);
    assert_eq!(bench.reasons(), [Reason::FileTooLarge]);
}

#[test]
fn a_file_that_is_not_text_is_refused() {
    let mut bench = Bench::with(&[("a.yaml", &app_a()), ("b.yaml", &app_b())]);
    fs::write(bench.path("a.yaml"), [0xff, 0xfe, 0x00, 0xd8]).unwrap();
    bench.settle();
    assert_eq!(bench.services(), ["default/a", "default/b"]);
    assert_eq!(bench.reasons(), [Reason::Syntax]);
}

#[test]
fn a_problem_is_counted_once_per_change_not_per_pass() {
    let mut bench = Bench::with(&[("a.yaml", &app_a()), ("b.yaml", "kind: [")]);
    bench.settle();
    assert_eq!(bench.rejections(Reason::Syntax), 1);
    bench.change("b.yaml", &app_b());
    bench.change("b.yaml", "kind: [");
    assert_eq!(bench.rejections(Reason::Syntax), 2);
    assert_eq!(bench.metrics.problems(Reason::Syntax).get(), 1);
}

#[test]
fn unchanged_services_keep_their_identity() {
    let mut bench = Bench::with(&[("a.yaml", &app_a()), ("b.yaml", &app_b())]);
    let (a, b) = (bench.service("default/a").clone(), bench.service("default/b").clone());
    bench.change("b.yaml", &app("b", B.1, "10.1.0.9"));
    bench.change("a.yaml", &format!("# another comment\n{}", app_a()));
    assert!(Arc::ptr_eq(&a, bench.service("default/a")), "rewritten, but equal");
    assert!(!Arc::ptr_eq(&b, bench.service("default/b")));
}

#[test]
fn a_change_that_says_nothing_new_publishes_nothing() {
    let mut bench = Bench::with(&[("a.yaml", &app_a())]);
    bench.write("a.yaml", &format!("{}# a comment\n", app_a()));
    assert!(!bench.pass_after(Duration::from_secs(5), &Hints::default()));
}
