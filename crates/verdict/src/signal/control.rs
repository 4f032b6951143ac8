//! L: whether the peer's control plane is alive.

use std::time::Duration;

use crate::settings::Settings;
use crate::time::Monotonic;

/// What the peer's `alive` record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    pub epoch: u64,
    pub counter: u64,
    /// How long ago the peer heard from its own source, by its own clock; `None` where it cannot tell.
    pub source_age: Option<Duration>,
}

/// What happens to the connection to a peer's mesh API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlEvent {
    Connected,
    /// Every endpoint refuses connections: somebody is there and says that nobody serves.
    Refused,
    /// The connection is gone, and nobody says why.
    Lost,
    /// The record came by the watch or by a list.
    Beat(Beat),
    /// The record came as the answer to [`crate::Action::AskControl`].
    Answer(Beat),
}

/// Why a control plane is not fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Staleness {
    /// Nothing was heard since this process started.
    NeverHeard,
    Refused,
    /// The counter has not moved.
    Silent,
    /// The counter moves, but the peer itself has not heard from its source.
    SourceSilent,
    /// It was asked, and the answer did not come in time.
    NoAnswer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlState {
    Fresh,
    Stale(Staleness),
}

/// L of one peer.
#[derive(Debug, Default)]
pub(crate) struct Control {
    beat: Option<Beat>,
    /// When the counter moved last, and when the record was read last.
    moved: Option<Monotonic>,
    read: Option<Monotonic>,
    refused: bool,
    /// When it was asked what it has not answered.
    asked: Option<Monotonic>,
}

impl Control {
    pub(crate) fn observe(&mut self, now: Monotonic, event: ControlEvent) {
        match event {
            ControlEvent::Connected | ControlEvent::Lost => self.refused = false,
            ControlEvent::Refused => self.refused = true,
            ControlEvent::Beat(beat) => self.beat(now, beat),
            ControlEvent::Answer(beat) => {
                self.asked = None;
                self.beat(now, beat);
            }
        }
    }

    fn beat(&mut self, now: Monotonic, beat: Beat) {
        let place = |beat: Beat| (beat.epoch, beat.counter);
        if self.beat.map(place) != Some(place(beat)) {
            self.moved = Some(now);
            // A record that moved after the question answers it as well.
            self.asked = None;
        }
        self.refused = false;
        self.read = Some(now);
        self.beat = Some(beat);
    }

    /// Remembers that the peer is asked now. A question that has no answer yet stays as old as it is.
    pub(crate) fn ask(&mut self, now: Monotonic) {
        self.asked.get_or_insert(now);
    }

    pub(crate) fn start_over(&mut self) {
        self.asked = None;
    }

    /// How long the counter has stood still.
    pub(crate) fn age(&self, now: Monotonic) -> Option<Duration> {
        self.moved.map(|moved| now.since(moved))
    }

    /// How long the peer has not heard from its source: what it said, and the time since.
    fn source_age(&self, now: Monotonic) -> Option<Duration> {
        Some(self.beat?.source_age? + now.since(self.read?))
    }

    pub(crate) fn state(&self, now: Monotonic, settings: &Settings) -> ControlState {
        let Some(age) = self.age(now) else {
            let why = if self.refused { Staleness::Refused } else { Staleness::NeverHeard };
            return ControlState::Stale(why);
        };
        let overdue = self.asked.is_some_and(|asked| now.since(asked) >= settings.answer_due);
        if self.refused {
            ControlState::Stale(Staleness::Refused)
        } else if overdue {
            ControlState::Stale(Staleness::NoAnswer)
        } else if age >= settings.control_stale {
            ControlState::Stale(Staleness::Silent)
        } else if self.source_age(now).is_some_and(|age| age >= settings.source_stale) {
            ControlState::Stale(Staleness::SourceSilent)
        } else {
            ControlState::Fresh
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1000;

    const fn beat(counter: u64, source_age: Option<u64>) -> Beat {
        let source_age = match source_age {
            Some(age) => Some(Duration::from_millis(age)),
            None => None,
        };
        Beat { epoch: 1, counter, source_age }
    }

    fn after(events: &[(u64, ControlEvent)], asked: Option<u64>, now: u64) -> ControlState {
        let mut control = Control::default();
        for (at, event) in events {
            control.observe(Monotonic::from_millis(*at), *event);
        }
        if let Some(at) = asked {
            control.ask(Monotonic::from_millis(at));
        }
        control.state(Monotonic::from_millis(now), &Settings::default())
    }

    #[test]
    fn a_control_plane_is_as_fresh_as_what_it_says() {
        use ControlEvent::{Beat, Connected, Lost, Refused};
        use ControlState::{Fresh, Stale};
        type Row = (&'static str, &'static [(u64, ControlEvent)], Option<u64>, u64, ControlState);
        const TABLE: &[Row] = &[
            ("nothing was heard", &[(0, Connected)], None, SECOND, Stale(Staleness::NeverHeard)),
            ("it moves", &[(0, Beat(beat(1, None)))], None, 5 * SECOND, Fresh),
            ("it stands", &[(0, Beat(beat(1, None)))], None, 6 * SECOND, Stale(Staleness::Silent)),
            (
                "read again, but not moved",
                &[(0, Beat(beat(1, None))), (5 * SECOND, Beat(beat(1, None)))],
                None,
                6 * SECOND,
                Stale(Staleness::Silent),
            ),
            ("silence is no evidence yet", &[(0, Beat(beat(1, None))), (10, Lost)], None, SECOND, Fresh),
            ("a refusal is", &[(0, Beat(beat(1, None))), (10, Refused)], None, 20, Stale(Staleness::Refused)),
            (
                "a frozen source behind a counter that moves",
                &[(0, Beat(beat(1, Some(119 * SECOND))))],
                None,
                SECOND,
                Stale(Staleness::SourceSilent),
            ),
            ("asked, not due", &[(0, Beat(beat(1, None)))], Some(100), 599, Fresh),
            ("asked, due", &[(0, Beat(beat(1, None)))], Some(100), 600, Stale(Staleness::NoAnswer)),
        ];
        for (name, events, asked, now, expected) in TABLE {
            assert_eq!(after(events, *asked, *now), *expected, "{name}");
        }
    }

    #[test]
    fn an_answer_counts_for_what_it_says() {
        let mut control = Control::default();
        let at = Monotonic::from_millis;
        let settings = Settings::default();
        control.observe(at(0), ControlEvent::Beat(beat(1, None)));
        control.ask(at(1000));
        control.observe(at(1400), ControlEvent::Answer(beat(1, None)));
        assert_eq!(control.state(at(2000), &settings), ControlState::Fresh);
        // The mesh API answers from memory while its etcd is down.
        control.ask(at(6000));
        control.observe(at(6001), ControlEvent::Answer(beat(1, None)));
        assert_eq!(control.state(at(6001), &settings), ControlState::Stale(Staleness::Silent));
    }
}
