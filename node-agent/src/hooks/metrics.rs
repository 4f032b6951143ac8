//! Metrics of the programs of others.

use mesh_admin::Hook;
use mesh_runtime::ByLabel;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::datapath::hook_order::Foreign;
use crate::datapath::packetless::Dialled;

/// Of a program of somebody else: at which hook it runs, and when.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProgramLabels {
    hook: &'static str,
    runs: &'static str,
}

fn runs(before: bool) -> &'static str {
    if before { "before" } else { "behind" }
}

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    foreign: Family<ProgramLabels, Gauge>,
    dialled: ByLabel<Gauge>,
    taken: ByLabel<Gauge>,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let by_hook = || ByLabel::new("hook", Hook::ALL.map(Hook::as_str));
        let metrics = Self { foreign: Family::default(), dialled: by_hook(), taken: by_hook() };
        metrics.foreign(&[]);
        let hooks = registry.sub_registry_with_prefix("hook");
        hooks.register(
            "foreign_programs",
            "Programs of others at the hooks of this node's sockets",
            metrics.foreign.clone(),
        );
        let help = "Frontends dialled because programs of others run before ours";
        metrics.dialled.register(hooks, "dialled_frontends", help);
        metrics.taken.register(hooks, "taken_frontends", "Of these, the ones that something else took");
        metrics
    }

    pub(super) fn taken(&self, dialled: &Dialled) {
        for hook in Hook::ALL {
            let dials = dialled.hooks.iter().find(|dials| dials.hook == hook);
            let set = |metric: &ByLabel<Gauge>, count: Option<usize>| {
                metric.of(hook.as_str()).set(i64::try_from(count.unwrap_or(0)).unwrap_or(i64::MAX));
            };
            set(&self.dialled, dials.map(|dials| dials.dialled));
            set(&self.taken, dials.map(|dials| dials.taken));
        }
    }

    pub(super) fn foreign(&self, foreign: &[Foreign]) {
        for hook in Hook::ALL {
            for before in [true, false] {
                let counted = |foreign: &&Foreign| foreign.hook == hook && foreign.before == before;
                let count = foreign.iter().filter(counted).count();
                let labels = ProgramLabels { hook: hook.as_str(), runs: runs(before) };
                let gauge = self.foreign.get_or_create(&labels);
                gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
    }
}
