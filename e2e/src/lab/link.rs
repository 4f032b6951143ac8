//! The lab's wiring, as `ip` commands: a LAN per cluster, pods behind their nodes, a WAN between the routers.
//!
//! Pure: what it returns is run in the namespaces that it names. Routes cover pods and nodes only; ClusterIPs
//! and everything else have none, so that a packet to them goes nowhere.

use super::address::{Pair, Plan, with_length};

/// Commands that make the router's LAN and its link to the WAN; to be run in the router.
pub(crate) fn router(plan: Plan, wan: &str, peers: &[Plan]) -> Vec<String> {
    let mut commands = bridge("lan", plan.router(), 64);
    commands.push(format!("link add wan type veth peer name c{} netns {wan}", plan.index()));
    commands.extend(addresses("wan", plan.wan_router(), 30, 64));
    for peer in peers {
        commands.extend(via(&peer.pods(), plan.wan_hub()));
        commands.extend(via(&peer.nodes(), plan.wan_hub()));
    }
    commands
}

/// Commands for the WAN's end of a cluster's link; to be run in the WAN.
pub(crate) fn wan(plan: Plan) -> Vec<String> {
    let mut commands = addresses(&format!("c{}", plan.index()), plan.wan_hub(), 30, 64);
    commands.extend(via(&plan.pods(), plan.wan_router()));
    commands.extend(via(&plan.nodes(), plan.wan_router()));
    commands
}

/// Commands that plug `netns` into the router's LAN; to be run in the router.
pub(crate) fn plug(name: &str, netns: &str) -> Vec<String> {
    attach("lan", name, netns)
}

/// The way from the router to a node's pods; to be run in the router.
pub(crate) fn router_to_node(plan: Plan, node: u8) -> Vec<String> {
    via(&plan.node_pods(node), plan.node(node))
}

/// Commands for whoever is plugged into the LAN: its address, and the way to `others` through the router.
pub(crate) fn lan_member(address: Pair, plan: Plan, others: &[Plan]) -> Vec<String> {
    let mut commands = addresses("eth0", address, 24, 64);
    commands.extend(via(&plan.pods(), plan.router()));
    for other in others {
        commands.extend(via(&other.pods(), plan.router()));
        commands.extend(via(&other.nodes(), plan.router()));
    }
    commands
}

/// Commands that make a node's bridge for its pods; to be run in the node.
pub(crate) fn pod_bridge(plan: Plan, node: u8) -> Vec<String> {
    bridge("pods", plan.gateway(node), 64)
}

/// Commands that plug a pod into its node; to be run in the node.
pub(crate) fn plug_pod(slot: u8, netns: &str) -> Vec<String> {
    attach("pods", &pod_link(slot), netns)
}

/// The node's end of a pod's link.
pub(crate) fn pod_link(slot: u8) -> String {
    format!("p{slot}")
}

/// Commands for a pod: its address, and the way to all `plans` through its node.
pub(crate) fn pod(plan: Plan, node: u8, slot: u8, plans: &[Plan]) -> Vec<String> {
    let mut commands = addresses("eth0", plan.pod(node, slot), 24, 64);
    for other in plans {
        commands.extend(via(&other.pods(), plan.gateway(node)));
        commands.extend(via(&other.nodes(), plan.gateway(node)));
    }
    commands
}

/// Whether packets to a cluster go through or vanish without a word, as in a real partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Cut,
    Healed,
}

/// Commands that cut or restore the way from a router to `peer`; to be run in the router.
pub(crate) fn turn(way: Way, peer: Plan) -> Vec<String> {
    let ranges = [peer.pods(), peer.nodes()];
    ranges.iter().flatten().map(|range| blackhole(way, range)).collect()
}

/// The same for the way to `peer`'s control plane alone.
pub(crate) fn turn_control(way: Way, peer: Plan) -> Vec<String> {
    peer.control().iter().map(|address| blackhole(way, &address.to_string())).collect()
}

fn blackhole(way: Way, range: &str) -> String {
    let verb = if way == Way::Cut { "add" } else { "del" };
    // A lower metric than any other route to the range: it wins while it is there.
    format!("route {verb} blackhole {range} metric 1")
}

fn bridge(name: &str, address: Pair, v6: u8) -> Vec<String> {
    // A bridge without an address of its own takes a port's and changes it when ports come and go; neighbours that
    // know the old one would talk to nobody.
    let mut commands = vec![format!("link add {name} address 02:00:00:00:00:01 type bridge")];
    commands.extend(addresses(name, address, 24, v6));
    commands
}

fn attach(bridge: &str, link: &str, netns: &str) -> Vec<String> {
    vec![
        format!("link add {link} type veth peer name eth0 netns {netns}"),
        format!("link set {link} master {bridge} up"),
    ]
}

fn addresses(link: &str, pair: Pair, v4: u8, v6: u8) -> Vec<String> {
    let mut commands = vec![format!("link set {link} up")];
    for address in pair {
        let nodad = if address.is_ipv6() { " nodad" } else { "" };
        commands.push(format!("addr add {} dev {link}{nodad}", with_length(address, v4, v6)));
    }
    commands
}

fn via(ranges: &[String; 2], gateways: Pair) -> Vec<String> {
    // Metric 1024 is IPv6's default; said for both, so that a blackhole of metric 1 beats either.
    let pairs = ranges.iter().zip(gateways);
    pairs.map(|(range, gateway)| format!("route add {range} via {gateway} metric 1024")).collect()
}
