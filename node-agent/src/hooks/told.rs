//! Reports about the programs at our hooks: each change once.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use mesh_admin::Hook;
use mesh_admin::api::{DialledFrontends, Event, HookProgram, HookPrograms, Runs, unix_us};
use mesh_runtime::Condition;
use tokio::sync::watch;

use super::metrics::Metrics;
use crate::admin::events::Events;
use crate::datapath::canary::CanaryError;
use crate::datapath::hook;
use crate::datapath::hook_order::{Foreign, Order};
use crate::datapath::packetless::{Dialled, Dials};

/// Where it is told.
#[derive(Debug)]
pub struct Outputs {
    pub metrics: Metrics,
    pub events: Events,
    pub hooks: watch::Sender<Arc<Vec<HookPrograms>>>,
    /// Whether the pods are served.
    pub served: Condition,
    /// Whether nobody else takes what is dialled.
    pub balances: Condition,
}

/// Tells what is new.
#[derive(Debug)]
pub(super) struct Told {
    outputs: Outputs,
    foreign: Vec<Foreign>,
    /// Hooks at which something else takes frontends.
    taken: Vec<Hook>,
    /// Why nothing can be dialled.
    undialled: Option<String>,
}

impl Told {
    pub(super) fn new(outputs: Outputs) -> Self {
        Self { outputs, foreign: Vec::new(), taken: Vec::new(), undialled: None }
    }

    /// `cgroup`: the programs' own.
    pub(super) fn tell(&mut self, order: &Order, dialled: &Dialled, cgroup: &Path) {
        self.tell_foreign(order);
        self.tell_taken(dialled);
        let hooks = Hook::ALL.into_iter().map(|hook| HookPrograms {
            hook,
            programs: programs(order, hook, cgroup),
            dials: dialled.hooks.iter().find(|dials| dials.hook == hook).map(frontends),
        });
        self.outputs.hooks.send_replace(Arc::new(hooks.collect()));
    }

    fn tell_foreign(&mut self, order: &Order) {
        for gone in self.foreign.iter().filter(|known| !order.foreign.contains(known)) {
            tracing::info!(
                hook = %gone.hook, program = gone.program, name = gone.name, cgroup = %gone.cgroup.display(),
                "a program of somebody else is gone from a hook of ours"
            );
            self.publish(gone, true);
        }
        for new in order.foreign.iter().filter(|found| !self.foreign.contains(found)) {
            log_new(new);
            self.publish(new, false);
        }
        self.outputs.metrics.foreign(&order.foreign);
        self.foreign.clone_from(&order.foreign);
    }

    fn tell_taken(&mut self, dialled: &Dialled) {
        let now: Vec<_> = dialled.taken().map(|dials| dials.hook).collect();
        for dials in
            dialled.hooks.iter().filter(|dials| now.contains(&dials.hook) != self.taken.contains(&dials.hook))
        {
            log_taken(dials);
            let (at_unix_us, hook) = (unix_us(SystemTime::now()), dials.hook);
            self.outputs.events.publish(Event::FrontendsTaken { at_unix_us, hook, dials: frontends(dials) });
        }
        if let Some(reason) = dialled.failed.as_ref().filter(|reason| self.undialled.as_ref() != Some(reason))
        {
            tracing::warn!(reason, "whether the programs before ours take anything can't be told");
        }
        self.outputs.metrics.taken(dialled);
        (self.taken, self.undialled) = (now, dialled.failed.clone());
    }

    /// Whether the pods are served.
    pub(super) fn served(&self, proof: Result<(), CanaryError>) {
        match proof {
            Ok(()) => self.outputs.served.ready(),
            Err(error) => self.outputs.served.not_ready(mesh_failure::chain(&error)),
        }
    }

    /// Whether nobody else takes what is dialled.
    pub(super) fn balances(&self, verdict: Result<(), String>) {
        match verdict {
            Ok(()) => self.outputs.balances.ready(),
            Err(reason) => self.outputs.balances.not_ready(reason),
        }
    }

    fn publish(&self, foreign: &Foreign, gone: bool) {
        let (at_unix_us, hook) = (unix_us(SystemTime::now()), foreign.hook);
        self.outputs.events.publish(Event::ForeignProgram {
            at_unix_us,
            hook,
            program: program(foreign),
            gone,
        });
    }
}

fn log_new(foreign: &Foreign) {
    let Foreign { hook, program, name, cgroup, .. } = foreign;
    let cgroup = cgroup.display();
    if foreign.before {
        tracing::warn!(
            %hook, program, name, %cgroup,
            "a program of somebody else runs before ours: what it translates, the mesh does not balance"
        );
    } else {
        tracing::info!(%hook, program, name, %cgroup, "a program of somebody else runs behind ours");
    }
}

fn log_taken(dials: &Dials) {
    let Dials { hook, dialled, taken, examples } = dials;
    let example = examples.first().map(ToString::to_string);
    match taken {
        0 => tracing::info!(%hook, dialled, "nobody takes frontends before us any more"),
        _ => tracing::error!(
            %hook, taken, dialled, example,
            "something else takes what is dialled before the mesh sees it; `clustermesh hook list` shows what runs"
        ),
    }
}

fn frontends(dials: &Dials) -> DialledFrontends {
    let Dials { dialled, taken, examples, .. } = dials;
    DialledFrontends { dialled: *dialled, taken: *taken, examples: examples.clone() }
}

/// All that runs at a hook, in its order.
fn programs(order: &Order, hook: Hook, cgroup: &Path) -> Vec<HookProgram> {
    let here = || order.foreign.iter().filter(move |foreign| foreign.hook == hook);
    let ours = order.ours.get(&hook).map(|id| HookProgram {
        runs: Runs::Ours,
        id: *id,
        name: Some(hook::program(hook).into()),
        tag: None,
        cgroup: cgroup.into(),
    });
    let before = here().filter(|foreign| foreign.before).map(program);
    let behind = here().filter(|foreign| !foreign.before).map(program);
    before.chain(ours).chain(behind).collect()
}

fn program(foreign: &Foreign) -> HookProgram {
    let Foreign { program, before, cgroup, name, tag, .. } = foreign;
    let runs = if *before { Runs::Before } else { Runs::Behind };
    HookProgram { runs, id: *program, name: name.clone(), tag: tag.clone(), cgroup: cgroup.clone() }
}
