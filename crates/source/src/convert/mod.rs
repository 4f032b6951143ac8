//! From Kubernetes objects to domain types, for every source alike.
//!
//! Foreign input ends here: what comes out is valid, and whatever was refused says why and what to do. Knows
//! nothing of files or API servers.

mod node;
mod service;
mod slice;

use mesh_model::name::ServiceName;
use serde::de::DeserializeOwned;

use crate::status::Reason;
use crate::wire::Meta;

pub use node::NodeEntry;
pub use slice::{Hints, OwnedSlice, SliceKey};
pub(crate) use slice::{SERVICE_LABEL, owner};

/// What can be converted: the fields of an object.
pub(crate) trait Convert: DeserializeOwned {
    type Value;

    fn meta(&self) -> &Meta;
    fn convert(&self) -> Converted<Self::Value>;

    /// The Service that the object belongs to.
    fn owner(&self) -> Option<ServiceName> {
        None
    }
}

/// What an object's metadata identify it by.
pub(crate) trait Identify: Sized {
    fn identify(meta: &Meta) -> Result<Self, Note>;
}

/// What an object comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict<T> {
    Use(T),
    /// Nothing for the mesh: not global, or nothing that can be balanced. What was known of it goes.
    Leave,
    /// Invalid. What was known of it before stays.
    Keep,
}

/// Something that was refused, wholly or in part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub reason: Reason,
    /// What is wrong and what to do about it.
    pub message: String,
}

impl Note {
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// A verdict, and what there is to say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Converted<T> {
    pub verdict: Verdict<T>,
    pub notes: Vec<Note>,
}

impl<T> Converted<T> {
    fn keep(notes: Vec<Note>) -> Self {
        Self { verdict: Verdict::Keep, notes }
    }

    fn leave(notes: Vec<Note>) -> Self {
        Self { verdict: Verdict::Leave, notes }
    }
}

/// Any name, for an object of which the mesh keeps nothing but what it says.
impl Identify for String {
    fn identify(meta: &Meta) -> Result<Self, Note> {
        meta.name.clone().ok_or_else(|| Note::new(Reason::Name, "it has no name; correct its metadata"))
    }
}

/// An object without a namespace is in `default`, as kubectl has it.
fn namespace(meta: &Meta) -> &str {
    meta.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or("default")
}

fn bad_name(error: &mesh_model::name::NameError) -> Note {
    Note::new(Reason::Name, format!("{error}; correct its metadata"))
}

/// Collects refusals of the same kind into one note, so that a slice of a thousand bad endpoints is one line.
struct Refusals {
    reason: Reason,
    what: &'static str,
    first: Option<String>,
    count: usize,
}

impl Refusals {
    fn new(reason: Reason, what: &'static str) -> Self {
        Self { reason, what, first: None, count: 0 }
    }

    fn add(&mut self, why: impl Into<String>) {
        self.count += 1;
        self.first.get_or_insert_with(|| why.into());
    }

    fn note(self) -> Option<Note> {
        let (count, what) = (self.count, self.what);
        let first = self.first?;
        let message = if count == 1 {
            format!("1 {what} ignored: {first}")
        } else {
            format!("{count} {what}s ignored, the first: {first}")
        };
        Some(Note::new(self.reason, message))
    }
}

/// Text of foreign origin, short enough to show.
pub(crate) fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(80).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}
