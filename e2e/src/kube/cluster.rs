//! One cluster of the lab: its network, its control plane and its nodes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::access;
use super::assets::Assets;
use super::audit;
use super::control::{Control, Part};
use super::hierarchy::Hierarchies;
use super::kubectl::Context;
use super::node::Identity;
use super::pki::Pki;
use super::spec::KubeSpec;
use crate::agent_api::AgentApi;
use crate::lab::address::Plan;
use crate::lab::lab_dir::LabDir;
use crate::lab::link::{self, Way};
use crate::lab::netns::Netns;
use crate::lab::process::{Launch, Process, Program};
use crate::wait;

/// Shared by all clusters of a lab.
#[derive(Clone, Debug)]
pub(super) struct Testbed {
    pub(super) lab_dir: Arc<LabDir>,
    pub(super) spec: KubeSpec,
    pub(super) assets: Assets,
    pub(super) plans: Vec<Plan>,
    pub(super) hierarchies: Hierarchies,
}

#[derive(Debug)]
pub struct KubeCluster {
    name: String,
    plan: Plan,
    testbed: Arc<Testbed>,
    router: Netns,
    control_netns: Netns,
    control: Control,
    nodes: Vec<Identity>,
    /// By name. Empty in a lab that was adopted, but for what was started since.
    processes: BTreeMap<String, Process>,
}

impl KubeCluster {
    /// The cluster as it would be, or is; makes nothing.
    pub(super) fn plan(testbed: &Arc<Testbed>, name: &str, plan: Plan) -> Result<Self> {
        let lab_dir = &testbed.lab_dir;
        let folder = lab_dir.path().join(name);
        let control_netns = Netns::named(lab_dir, &format!("{name}.control"));
        let cgroup = lab_dir.cgroup()?.child(name);
        let control = Control {
            cluster: name.into(),
            plan,
            spec: testbed.spec.clone(),
            assets: testbed.assets.clone(),
            folder: folder.clone(),
            netns: control_netns.name().into(),
            cgroup: cgroup.child("control"),
        };
        let node = |number| {
            let label = format!("n{number}");
            let netns = Netns::named(lab_dir, &format!("{name}.{label}"));
            Identity {
                name: format!("{name}-{label}"),
                number,
                plan,
                spec: testbed.spec.clone(),
                folder: folder.join(&label),
                access: folder.clone(),
                programs: testbed.assets.kubernetes.clone(),
                images: lab_dir.path().join("images"),
                netns: netns.name().into(),
                cgroup: cgroup.child(&label),
                hierarchies: testbed.hierarchies.clone(),
            }
        };
        Ok(Self {
            name: name.into(),
            plan,
            testbed: testbed.clone(),
            router: Netns::named(lab_dir, &format!("{name}.router")),
            control_netns,
            control,
            nodes: (1..=testbed.spec.nodes_per_cluster).map(node).collect(),
            processes: BTreeMap::new(),
        })
    }

    pub(super) fn testbed(&self) -> &Arc<Testbed> {
        &self.testbed
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its ranges and addresses; the index is the cluster id.
    pub fn address_plan(&self) -> Plan {
        self.plan
    }

    /// The names of its nodes, the first one first.
    pub fn nodes(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.name.clone()).collect()
    }

    /// How the host talks to it.
    pub fn context(&self) -> Context {
        Context::new(&self.testbed.lab_dir.path().join("kubeconfig"), &self.name)
    }

    /// An admin's kubeconfig for use within the cluster's network, and the namespace of the control plane.
    pub(crate) fn inside(&self) -> (PathBuf, String) {
        (access::kubeconfig(&self.control.folder, "admin"), self.control.netns.clone())
    }

    fn others(&self) -> Vec<Plan> {
        self.testbed.plans.iter().copied().filter(|plan| *plan != self.plan).collect()
    }

