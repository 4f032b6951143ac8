//! What is being done, on standard error: standard output is for results.

use std::cell::RefCell;
use std::io::Write;
use std::time::Instant;

/// Says each thing once.
pub(crate) struct Progress {
    begun: Instant,
    last: RefCell<String>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), last: RefCell::default() }
    }

    pub(crate) fn say(&self, what: &str) {
        if *self.last.borrow() == what {
            return;
        }
        let line = format!("{:>6.1} s  {what}\n", self.begun.elapsed().as_secs_f64());
        if cfg!(test) {
            eprint!("{line}");
        } else {
            // Where nobody reads it, the work goes on.
            let _unread = std::io::stderr().write_all(line.as_bytes());
        }
        what.clone_into(&mut self.last.borrow_mut());
    }
}
