//! What is written is what is read: any peer file, as text and through a folder.
#![allow(clippy::unwrap_used, reason = "a test ends there")]

use std::sync::{Arc, LazyLock};

use ipnet::IpNet;
use mesh_kv::EtcdEndpoint;
use mesh_kv::testing::Ca;
use mesh_model::address_policy::{PeerRanges, Ranges};
use mesh_model::name::{ClusterId, ClusterName};
use mesh_peers::write::{WriteError, write};
use mesh_peers::{PeerFile, folder};
use proptest::collection::vec;
use proptest::prelude::*;

static ROOTS: LazyLock<[String; 2]> =
    LazyLock::new(|| ["hoth", "yavin"].map(|name| Ca::new(name).pem().to_owned()));

fn endpoints(secure: bool) -> impl Strategy<Value = Vec<EtcdEndpoint>> {
    let host = prop_oneof![
        "[a-z][a-z0-9-]{0,20}(\\.[a-z][a-z0-9]{0,9}){0,2}",
        any::<std::net::Ipv4Addr>().prop_map(|it| it.to_string()),
        any::<std::net::Ipv6Addr>().prop_map(|it| format!("[{it}]")),
    ];
    let scheme = if secure { "https" } else { "http" };
    let endpoint = (host, 1..=u16::MAX)
        .prop_map(move |(host, port)| format!("{scheme}://{host}:{port}").parse().expect("an endpoint"));
    let unlike = |endpoints: &Vec<EtcdEndpoint>| {
        (1..endpoints.len()).all(|at| !endpoints[..at].contains(&endpoints[at]))
    };
    vec(endpoint, 1..4).prop_filter("none stands twice", unlike)
}

fn range() -> impl Strategy<Value = IpNet> {
    (any::<std::net::IpAddr>(), 0..=128_u8).prop_map(|(address, length)| {
        let length = if address.is_ipv4() { length % 33 } else { length };
        IpNet::new(address, length).expect("a length").trunc()
    })
}

fn ranges() -> impl Strategy<Value = PeerRanges> {
    let agreed = (vec(range(), 0..4), vec(range(), 0..4))
        .prop_filter("one at least", |(pods, nodes)| !pods.is_empty() || !nodes.is_empty())
        .prop_map(|(pods, nodes)| PeerRanges::Agreed(Ranges { pods, nodes }));
    prop_oneof![1 => Just(PeerRanges::DECLARED), 4 => agreed]
}

/// One root or two, with text around them as tools write it.
fn trust() -> impl Strategy<Value = Arc<str>> {
    let around = "(# [ -~]{0,40}\n|\n)?";
    (around, 1..=2_usize, "\n?")
        .prop_map(|(before, roots, behind)| Arc::from(format!("{before}{}{behind}", ROOTS[..roots].concat())))
}

fn file() -> impl Strategy<Value = PeerFile> {
    let reached = prop_oneof![
        (endpoints(false), proptest::option::of(trust())),
        (endpoints(true), trust().prop_map(Some)),
    ];
    ("[a-z]([a-z0-9-]{0,61}[a-z0-9])?", 1..=4095_u64, reached, ranges()).prop_map(
        |(name, id, (endpoints, trust), ranges)| PeerFile {
            name: ClusterName::new(&name).expect("a name"),
            id: ClusterId::new(id).expect("an id"),
            endpoints,
            ranges,
            trust,
        },
    )
}

proptest! {
    #[test]
    fn the_text_of_a_file_says_the_same(file in file()) {
        let text = file.text();
        let read = PeerFile::parse(&file.name, "x.yaml", &text);
        prop_assert_eq!(read.as_ref(), Ok(&file), "{}", text);
    }
}

fn own() -> (ClusterName, ClusterId) {
    (ClusterName::new("tatooine").unwrap(), ClusterId::new(4095).unwrap())
}

fn hoth(id: u16) -> PeerFile {
    let text = format!("id: {id}\nendpoints: [\"http://10.2.0.1:2379\"]\nranges: {{pods: [10.2.0.0/16]}}\n");
    PeerFile::parse(&ClusterName::new("hoth").unwrap(), "hoth.yaml", &text).unwrap()
}

#[test]
fn what_is_written_into_a_folder_is_read_there_and_replaces_what_was() {
    let dir = tempfile::tempdir().unwrap();
    let (name, id) = own();
    for file in [hoth(2), hoth(3)] {
        assert_eq!(write(dir.path(), &file).unwrap(), dir.path().join("hoth.yaml"));
        let reading = folder::read(dir.path(), &name, id);
        assert!(reading.problem.is_none() && reading.misnamed.is_empty());
        assert_eq!(reading.peers.into_values().collect::<Vec<_>>(), [Ok(file)]);
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
}

#[test]
fn what_is_not_written_is_named_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let error = write(&dir.path().join("nowhere"), &hoth(2)).unwrap_err();
    assert!(
        matches!(&error, WriteError::Write { .. }) && error.to_string().contains("is its folder there"),
        "{error}"
    );
    // A reader would refuse both.
    std::fs::write(dir.path().join("hoth.json"), "{}").unwrap();
    let error = write(dir.path(), &hoth(2)).unwrap_err();
    assert!(matches!(&error, WriteError::Other { .. }) && error.to_string().contains("hoth.json"), "{error}");
    assert!(!dir.path().join("hoth.yaml").exists());
}
