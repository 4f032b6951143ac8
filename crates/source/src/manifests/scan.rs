//! What a scan of a folder is told, and what it finds.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::time::Instant;

/// What the kernel announced since the last scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hints {
    /// Files that were closed after writing, or renamed into place.
    pub(crate) whole: BTreeSet<OsString>,
    /// Files that were written to, and not closed since.
    pub(crate) unclosed: BTreeSet<OsString>,
    /// The data link was swapped: every file is whole.
    pub(crate) all_whole: bool,
    /// Something else happened in the folder: files came, went or were lost sight of.
    pub(crate) elsewhere: bool,
}

impl Hints {
    /// Whether nothing happened but to the files that are whole now.
    pub(super) fn name_everything(&self) -> bool {
        !self.whole.is_empty() && !self.all_whole && !self.elsewhere
    }
}

/// What a scan found.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Files to read now.
    pub(crate) read: Vec<OsString>,
    /// Files that are gone for good.
    pub(crate) gone: Vec<OsString>,
    /// Files that somebody has had open for writing for long, and that therefore can't be read.
    pub(crate) kept_open: Vec<OsString>,
    /// Files that need a moment: being written to, or missing.
    pub(crate) pending: usize,
    /// Whether a file that was never read is among the pending ones, or the folder may still be filling up.
    pub(crate) incomplete: bool,
    /// When to look again at the latest.
    pub(crate) again: Option<Instant>,
    /// The folder is another one than before.
    pub(crate) replaced: bool,
}

impl Scan {
    /// Whether nothing but a change needs another look.
    pub(super) fn is_settled(&self) -> bool {
        self.pending == 0 && !self.incomplete && self.again.is_none() && self.kept_open.is_empty()
    }

    pub(super) fn wait(&mut self, due: Option<Instant>) {
        self.pending += 1;
        self.again = self.again.into_iter().chain(due).min();
    }
}
