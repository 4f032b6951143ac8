//! The latest events, for readers that stream them and for readers that ask afterwards.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::broadcast;

use mesh_admin::api::Event;

/// How many past events a reader can replay.
const KEPT: usize = 1024;

/// The last events and those to come. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Events {
    kept: Arc<Mutex<VecDeque<Arc<Event>>>>,
    live: broadcast::Sender<Arc<Event>>,
}

impl Default for Events {
    fn default() -> Self {
        Self { kept: Arc::default(), live: broadcast::channel(KEPT).0 }
    }
}

impl Events {
    pub fn publish(&self, event: Event) {
        let event = Arc::new(event);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(event.clone());
        // Sent under the lock, so that a subscriber misses nothing and sees nothing twice. Nobody listening is
        // fine.
        let _ = self.live.send(event);
    }

    /// The kept events from `since_unix_us` on (none without it), and all that follow. They are shared: whoever publishes
    /// waits for a subscriber no longer than it takes to count references.
    pub fn subscribe(
        &self,
        since_unix_us: Option<u64>,
    ) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let past = since_unix_us.map(|since| {
            kept.iter().filter(|event| event.at_unix_us() >= since).cloned().collect::<Vec<_>>()
        });
        (past.unwrap_or_default(), self.live.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at_unix_us: u64) -> Event {
        Event::Adopted { at_unix_us, services: 0, backends: 0, damaged: 0 }
    }

    #[test]
    fn a_late_reader_replays_what_is_kept() {
        let events = Events::default();
        for at in 0..2000 {
            events.publish(event(at));
        }
        let (past, mut live) = events.subscribe(Some(1990));
        assert_eq!(past.len(), 10);
        assert_eq!(events.subscribe(Some(0)).0.len(), KEPT);
        assert!(events.subscribe(None).0.is_empty());
        events.publish(event(5000));
        assert_eq!(live.try_recv().expect("sent").at_unix_us(), 5000);
    }
}
