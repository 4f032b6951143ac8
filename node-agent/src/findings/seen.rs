//! Findings of the last look, and which of them are due: a finding is reported once two looks in a row have found it, and again
//! after about an hour. Pure.

use std::collections::BTreeMap;

use mesh_source::kubernetes::{Notice, Subject, TOLD_AGAIN};
use tokio::time::Instant;

/// Identifies a finding. Its words are no part of it, so that words that change all the time are not reported all the time.
type Id = (Subject, String, String);

/// The findings of the last look, each with the time of its last report.
#[derive(Debug, Default)]
pub(super) struct Seen {
    found: BTreeMap<Id, Option<Instant>>,
}

impl Seen {
    /// Takes the findings of a look; returns those that are due, the ones never reported first.
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

    /// The notice has been reported.
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
    fn told(seen: &mut Seen, found: &[Notice], now: Instant) -> usize {
        let due = seen.take(found.to_vec(), now);
        due.iter().for_each(|notice| seen.told(notice, now));
        due.len()
    }

    #[test]
    fn what_two_looks_in_a_row_have_found_is_told_once() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        let found = [notice("a", "one")];
        assert_eq!(told(&mut seen, &found, start), 0);
        assert_eq!(told(&mut seen, &[], start + MINUTE), 0, "it has gone");
        assert_eq!(told(&mut seen, &found, start + 2 * MINUTE), 0, "it has come");
        assert_eq!(told(&mut seen, &found, start + 3 * MINUTE), 1);
        assert_eq!(told(&mut seen, &[notice("a", "other words")], start + 4 * MINUTE), 0);
        assert_eq!(told(&mut seen, &[notice("b", "one")], start + 5 * MINUTE), 0, "a recreated Service");
        assert_eq!(told(&mut seen, &[notice("b", "one")], start + 6 * MINUTE), 1);
        assert_eq!(seen.len(), 1, "nothing is kept of what has gone");
    }

    #[test]
    fn what_stands_is_told_again_after_kubernetes_has_forgotten_it() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        let times = (0..=140).map(|minute| told(&mut seen, &[notice("a", "one")], start + minute * MINUTE));
        let when: Vec<_> =
            times.enumerate().filter(|(_, told)| *told == 1).map(|(minute, _)| minute).collect();
        assert_eq!(when, [1, 66, 131]);
    }

    #[test]
    fn what_could_not_be_told_is_due_again_and_what_never_was_comes_first() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        let found = vec![notice("a", "one"), notice("b", "one")];
        seen.take(found.clone(), start);
        assert_eq!(seen.take(found.clone(), start + MINUTE), found);
        assert_eq!(seen.take(found.clone(), start + MINUTE), found, "nobody was told");
        seen.told(&found[0], start + MINUTE);
        let due = seen.take(found.clone(), start + MINUTE + TOLD_AGAIN);
        assert_eq!(due, [found[1].clone(), found[0].clone()]);
    }
}
