//! Connects again after every failure, for each kind of watch.
//!
//! Owns the pause before the next attempt. Never decides what a failure means for what is known.

use std::convert::Infallible;
use std::time::Duration;

use mesh_failure::Backoff;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::fault::KvError;

/// A connection that has lived so long was a success: the next failure starts with the shortest delay.
const STABLE: Duration = Duration::from_secs(5);

/// What follows an etcd. What it knows survives its connections.
pub(crate) trait Follow: Send {
    type Event;

    /// One connection's life.
    fn follow(
        &mut self,
        attempts: &mut Attempts,
        sink: &mut (impl FnMut(Self::Event) + Send),
    ) -> impl Future<Output = Result<Infallible, KvError>> + Send;

    /// Ends when the next attempt has a better chance than the one before, whatever that came to.
    fn renewed(&mut self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// The connection is lost.
    fn disconnected(reason: KvError) -> Self::Event;
}

/// Follows, over as many connections as it takes, until the token is cancelled. `sink` takes each event in turn and must not
/// block.
pub(crate) async fn run<F: Follow>(
    mut follower: F,
    token: CancellationToken,
    mut sink: impl FnMut(F::Event) + Send,
) {
    let mut attempts = Attempts::default();
    loop {
        let reason = tokio::select! {
            () = token.cancelled() => return,
            Err(reason) = follower.follow(&mut attempts, &mut sink) => reason,
        };
        sink(F::disconnected(reason));
        let pause = sleep(attempts.pause(Instant::now()));
        tokio::select! {
            () = token.cancelled() => return,
            () = pause => {}
            () = follower.renewed() => attempts = Attempts::default(),
        }
    }
}

/// When to try again.
#[derive(Default)]
pub(crate) struct Attempts {
    backoff: Backoff,
    /// Since when the connection has been of use.
    since: Option<Instant>,
}

impl Attempts {
    /// All is known, and changes come.
    pub(crate) fn succeeded(&mut self) {
        self.since = Some(Instant::now());
    }

    /// How long to wait before the next attempt, of a connection that is lost `now`.
    fn pause(&mut self, now: Instant) -> Duration {
        if self.since.take().is_some_and(|since| now - since >= STABLE) {
            self.backoff.reset();
        }
        self.backoff.next_delay()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::DialError;

    /// The first delay at the most, with its jitter.
    const SHORTEST: Duration = Duration::from_millis(200);

    /// Fails so often at once, then lives on.
    struct Failing(usize);

    impl Follow for Failing {
        type Event = Instant;

        async fn follow(
            &mut self,
            _attempts: &mut Attempts,
            sink: &mut (impl FnMut(Instant) + Send),
        ) -> Result<Infallible, KvError> {
            if self.0 == 0 {
                sink(Instant::now());
                std::future::pending::<()>().await;
            }
            self.0 -= 1;
            Err(DialError { failures: Vec::new() }.into())
        }

        fn disconnected(_: KvError) -> Instant {
            Instant::now()
        }
    }

    #[tokio::test]
    async fn every_failure_is_told_and_followed_by_an_attempt_until_one_lives() {
        let token = CancellationToken::new();
        let mut told = Vec::new();
        let sink = |at| {
            told.push(at);
            if told.len() == 3 {
                token.cancel();
            }
        };
        run(Failing(2), token.clone(), sink).await;
        assert!(told.windows(2).all(|pair| pair[1] - pair[0] >= SHORTEST / 2), "{told:?}");
    }

    #[tokio::test]
    async fn nothing_is_tried_once_the_token_is_cancelled() {
        let token = CancellationToken::new();
        let mut failures = 0;
        let sink = |_| {
            failures += 1;
            token.cancel();
        };
        run(Failing(2), token.clone(), sink).await;
        assert_eq!(failures, 1);
    }

    #[test]
    fn pauses_grow_until_a_connection_was_stable() {
        let (mut attempts, begin) = (Attempts::default(), Instant::now());
        let mut fail_after = |life: Option<Duration>| {
            attempts.since = life.map(|_| begin);
            attempts.pause(begin + life.unwrap_or_default())
        };
        let first = fail_after(None);
        let grown = (0..12).map(|_| fail_after(Some(STABLE / 2))).last();
        let anew = fail_after(Some(STABLE));
        assert!(first <= SHORTEST && anew <= SHORTEST, "{first:?}, {anew:?}");
        assert!(grown > Some(SHORTEST), "{grown:?}");
    }
}
