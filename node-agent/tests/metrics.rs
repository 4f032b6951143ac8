//! The document of metrics is complete and true.

mod document;

use std::time::Duration;

use mesh_model::address_policy::OwnRanges;
use mesh_model::name::{ClusterId, ClusterName};
use mesh_runtime::Supervisor;
use mesh_source::ranges::fixed;
use node_agent::admin::events::Events;
use node_agent::datapath::actual::Capacity;
use node_agent::metrics::Metrics;
use node_agent::peers::folder::{FolderConfig, PeerFolder};
use node_agent::quota::QuotaArgs;

const DEADLINE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn every_metric_is_documented_with_type_and_labels() {
    let (registry, metrics) = Metrics::register();
    // Series that come with a first object or problem of the source.
    metrics.source.count_objects(|_| 0);
    let reason = mesh_source::Reason::Syntax;
    drop((metrics.source.rejections(reason), metrics.source.problems(reason)));
    // Series that come with a first peer; nobody answers there.
    let folder = tempfile::tempdir().unwrap();
    let file = "id: 2\nendpoints: [\"http://127.0.0.1:1\"]\nranges: declared\n";
    std::fs::write(folder.path().join("yavin.yaml"), file).unwrap();
    let config = FolderConfig {
        folder: folder.path().into(),
        own_name: ClusterName::new("hoth").unwrap(),
        own_id: ClusterId::new(1).unwrap(),
        own_ranges: fixed(OwnRanges::default()),
        identity: None,
        remembered: Default::default(),
        local: None,
        quotas: QuotaArgs::default(),
        capacity: Capacity { services: 16, slots: 64, backends: 64, counters: 16 },
    };
    let mut supervisor = Supervisor::new("test", Default::default());
    let (peers, mut set) =
        PeerFolder::new(config, supervisor.child("peers"), Events::default(), metrics.peers);
    supervisor.spawn("peers", peers.run());
    let known = tokio::time::timeout(DEADLINE, set.wait_for(|set| !set.peers.is_empty())).await;
    drop(known.expect("the folder is read").unwrap());
    let text = registry.encode();
    // The text leaves families without series out; the registry's own dump shows them.
    let registered = format!("{registry:?}").matches("Descriptor { name: ").count();
    assert_eq!(registered, text.matches("# TYPE ").count(), "a family has no series:\n{text}");
    document::assert_documented(&text, &["Both binaries", "node-agent"]);
    supervisor.stop(DEADLINE).await.unwrap();
}
