//! What of the findings is to be told now: what two looks in a row have found, and again after about an hour. Pure.

use std::collections::BTreeMap;

use mesh_source::kubernetes::{Notice, Subject, TOLD_AGAIN};
use tokio::time::Instant;

/// What tells findings apart: not their words, so that nobody who changes these all the time is heard all the time.
type Id = (Subject, String, String);

/// What the last look has found; `told`: when that was told last.
#[derive(Debug, Default)]
pub(super) struct Standing {
    found: BTreeMap<Id, Option<Instant>>,
}

impl Standing {
    /// Takes what a look has found; returns what is due, what was never told first.
    pub(super) fn take(&mut self, notices: Vec<Notice>, now: Instant) -> Vec<Notice> {
        let before = std::mem::take(&mut self.found);
        let mut due = BTreeMap::new();
        for notice in notices {
            let id = id(&notice);
            let stood = before.get(&id);
            let told = stood.copied().flatten();
            let rested = told.is_none_or(|told| now.saturating_duration_since(told) >= TOLD_AGAIN);
            if stood.is_some() && rested {
                due.insert((told.is_some(), id.clone()), notice);
            }
            self.found.insert(id, told);
        }
        due.into_values().collect()
    }

    /// The notice has been told.
    pub(super) fn told(&mut self, notice: &Notice, now: Instant) {
        if let Some(told) = self.found.get_mut(&id(notice)) {
            *told = Some(now);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.found.len()
    }
}

fn id(notice: &Notice) -> Id {
    (notice.subject.clone(), notice.reason.clone(), notice.key.clone())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn notice(uid: &str, message: &str) -> Notice {
        Notice {
            subject: Subject::Service { name: "ns/base".parse().unwrap(), uid: Some(uid.into()) },
            reason: "PortMismatch".into(),
            key: "2/http".into(),
            action: "Balance",
            warning: true,
            message: message.into(),
        }
    }

    /// One look after another, each finding told at once. How many are.
    fn told(standing: &mut Standing, found: &[Notice], now: Instant) -> usize {
        let due = standing.take(found.to_vec(), now);
        due.iter().for_each(|notice| standing.told(notice, now));
        due.len()
    }

    #[test]
    fn what_two_looks_in_a_row_have_found_is_told_once() {
        let (mut standing, start) = (Standing::default(), Instant::now());
        let found = [notice("a", "one")];
        assert_eq!(told(&mut standing, &found, start), 0);
        assert_eq!(told(&mut standing, &[], start + MINUTE), 0, "it has gone");
        assert_eq!(told(&mut standing, &found, start + 2 * MINUTE), 0, "it has come");
        assert_eq!(told(&mut standing, &found, start + 3 * MINUTE), 1);
        assert_eq!(told(&mut standing, &[notice("a", "other words")], start + 4 * MINUTE), 0);
        assert_eq!(told(&mut standing, &[notice("b", "one")], start + 5 * MINUTE), 0, "a recreated Service");
        assert_eq!(told(&mut standing, &[notice("b", "one")], start + 6 * MINUTE), 1);
        assert_eq!(standing.len(), 1, "nothing is kept of what has gone");
    }

    #[test]
    fn what_stands_is_told_again_after_kubernetes_has_forgotten_it() {
        let (mut standing, start) = (Standing::default(), Instant::now());
        let times =
            (0..=140).map(|minute| told(&mut standing, &[notice("a", "one")], start + minute * MINUTE));
        let when: Vec<_> =
            times.enumerate().filter(|(_, told)| *told == 1).map(|(minute, _)| minute).collect();
        assert_eq!(when, [1, 66, 131]);
    }

    #[test]
    fn what_could_not_be_told_is_due_again_and_what_never_was_comes_first() {
        let (mut standing, start) = (Standing::default(), Instant::now());
        let found = vec![notice("a", "one"), notice("b", "one")];
        standing.take(found.clone(), start);
        assert_eq!(standing.take(found.clone(), start + MINUTE), found);
        assert_eq!(standing.take(found.clone(), start + MINUTE), found, "nobody was told");
        standing.told(&found[0], start + MINUTE);
        let due = standing.take(found.clone(), start + MINUTE + TOLD_AGAIN);
        assert_eq!(due, [found[1].clone(), found[0].clone()]);
    }
}