    /// Makes namespaces and links.
    pub(super) fn wire(&self, wan: &Netns) -> Result<()> {
        let (lab_dir, plan, others) = (&self.testbed.lab_dir, self.plan, self.others());
        let create = |label: &str| Netns::create(lab_dir, &format!("{}.{label}", self.name));
        let router = Netns::create_router(lab_dir, &format!("{}.router", self.name))?;
        router.ip(&link::router(plan, wan.name(), &others))?;
        wan.ip(&link::wan(plan))?;
        let control = create("control")?;
        router.ip(&link::plug("control", control.name()))?;
        control.ip(&link::lan_member(plan.control(), plan, &others))?;
        for node in &self.nodes {
            let netns = Netns::create_router(lab_dir, &format!("{}.n{}", self.name, node.number))?;
            router.ip(&link::plug(&node.link(), netns.name()))?;
            let address = plan.node(node.number);
            let mut commands = link::lan_member(address, plan, &others);
            // Without some route a connect to a ClusterIP fails before kube-proxy's rules see it.
            let services = plan.services().into_iter().zip(address);
            commands.extend(services.map(|(range, from)| format!("route add {range} dev eth0 src {from}")));
            netns.ip(&commands)?;
            router.ip(&link::router_to_node(plan, node.number))?;
        }
        Ok(())
    }

    /// Starts everything that needs no answer of anything else.
    pub(super) fn start(&mut self) -> Result<()> {
        let folder = self.control.folder.clone();
        Pki(folder.clone()).make(&self.name, self.control.server_names())?;
        self.control.write_audit_policy()?;
        access::write(&folder, &self.name, self.control.server(), &access::users(&self.nodes()))?;
        for part in Part::FIRST {
            self.start_part(part)?;
        }
        self.start_gate()?;
        for node in self.nodes.clone() {
            node.furnish(&self.testbed.plans)?;
            self.run(&node.launch()?)?;
        }
        Ok(())
    }

    fn run(&mut self, launch: &Launch) -> Result<()> {
        let process = launch.start(&self.testbed.lab_dir)?;
        // The process before has been killed; dropping it takes its zombie away.
        self.processes.insert(launch.name.clone(), process);
        Ok(())
    }

    fn start_gate(&mut self) -> Result<()> {
        let args = [
            "gate".to_owned(),
            format!("--listen-in=/proc/{}/ns/net", std::process::id()),
            format!("--to={}", self.control.server()),
            format!("--say={}", self.gate_file().display()),
        ];
        self.run(&Launch {
            name: format!("{}.gate", self.name),
            program: Program::Ours("kube"),
            args: args.to_vec(),
            netns: self.control_netns.name().into(),
            cgroup: self.testbed.lab_dir.cgroup()?.child("gates").child(&self.name),
        })
    }

    fn gate_file(&self) -> PathBuf {
        self.control.folder.join("gate")
    }

    /// Where the host finds the API server, and the folder of its CA.
    pub(super) fn gate(&self) -> Result<(String, SocketAddr, PathBuf)> {
        let file = self.gate_file();
        let address = wait::until(&format!("the gate of {}", self.name), Duration::from_secs(20), || {
            Ok(std::fs::read_to_string(&file)?.parse::<SocketAddr>()?)
        })?;
        Ok((self.name.clone(), address, self.control.folder.clone()))
    }

    /// Starts a part of the control plane.
    pub fn start_part(&mut self, part: Part) -> Result<()> {
        self.run(&self.control.launch(part))
    }

    /// Kills a part of the control plane.
    pub fn kill_part(&mut self, part: Part) -> Result<()> {
        self.control.cgroup_of(part).kill()?;
        self.processes.remove(&self.control.launch(part).name);
        Ok(())
    }

