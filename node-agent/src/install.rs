//! From what an earlier agent left on the node to a datapath that runs: maps adopted or rebuilt, programs
//! attached, a mirror to go on from.

use std::time::{Duration, SystemTime};

use mesh_abi::{Control, LAYOUT};
use mesh_admin::api::{Event, unix_us};

use crate::admin::events::Events;
use crate::config::{DatapathArgs, PinArgs};
use crate::datapath::actual::{Actual, Capacity};
use crate::datapath::apply::apply;
use crate::datapath::grace::GracePeriods;
use crate::datapath::kernel;
use crate::datapath::layouts::{self, Content, OtherLayout, RetiringLayouts};
use crate::datapath::maps::{Datapath, Maps};
use crate::datapath::plan::Retired;
use crate::datapath::programs::{Found, Installation, ProgramsError};
use crate::datapath::restore::{Restored, restore};
use crate::datapath::sys;
use crate::merge::failback::{Failback, has_yielded};

/// A datapath that runs.
#[derive(Debug)]
pub struct Installed {
    pub installation: Installation,
    pub maps: Box<Maps>,
    /// As it is to be from the first sign of life on.
    pub control: Control,
    /// Whether that has to wait.
    pub failback: Failback,
    pub actual: Actual,
    /// Elements that a crash left in the maps.
    pub leftover: Retired,
    pub grace_periods: GracePeriods,
    /// Layouts that this version can't read: they serve beside until the own maps are complete.
    pub retiring: RetiringLayouts,
}

/// Sets the datapath up.
///
/// # Errors
/// Something missing on this node, or refused by the kernel.
pub fn install(pins: &PinArgs, args: &DatapathArgs, events: &Events) -> Result<Installed, ProgramsError> {
    kernel::check()?;
    let installation = Installation::new(&pins.bpffs, &pins.instance, args.cgroup_root.as_deref())?;
    install_with(installation.with_replies(args.max_replies), args, events)
}

/// The same with an installation in the making.
#[doc(hidden)]
pub fn install_with(
    installation: Installation,
    args: &DatapathArgs,
    events: &Events,
) -> Result<Installed, ProgramsError> {
    let grace_periods = GracePeriods::probe()?;
    tracing::info!(method = grace_periods.method().as_str(), "grace periods can be waited for");
    let mut layouts = Layouts::of(&installation)?;
    let (mut maps, mut actual, mut leftover) = match installation.maps(args.capacity())? {
        Found::Adopted(mut maps) => {
            let (actual, leftover) = adopt(&mut maps, events)?;
            (maps, actual, leftover)
        }
        Found::Built { mut maps, old } => {
            let content = match old {
                Some(old) => Some(Content::of(&old)?),
                None => layouts.read(),
            };
            let actual = fill(&mut maps, content, args.capacity())?;
            (maps, actual, Retired::default())
        }
    };
    let mut canary = actual.plan_canary();
    apply(&mut maps.services, &canary)?;
    leftover.append(actual.written(&mut canary));
    let (found, yield_after_ns) = (maps.control.read()?, nanoseconds(args.yield_after));
    let now = sys::monotonic_ns();
    // Only the own source can give a sign of life: until it is synced, that of the agent before goes on ageing. New maps
    // have none, and nothing that could be out of date.
    let heartbeat_ns = if found.heartbeat_ns == 0 { now } else { found.heartbeat_ns };
    let kept = Control { heartbeat_ns, yield_after_ns, ..found };
    let has_yielded = has_yielded(&found, now) || has_yielded(&kept, now);
    if has_yielded {
        tracing::info!("services of this node have passed to kube-proxy; they come back when all is known");
    } else {
        maps.control.write(&kept)?;
    }
    let attached = installation.attach(&mut maps)?;
    tracing::info!(cgroup = %installation.cgroup().display(), attached, "the datapath runs");
    let retiring = layouts.retire_known()?;
    let control = Control { layout: LAYOUT, yield_after_ns, ..maps.control.read()? };
    let failback = Failback::new(has_yielded);
    Ok(Installed { installation, maps, control, failback, actual, leftover, grace_periods, retiring })
}

/// The other layouts that are pinned.
struct Layouts {
    /// Newest first. Their content is in the own maps, or comes there.
    known: Vec<OtherLayout>,
    unknown: Vec<OtherLayout>,
}

impl Layouts {
    fn of(installation: &Installation) -> Result<Self, ProgramsError> {
        let others = layouts::others(installation.instance_folder())?;
        let (known, unknown) = others.into_iter().partition(OtherLayout::is_known);
        Ok(Self { known, unknown })
    }

    /// The content of the newest that can be read.
    fn read(&mut self) -> Option<Content> {
        while let Some(other) = self.known.first() {
            let layout = other.layout();
            match other.read() {
                Ok(content) => {
                    tracing::info!(layout, "moving the content of another layout's maps");
                    return Some(content);
                }
                Err(error) => {
                    let error = mesh_failure::chain(&error);
                    tracing::warn!(
                        layout,
                        error,
                        "another layout's maps can't be moved: new ones are filled"
                    );
                    self.unknown.push(self.known.remove(0));
                }
            }
        }
        None
    }

    /// The own maps serve and hold what the known ones held; the others go on beside them.
    fn retire_known(self) -> Result<RetiringLayouts, ProgramsError> {
        for other in &self.known {
            other.retire()?;
            tracing::info!(layout = other.layout(), "retired programs and maps of another layout");
        }
        Ok(RetiringLayouts::new(self.unknown))
    }
}

/// Takes over the maps of an earlier agent as they are.
fn adopt(maps: &mut Maps, events: &Events) -> Result<(Actual, Retired), ProgramsError> {
    let Restored { actual, leftover, damaged, foreign } =
        restore(&maps.services.contents()?, maps.services.capacity());
    if let Some(refused) = maps.services.delete_services(&foreign).into_iter().next() {
        return Err(refused.error.into());
    }
    let services = actual.frontend_count();
    let backends = actual.backend_count();
    tracing::info!(services, backends, "adopted the maps of an earlier agent");
    if damaged > 0 {
        tracing::warn!(damaged, "entries contradict each other and are written again");
    }
    events.publish(Event::Adopted { at_unix_us: unix_us(SystemTime::now()), services, backends, damaged });
    Ok((actual, leftover))
}

/// Brings the content of maps of another size or layout into new ones.
fn fill(maps: &mut Maps, old: Option<Content>, capacity: Capacity) -> Result<Actual, ProgramsError> {
    let Some(old) = old else { return Ok(Actual::new(capacity)) };
    let restored = restore(&old.contents, old.capacity);
    let (actual, plan) = restored.actual.moved_to(capacity);
    for (frontend, shortage) in &plan.refused {
        let (address, port) = (frontend.address, frontend.port);
        tracing::warn!(%address, port, reason = %shortage, "frontend does not fit into the new maps");
    }
    apply(&mut maps.services, &plan)?;
    maps.clusters.write(&old.clusters)?;
    // Services that have passed to kube-proxy come back only when they are right again.
    let Control { heartbeat_ns, yield_after_ns, .. } = old.control;
    maps.control.write(&Control { heartbeat_ns, yield_after_ns, ..maps.control.read()? })?;
    tracing::info!(services = actual.frontend_count(), "filled new maps");
    Ok(actual)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
