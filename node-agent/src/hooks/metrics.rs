//! What is counted about the programs of others.

use mesh_admin::Hook;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::datapath::hook_order::Foreign;
use crate::datapath::packetless::Dialled;

/// When a program of somebody else runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the names are label values")]
pub enum Runs {
    before,
    behind,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct HookValue(Hook);

impl EncodeLabelValue for HookValue {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.0.to_string(), encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ProgramLabels {
    hook: HookValue,
    runs: Runs,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HookLabel {
    hook: HookValue,
}

/// Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    foreign: Family<ProgramLabels, Gauge>,
    dialled: Family<HookLabel, Gauge>,
    taken: Family<HookLabel, Gauge>,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        metrics.foreign(&[]);
        metrics.taken(&Dialled::default());
        let hooks = registry.sub_registry_with_prefix("hook");
        hooks.register(
            "foreign_programs",
            "Programs of others at the hooks of this node's sockets",
            metrics.foreign.clone(),
        );
        let dialled = metrics.dialled.clone();
        hooks.register(
            "dialled_frontends",
            "Frontends dialled because programs of others run before ours",
            dialled,
        );
        hooks.register(
            "taken_frontends",
            "Of these, the ones that something else took",
            metrics.taken.clone(),
        );
        metrics
    }

    pub(super) fn taken(&self, dialled: &Dialled) {
        for hook in Hook::ALL {
            let dials = dialled.hooks.iter().find(|dials| dials.hook == hook);
            let set = |family: &Family<HookLabel, Gauge>, count: Option<usize>| {
                let gauge = family.get_or_create(&HookLabel { hook: HookValue(hook) });
                gauge.set(i64::try_from(count.unwrap_or(0)).unwrap_or(i64::MAX));
            };
            set(&self.dialled, dials.map(|dials| dials.dialled));
            set(&self.taken, dials.map(|dials| dials.taken));
        }
    }

    pub(super) fn foreign(&self, foreign: &[Foreign]) {
        for hook in Hook::ALL {
            for runs in [Runs::before, Runs::behind] {
                let counted =
                    |foreign: &&Foreign| foreign.hook == hook && foreign.before == (runs == Runs::before);
                let count = foreign.iter().filter(counted).count();
                let gauge = self.foreign.get_or_create(&ProgramLabels { hook: HookValue(hook), runs });
                gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
    }
}
