//! Every task has a name and a parent, and none ends unnoticed.
//!
//! A task that returns, fails or panics before its supervisor was told to stop takes the supervisor down: all its
//! siblings are cancelled, and the error names the task. Supervisors nest: a task may own one of its own and
//! return its error.

use std::any::Any;
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::shutdown::{self, Signals};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a supervisor stopped although nobody asked it to, or did not stop when asked.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    #[error("task {task} failed")]
    Failed { task: String, source: BoxError },
    #[error("task {task} panicked: {message}")]
    Panicked { task: String, message: String },
    #[error("task {task} ended although nothing told it to")]
    Ended { task: String },
    #[error("still running {} s after being told to stop: {}", .deadline.as_secs_f32(), .tasks.join(", "))]
    Deadline { deadline: Duration, tasks: Vec<String> },
}

/// How a task may end: with nothing, or with a `Result`.
pub trait Outcome: Send + 'static {
    /// The failure, if it is one.
    fn failure(self) -> Option<BoxError>;
}

impl Outcome for () {
    fn failure(self) -> Option<BoxError> {
        None
    }
}

impl<E: Into<BoxError> + Send + 'static> Outcome for Result<(), E> {
    fn failure(self) -> Option<BoxError> {
        self.err().map(Into::into)
    }
}

/// A task that its owner may stop before the others.
#[derive(Debug)]
pub struct Task {
    token: CancellationToken,
    may_end: Arc<AtomicBool>,
}

impl Task {
    /// Tells the task to stop; from now on its end is expected.
    pub fn stop(&self) {
        self.may_end.store(true, Ordering::Release);
        self.token.cancel();
    }
}

struct Running {
    name: String,
    may_end: Arc<AtomicBool>,
}

/// Owns tasks. Dropping it aborts them.
pub struct Supervisor {
    path: String,
    token: CancellationToken,
    tasks: JoinSet<Option<BoxError>>,
    running: HashMap<Id, Running>,
    /// Runs beside the tasks and is never waited for.
    signals: JoinSet<()>,
}

impl Supervisor {
    /// A process's supervisor, which stops at SIGTERM or SIGINT; a second signal exits at once.
    pub fn with_signals(name: &str) -> Result<Self, shutdown::SignalError> {
        let signals = Signals::install()?;
        let mut supervisor = Self::new(name, CancellationToken::new());
        supervisor.signals.spawn(signals.cancel_then_exit(supervisor.token()));
        Ok(supervisor)
    }

    /// A supervisor that stops when `token` is cancelled.
    pub fn new(name: &str, token: CancellationToken) -> Self {
        let (tasks, running, signals) = (JoinSet::new(), HashMap::new(), JoinSet::new());
        Self { path: name.into(), token, tasks, running, signals }
    }

    /// A supervisor for a task of this one: its tasks are called `parent/name/task`, and it stops when this one does.
    pub fn child(&self, name: &str) -> Self {
        Self::new(&format!("{}/{name}", self.path), self.token.child_token())
    }

    /// Cancelled when the tasks of this supervisor shall end.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Runs `future` as the task `name`. It must not end before the token is cancelled.
    pub fn spawn<F>(&mut self, name: &str, future: F)
    where
        F: Future<Output: Outcome> + Send + 'static,
    {
        self.spawn_task(name, future, Arc::default());
    }

    /// Runs a task that its owner may stop earlier than the others: `task` gets the token to watch.
    pub fn spawn_stoppable<F>(&mut self, name: &str, task: impl FnOnce(CancellationToken) -> F) -> Task
    where
        F: Future<Output: Outcome> + Send + 'static,
    {
        let (token, may_end) = (self.token.child_token(), Arc::<AtomicBool>::default());
        self.spawn_task(name, task(token.clone()), may_end.clone());
        Task { token, may_end }
    }

    fn spawn_task<F>(&mut self, name: &str, future: F, may_end: Arc<AtomicBool>)
    where
        F: Future<Output: Outcome> + Send + 'static,
    {
        let name = format!("{}/{name}", self.path);
        tracing::debug!(task = name, "task started");
        let handle = self.tasks.spawn(async move { future.await.failure() });
        self.running.insert(handle.id(), Running { name, may_end });
    }

    /// Runs until the token is cancelled or a task ends unexpectedly, then stops the others.
    pub async fn run(mut self, deadline: Duration) -> Result<(), SupervisorError> {
        let token = self.token();
        let failure = tokio::select! {
            () = token.cancelled() => None,
            failure = self.failure() => Some(failure),
        };
        match failure {
            None => self.stop(deadline).await,
            Some(failure) => {
                tracing::error!(error = %failure, "stopping everything");
                if let Err(also) = self.stop(deadline).await {
                    tracing::warn!(error = %also, "could not stop cleanly");
                }
                Err(failure)
            }
        }
    }

    /// Waits for a task to end unexpectedly; forever if none does. Cancel-safe.
    pub async fn failure(&mut self) -> SupervisorError {
        while let Some(ended) = self.tasks.join_next_with_id().await {
            let (task, error) = self.end(ended);
            match error {
                Some(error) => return error,
                None if self.token.is_cancelled() || task.may_end.load(Ordering::Acquire) => {}
                None => return SupervisorError::Ended { task: task.name },
            }
        }
        std::future::pending().await
    }

    /// Tells all tasks to stop and waits for them. Those that take longer than `deadline` are aborted and named.
    pub async fn stop(&mut self, deadline: Duration) -> Result<(), SupervisorError> {
        self.token.cancel();
        let late = tokio::time::timeout(deadline, self.drain()).await;
        if let Ok(outcome) = late {
            return outcome;
        }
        let mut tasks: Vec<String> = self.running.drain().map(|(_, running)| running.name).collect();
        tasks.sort();
        // Not waited for: one that blocks its thread takes no notice.
        self.tasks.abort_all();
        Err(SupervisorError::Deadline { deadline, tasks })
    }

    /// Waits for every task; the first failure is returned once all have ended, later ones are logged.
    async fn drain(&mut self) -> Result<(), SupervisorError> {
        let mut first = Ok(());
        while let Some(ended) = self.tasks.join_next_with_id().await {
            match self.end(ended) {
                (task, None) => tracing::debug!(task = task.name, "task ended"),
                (_, Some(error)) if first.is_ok() => first = Err(error),
                (_, Some(error)) => tracing::warn!(error = %error, "a further task failed while stopping"),
            }
        }
        first
    }

    fn end(
        &mut self,
        ended: Result<(Id, Option<BoxError>), JoinError>,
    ) -> (Running, Option<SupervisorError>) {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let task = self.running.remove(&id).expect("every task is entered when it is spawned");
        let name = task.name.clone();
        let error = match ended {
            Ok((_, None)) => None,
            Ok((_, Some(source))) => Some(SupervisorError::Failed { task: name, source }),
            Err(error) => Some(match error.try_into_panic() {
                Ok(payload) => SupervisorError::Panicked { task: name, message: panic_message(&*payload) },
                Err(_aborted) => SupervisorError::Ended { task: name },
            }),
        };
        (task, error)
    }
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "not a text".into())
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod tests;