    /// `etcdctl` on the etcd of this Kubernetes; gives what it printed.
    pub fn etcdctl(&self, args: &[&str]) -> Result<String> {
        let mut command = self.control.etcdctl(args)?;
        let output = command.output().context("starting etcdctl")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "etcdctl {}: {}", args.join(" "), complaint.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The mesh's requests to the API server so far.
    pub fn requests_of_the_mesh(&self) -> Result<Vec<audit::Request>> {
        audit::read(&self.control.audit_log())
    }

    /// Waits until the API server says that it is ready.
    pub fn wait_api(&mut self, patience: Duration) -> Result<()> {
        let context = self.context();
        let what = format!("the API server of {} to be ready", self.name);
        let processes = &mut self.processes;
        let alive = || processes.values_mut().try_for_each(Process::check);
        let ready = || context.kubectl(&["get", "--raw", "/readyz", "--request-timeout=2s"]).map(drop);
        wait::until_or(&what, patience, alive, ready)
    }

    /// Starts what needs the API server.
    pub(super) fn go_on(&mut self) -> Result<()> {
        for part in Part::SECOND {
            self.start_part(part)?;
        }
        let nodes: Vec<_> = self.nodes.iter().map(|node| self.node_object(node)).collect();
        self.context().apply(&json!({"apiVersion": "v1", "kind": "List", "items": nodes}).to_string())?;
        self.nodes.iter().try_for_each(Identity::release)
    }

    fn node_object(&self, node: &Identity) -> serde_json::Value {
        let families = self.testbed.spec.families();
        let ranges: Vec<_> = self.plan.node_pods(node.number).into_iter().take(families).collect();
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": node.name, "labels": {"kubernetes.io/hostname": node.name}},
            "spec": {"podCIDR": ranges[0], "podCIDRs": ranges},
        })
    }

    /// Waits until all nodes are Ready.
    pub fn wait_nodes(&self, patience: Duration) -> Result<()> {
        let names: Vec<_> = self.nodes.iter().map(|node| format!("node/{}", node.name)).collect();
        let mut args = vec!["wait", "--for=condition=Ready"];
        args.extend(names.iter().map(String::as_str));
        let timeout = format!("--timeout={}s", patience.as_secs());
        args.push(&timeout);
        self.context().kubectl(&args).map(drop)
    }

    fn node(&self, name: &str) -> Result<&Identity> {
        let found = self.nodes.iter().find(|node| node.name == name);
        found.with_context(|| format!("cluster {} has no node {name}", self.name))
    }

    /// Pulls the plug of a node: it is off the network at once, and everything on it is killed.
    pub fn power_off_node(&mut self, name: &str) -> Result<()> {
        let node = self.node(name)?.clone();
        self.router.ip(&[format!("link set {} down", node.link())])?;
        node.kill()?;
        self.processes.remove(&node.launch_name());
        Ok(())
    }

    /// Switches a node on again; what it had on disk is there.
    pub fn power_on_node(&mut self, name: &str) -> Result<()> {
        let node = self.node(name)?.clone();
        self.router.ip(&[format!("link set {} up", node.link())])?;
        let launch = node.launch()?;
        self.run(&launch)
    }

    /// Pulls the plug of everything.
    pub fn power_off(&mut self) -> Result<()> {
        self.router.ip(&["link set wan down".into(), "link set control down".into()])?;
        for part in Part::FIRST.into_iter().chain(Part::SECOND) {
            self.kill_part(part)?;
        }
        self.nodes().iter().try_for_each(|name| self.power_off_node(name))
    }

    /// Switches everything on again; waits until the nodes are Ready.
    pub fn power_on(&mut self, patience: Duration) -> Result<()> {
        self.router.ip(&["link set wan up".into(), "link set control up".into()])?;
        Part::FIRST.into_iter().try_for_each(|part| self.start_part(part))?;
        self.wait_api(patience)?;
        Part::SECOND.into_iter().try_for_each(|part| self.start_part(part))?;
        self.nodes().iter().try_for_each(|name| self.power_on_node(name))?;
        self.wait_nodes(patience)
    }

    /// A node's root, as the host sees it; it must be switched on.
    pub(crate) fn node_root(&self, name: &str) -> Result<PathBuf> {
        Ok(format!("/proc/{}/root", self.node(name)?.first_process()?).into())
    }

    /// The chart's agents of all nodes.
    pub fn agents(&self) -> Result<Vec<AgentApi>> {
        self.nodes()
            .into_iter()
            .map(|node| Ok(AgentApi::below(node.clone(), &self.node_root(&node)?)))
            .collect()
    }

    /// All processes of a node, those of its pods among them, as the host numbers them.
    pub(crate) fn processes_on_node(&self, name: &str) -> Result<Vec<u32>> {
        self.node(name)?.cgroup.all_processes()
    }

    /// A command on a node: in its namespaces and its cgroup.
    pub fn on_node(&self, name: &str, args: &[&str]) -> Result<std::process::Command> {
        self.node(name)?.inside(args)
    }

    /// Runs a command on a node and gives what it printed.
    pub fn run_on_node(&self, name: &str, args: &[&str]) -> Result<String> {
        let output = self.on_node(name, args)?.output().context("starting a command on a node")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} on {name}: {}", args.join(" "), complaint.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    pub(super) fn turn(&self, way: Way, peer: Plan) -> Result<()> {
        self.router.ip(&link::turn(way, peer))
    }

    /// Fails when something that should run does not.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.processes.values_mut().try_for_each(Process::check)
    }

    /// Leaves its processes to themselves.
    pub(super) fn abandon(&mut self) {
        std::mem::take(&mut self.processes).into_values().for_each(Process::abandon);
    }
}
