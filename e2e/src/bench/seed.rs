//! A datapath without an agent: programs on a cgroup, maps filled through the agent's own planner.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use mesh_model::desired::{BackendState, DesiredBackend, DesiredGroup, DesiredService, Frontend};
use mesh_model::name::{ClusterId, ServiceName};
use mesh_model::snapshot::Protocol;
use node_agent::datapath::actual::{Actual, Capacity};
use node_agent::datapath::apply::apply;
use node_agent::datapath::maps::{Maps, pin_dir};
use node_agent::datapath::programs::{Found, Installation};

use crate::lab::cgroup::Cgroup;

use super::agent::map_bytes;
use super::kernel;
use super::serve::ACCEPT_PORT;
use super::testbed::{Testbed, backend, frontend};

/// Room for more than any row asks for.
pub(crate) const CAPACITY: Capacity =
    Capacity { services: 262_144, slots: 2_097_152, backends: 1_048_576, counters: 1_048_576 };

/// Services in one plan, about as many as an agent takes: the kernel cannot allocate any number of elements in one go.
const PER_PLAN: usize = 1000;

/// Programs and maps on a cgroup of their own; gone with the testbed.
#[derive(Debug)]
pub(crate) struct Datapath {
    pub(crate) cgroup: Cgroup,
    maps: Box<Maps>,
    actual: Actual,
    bpffs: PathBuf,
    instance: String,
}

impl Datapath {
    pub(crate) fn install(testbed: &Testbed, instance: &str) -> Result<Self> {
        Self::install_with(testbed, instance, CAPACITY)
    }

    pub(crate) fn install_with(testbed: &Testbed, instance: &str, capacity: Capacity) -> Result<Self> {
        let cgroup = testbed.cgroup(instance)?;
        let bpffs = testbed.lab_dir.bpffs();
        let installation = Installation::new(&bpffs, instance, Some(cgroup.path()))?;
        let Found::Built { mut maps, old: None } = installation.maps(capacity)? else {
            bail!("instance {instance} is there already")
        };
        installation.attach(&mut maps)?;
        let actual = Actual::new(capacity);
        Ok(Self { cgroup, maps, actual, bpffs, instance: instance.into() })
    }

    /// The id of the program on `connect` of IPv4 sockets.
    pub(crate) fn connect4(&self) -> Result<u32> {
        kernel::program_of("mesh_connect4", &self.pins().join("SERVICES"))
    }

    /// The id of the program that runs when a socket is closed.
    pub(crate) fn release(&self) -> Result<u32> {
        kernel::program_of("mesh_release", &self.pins().join("SOCKETS"))
    }

    /// Bytes of kernel memory of all its maps.
    pub(crate) fn map_bytes(&self) -> Result<f64> {
        map_bytes(&self.pins())
    }

    fn pins(&self) -> PathBuf {
        pin_dir(&self.bpffs, &self.instance).join("maps")
    }

    pub(crate) fn fill(&mut self, services: &[(Frontend, Option<DesiredService>)]) -> Result<()> {
        let mut plan = self.actual.plan(services);
        ensure!(plan.refused.is_empty(), "no room: {:?}", plan.refused.first());
        apply(&mut self.maps.services, &plan)?;
        self.actual.written(&mut plan);
        Ok(())
    }

    /// Fills the maps with so many services of so many groups of one backend, from the `from`th ClusterIP on.
    pub(crate) fn fill_up(&mut self, from: usize, count: usize, groups: usize) -> Result<()> {
        let one = |number| service(frontend(number), 80, groups, |at| (backend(number + at), ACCEPT_PORT));
        for first in (from..from + count).step_by(PER_PLAN) {
            let services = (first..(from + count).min(first + PER_PLAN)).map(one);
            self.fill(&services.collect::<Result<Vec<_>>>()?)?;
        }
        Ok(())
    }
}

/// A TCP service with so many groups of one backend, where `of` says.
pub(crate) fn service(
    address: Ipv4Addr,
    port: u16,
    groups: usize,
    of: impl Fn(usize) -> (Ipv4Addr, u16),
) -> Result<(Frontend, Option<DesiredService>)> {
    let group = |at: usize| {
        let (address, port) = of(at);
        let backend = DesiredBackend::new(address, port, BackendState::Active);
        let cluster = ClusterId::new(u64::try_from(at)? + 1).context("a cluster id")?;
        Ok(DesiredGroup { cluster, tier: 0, weight: 1, backends: vec![backend] })
    };
    let groups = (0..groups).map(group).collect::<Result<Vec<_>>>()?;
    let name = ServiceName::new("bench", &format!("s-{}", u32::from(address)))?;
    let service = DesiredService { service: name, port_name: None, plain_ok: false, groups };
    Ok((Frontend { address: address.into(), port, protocol: Protocol::Tcp }, Some(service)))
}
