//! The route script of the kind clusters, with network namespaces in place of kind's nodes.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_e2e::lab::lab_dir::LabDir;
use mesh_e2e::lab::netns::Netns;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kind/routes.sh");
const PATIENCE: Duration = Duration::from_secs(10);

/// Two clusters whose nodes share a link and nothing else.
struct Clusters {
    lab_dir: Arc<LabDir>,
    /// Node 1 and 2 of hoth, node 1 of yavin.
    nodes: Vec<Node>,
    _switch: Netns,
}

struct Node {
    netns: Netns,
    cluster: &'static str,
    pods: [IpAddr; 2],
}

impl Clusters {
    fn start() -> Result<Self> {
        let lab_dir = LabDir::claim(false)?;
        let switch = Netns::create(&lab_dir, "switch")?;
        switch.ip(&["link add br0 type bridge".into(), "link set br0 up".into()])?;
        let places = [("hoth", 1_u8, 1_u8), ("hoth", 1, 2), ("yavin", 2, 1)];
        let numbered = places.into_iter().zip(1_u8..);
        let nodes: Result<Vec<_>> =
            numbered.map(|(place, number)| Node::start(&lab_dir, &switch, place, number)).collect();
        let clusters = Self { nodes: nodes?, lab_dir, _switch: switch };
        clusters.write_kubectl("")?;
        Ok(clusters)
    }

    /// A kubectl that answers for the nodes; `missing` has no pod range yet.
    fn write_kubectl(&self, missing: &str) -> Result<()> {
        let lines = |cluster| {
            let nodes = self.nodes.iter().filter(move |node| node.cluster == cluster);
            nodes.map(|node| node.line(missing)).collect::<String>()
        };
        let script = format!(
            "#!/bin/sh\ncase $2 in\nkind-hoth) printf '{}' ;;\nkind-yavin) printf '{}' ;;\n*) exit 1 ;;\nesac\n",
            lines("hoth"),
            lines("yavin")
        );
        let path = self.lab_dir.path().join("kubectl");
        fs::write(&path, script).context("writing the kubectl")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context("making it a program")
    }

    fn route(&self) -> Result<Output> {
        Command::new(SCRIPT)
            .args(["hoth", "yavin"])
            .env("KUBECTL", self.lab_dir.path().join("kubectl"))
            .env("NODE_EXEC", "ip netns exec")
            .output()
            .context("starting the script")
    }
}

impl Drop for Clusters {
    fn drop(&mut self) {
        self.lab_dir.tear_down();
    }
}

impl Node {
    fn start(
        lab_dir: &Arc<LabDir>,
        switch: &Netns,
        (cluster, id, index): (&'static str, u8, u8),
        number: u8,
    ) -> Result<Self> {
        let netns = Netns::create_router(lab_dir, &format!("{cluster}-{index}"))?;
        switch.ip(&[
            format!("link add v{number} type veth peer name eth0 netns {}", netns.name()),
            format!("link set v{number} master br0 up"),
        ])?;
        let pods = [format!("10.{id}.{index}.7"), format!("fd10:0:{id}:{index}::7")];
        netns.ip(&[
            format!("addr add 172.18.0.{number}/16 dev eth0"),
            format!("addr add fc00:18::{number}/64 dev eth0 nodad"),
            "link set eth0 up".into(),
            // A pod is an address of its node here.
            format!("addr add {}/32 dev lo", pods[0]),
            format!("addr add {}/128 dev lo nodad", pods[1]),
        ])?;
        let [v4, v6] = pods;
        Ok(Self { netns, cluster, pods: [v4.parse()?, v6.parse()?] })
    }

    /// As kubectl prints it by the script's template.
    fn line(&self, missing: &str) -> String {
        let name = self.netns.name();
        let [id, index] = match self.pods[0] {
            IpAddr::V4(v4) => [v4.octets()[1], v4.octets()[2]],
            IpAddr::V6(_) => unreachable!("the first one is IPv4"),
        };
        let number = if self.cluster == "yavin" { 3 } else { index };
        let ranges = match name.ends_with(missing) && !missing.is_empty() {
            true => String::new(),
            false => format!("10.{id}.{index}.0/24 fd10:0:{id}:{index}::/64 "),
        };
        format!("{name}|172.18.0.{number} fc00:18::{number} |{ranges}\\n")
    }
}

/// Whether a pod of one node gets a byte from a pod of another.
fn reaches(from: &Node, to: &Node, family: usize) -> Result<bool> {
    let address = SocketAddr::new(to.pods[family], 0);
    let listener = to.netns.enter(move || TcpListener::bind(address).context("listening"))?;
    let target = listener.local_addr()?;
    let server =
        std::thread::spawn(move || listener.accept().and_then(|(mut stream, _)| stream.write_all(b"x")));
    let dialled = from.netns.enter(move || Ok(TcpStream::connect_timeout(&target, PATIENCE)))?;
    let Ok(mut stream) = dialled else {
        // Nobody else would wake the listener.
        to.netns.enter(move || Ok(TcpStream::connect_timeout(&target, PATIENCE)?))?;
        server.join().ok().context("the server panicked")??;
        return Ok(false);
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    server.join().ok().context("the server panicked")??;
    Ok(answer == *b"x")
}

#[test]
fn pods_of_both_clusters_and_families_reach_each_other_after_the_script() -> Result<()> {
    let clusters = Clusters::start()?;
    let [hoth_1, hoth_2, yavin_1] = clusters.nodes.as_slice() else { unreachable!("three nodes") };
    for family in [0, 1] {
        ensure!(!reaches(hoth_1, yavin_1, family)?, "there is a way without the script");
    }
    // The second run finds everything there already.
    for _ in 0..2 {
        let output = clusters.route()?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(said, "routes: 8 on nodes of hoth\nroutes: 4 on nodes of yavin\n");
    }
    let ways = [(hoth_1, hoth_2), (hoth_1, yavin_1), (hoth_2, yavin_1), (yavin_1, hoth_1), (yavin_1, hoth_2)];
    for (from, to) in ways {
        for family in [0, 1] {
            ensure!(reaches(from, to, family)?, "{} does not reach {:?}", from.netns.name(), to.pods);
        }
    }
    Ok(())
}

#[test]
fn a_node_without_a_pod_range_is_named_and_nothing_is_routed() -> Result<()> {
    let clusters = Clusters::start()?;
    clusters.write_kubectl("hoth-2")?;
    let output = clusters.route()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("not every node of hoth has an address and a pod range yet"), "{said}");
    let [hoth_1, _, yavin_1] = clusters.nodes.as_slice() else { unreachable!("three nodes") };
    ensure!(!reaches(hoth_1, yavin_1, 0)?, "routed all the same");
    Ok(())
}
