//! One explicit registry per process, without globals. All names begin with `clustermesh_`.
//!
//! A module keeps its metrics in a struct of its own and registers them through [`Registry::root`].

use std::fmt::Debug;

use prometheus_client::encoding::EncodeMetric;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::info::Info;

/// The content type of [`Registry::encode`]'s text.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics of this process. Fill it at start, then share it in an `Arc`.
#[derive(Debug)]
pub struct Registry {
    root: prometheus_client::registry::Registry,
}

impl Registry {
    /// A registry that already says which binary this is and how it was built: `clustermesh_build_info`.
    pub fn new(binary: &'static str, version: &'static str) -> Self {
        let mut root = prometheus_client::registry::Registry::with_prefix("clustermesh");
        let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
        let build = Info::new(vec![("binary", binary), ("version", version), ("profile", profile)]);
        root.register("build", "Which binary this is and how it was built", build);
        Self { root }
    }

    /// Where modules register; names given here get the prefix `clustermesh_`.
    pub fn root(&mut self) -> &mut prometheus_client::registry::Registry {
        &mut self.root
    }

    /// All metrics in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.root).expect("writing to a String cannot fail");
        text
    }

    /// The names, sorted, of the metrics that have at least one series.
    #[cfg(test)]
    fn names(&self) -> Vec<String> {
        let text = self.encode();
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let mut names: Vec<String> =
            types.filter_map(|rest| rest.split(' ').next()).map(Into::into).collect();
        names.sort();
        names
    }
}

/// A metric whose series differ in one label of known values. All series are shown from the start: one that appears only
/// with its first event can't be alerted on. Clones share their values.
#[derive(Clone, Debug)]
pub struct ByLabel<M> {
    label: &'static str,
    family: Family<[(&'static str, &'static str); 1], M>,
}

impl<M: Clone + Default> ByLabel<M> {
    pub fn new(label: &'static str, values: impl IntoIterator<Item = &'static str>) -> Self {
        let metric = Self { label, family: Family::default() };
        values.into_iter().for_each(|value| drop(metric.of(value)));
        metric
    }

    /// The series with this value of the label.
    pub fn of(&self, value: &'static str) -> M {
        self.family.get_or_create_owned(&[(self.label, value)])
    }
}

impl<M: Clone + Debug + EncodeMetric + TypedMetric + Send + Sync + 'static> ByLabel<M> {
    pub fn register(
        &self,
        registry: &mut prometheus_client::registry::Registry,
        name: &'static str,
        help: &'static str,
    ) {
        registry.register(name, help, self.family.clone());
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[test]
    fn every_name_has_the_prefix() {
        let mut registry = Registry::new("test", "1.2.3");
        let dialled: Counter = Counter::default();
        registry.root().register("dials", "Dials", dialled.clone());
        dialled.inc();
        let text = registry.encode();
        assert!(text.contains("clustermesh_dials_total 1\n"), "{text}");
        assert!(text.contains("clustermesh_build_info{binary=\"test\",version=\"1.2.3\""), "{text}");
        assert_eq!(registry.names(), ["clustermesh_build", "clustermesh_dials"]);
    }

    #[test]
    fn every_value_of_a_label_is_shown_from_the_start() {
        let mut registry = Registry::new("test", "1.2.3");
        let writes = ByLabel::<Counter>::new("map", ["slots", "backends"]);
        writes.register(registry.root(), "writes", "Writes");
        writes.of("slots").inc();
        let text = registry.encode();
        assert!(text.contains("clustermesh_writes_total{map=\"slots\"} 1\n"), "{text}");
        assert!(text.contains("clustermesh_writes_total{map=\"backends\"} 0\n"), "{text}");
    }
}
