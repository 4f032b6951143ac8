//! Attempts that overtake each other, as RFC 8305 has it: the next begins when the one before has failed or has taken
//! too long, none is given up before one succeeds.

use std::collections::VecDeque;
use std::future::Future;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::sleep;

/// The first success; or all failures, in the order of the attempts.
pub(crate) async fn race<T, E, F>(
    attempts: impl IntoIterator<Item = F>,
    stagger: Duration,
) -> Result<T, Vec<E>>
where
    F: Future<Output = Result<T, E>>,
{
    let numbered = |(index, attempt): (usize, F)| async move { (index, attempt.await) };
    let mut waiting: VecDeque<_> = attempts.into_iter().enumerate().map(numbered).collect();
    let mut running = FuturesUnordered::new();
    let mut failures = Vec::new();
    loop {
        running.extend(waiting.pop_front());
        let is_last = waiting.is_empty();
        let patience = async { if is_last { std::future::pending().await } else { sleep(stagger).await } };
        tokio::select! {
            ended = running.next() => match ended {
                Some((_, Ok(success))) => return Ok(success),
                Some((index, Err(failure))) => failures.push((index, failure)),
                None => break,
            },
            () = patience => {}
        }
    }
    failures.sort_by_key(|(index, _)| *index);
    Err(failures.into_iter().map(|(_, failure)| failure).collect())
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const STAGGER: Duration = Duration::from_millis(50);
    const NEVER: Duration = Duration::from_secs(600);

    async fn after(time: Duration, result: Result<u8, u8>) -> Result<u8, u8> {
        sleep(time).await;
        result
    }

    #[tokio::test]
    async fn a_slow_attempt_is_overtaken_but_not_given_up() {
        let start = Instant::now();
        assert_eq!(race([after(NEVER, Ok(1)), after(Duration::ZERO, Ok(2))], STAGGER).await, Ok(2));
        assert!(start.elapsed() >= STAGGER);
        assert_eq!(race([after(2 * STAGGER, Ok(1)), after(NEVER, Ok(2))], STAGGER).await, Ok(1));
    }

    #[tokio::test]
    async fn a_failure_starts_the_next_at_once_and_all_are_told_in_order() {
        let now = Duration::ZERO;
        assert_eq!(race([after(now, Err(1)), after(now, Err(2)), after(now, Ok(3))], NEVER).await, Ok(3));
        let failed = race([after(3 * STAGGER, Err(1)), after(now, Err(2))], STAGGER).await;
        assert_eq!(failed, Err(vec![1, 2]));
        assert_eq!(race(Vec::<std::future::Ready<Result<u8, u8>>>::new(), STAGGER).await, Err(vec![]));
    }
}
