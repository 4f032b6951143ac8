//! Shared by the story and its audience: the x-wings that fly, and the step that is under way.

use std::sync::{Arc, Mutex, PoisonError};

use crate::lab::client::Records;
use crate::wait::unix_us;

/// A client of the story.
#[derive(Clone, Debug)]
pub(crate) struct XWing {
    pub(crate) cluster: String,
    pub(crate) records: Records,
}

/// A step as the audience sees it.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    pub(crate) name: String,
    /// One sentence on what happens.
    pub(crate) tale: String,
    pub(crate) begun_us: u64,
}

#[derive(Debug)]
struct State {
    x_wings: Vec<XWing>,
    scenes: Vec<Scene>,
    commands: Vec<String>,
    over: bool,
}

/// Clones share it.
#[derive(Clone, Debug)]
pub struct Board {
    /// In the order in which they are shown.
    pub(crate) clusters: Vec<String>,
    /// How many steps the story has.
    pub(crate) steps: usize,
    pub(crate) begun_us: u64,
    state: Arc<Mutex<State>>,
}

impl Board {
    pub fn new(clusters: Vec<String>, steps: usize) -> Self {
        let state = State { x_wings: Vec::new(), scenes: Vec::new(), commands: Vec::new(), over: false };
        Self { clusters, steps, begun_us: unix_us(), state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn join(&self, x_wing: XWing) {
        self.state().x_wings.push(x_wing);
    }

    pub(crate) fn x_wings(&self) -> Vec<XWing> {
        self.state().x_wings.clone()
    }

    pub(crate) fn begin(&self, scene: Scene) {
        self.state().scenes.push(scene);
    }

    pub(crate) fn scenes(&self) -> Vec<Scene> {
        self.state().scenes.clone()
    }

    /// Shows a command that is about to run.
    pub(crate) fn command(&self, line: String) {
        self.state().commands.push(line);
    }

    pub(crate) fn commands(&self) -> Vec<String> {
        self.state().commands.clone()
    }

    pub(crate) fn end(&self) {
        self.state().over = true;
    }

    pub(crate) fn over(&self) -> bool {
        self.state().over
    }
}
