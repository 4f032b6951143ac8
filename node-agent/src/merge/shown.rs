//! Publishes the state of the merge loop after every pass: a view for answers, and whether everything is in the maps.

use std::sync::Arc;

use mesh_runtime::Condition;
use tokio::sync::watch;

use super::view::View;

/// Where it is shown.
pub(super) struct Shown {
    view: watch::Sender<Arc<View>>,
    /// Holds once everything known at the start is in the maps.
    planned: Condition,
}

impl Shown {
    pub(super) fn new(view: watch::Sender<Arc<View>>, planned: Condition) -> Self {
        Self { view, planned }
    }

    /// `shortages`: frontends that wait for room in a map. An unsettled loop leaves the condition as it was.
    pub(super) fn show(&self, view: View, is_settled: bool, shortages: usize) {
        self.view.send_replace(Arc::new(view));
        match shortages {
            _ if !is_settled => {}
            0 => self.planned.ready(),
            frontends => self.planned.not_ready(format!(
                "the maps have no room for {frontends} frontends, which keep what they have: `clustermesh service \
                 list -o wide` names the flag to raise"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_runtime::Readiness;

    use super::*;

    #[test]
    fn only_what_is_settled_and_has_room_is_ready() {
        let (readiness, view) = (Readiness::default(), watch::Sender::default());
        let mut seen = view.subscribe();
        let shown = Shown::new(view, readiness.condition("plan", "waiting"));
        let mut show = |is_settled, shortages| {
            shown.show(View::default(), is_settled, shortages);
            assert!(seen.has_changed().unwrap(), "the view is shown all the same");
            seen.mark_unchanged();
            readiness.is_ready()
        };
        assert!(!show(false, 0));
        assert!(show(true, 0));
        assert!(show(false, 1), "nothing is known yet");
        assert!(!show(true, 1));
        assert!(!show(false, 0));
    }
}
