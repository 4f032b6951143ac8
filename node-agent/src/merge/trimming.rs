//! When the memory that plans took for a moment is worth giving back. Pure.

/// After so many map writes.
const WRITES: usize = 10_000;

/// Map writes since memory was last given back.
#[derive(Debug, Default)]
pub(super) struct Trimming(usize);

impl Trimming {
    /// Counts writes. True where memory is to be given back now.
    pub(super) fn is_due(&mut self, writes: usize) -> bool {
        self.0 += writes;
        let is_due = self.0 >= WRITES;
        if is_due {
            self.0 = 0;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_after_many_writes_however_they_come() {
        let mut trimming = Trimming::default();
        assert!(!trimming.is_due(WRITES - 1));
        assert!(!trimming.is_due(0));
        assert!(trimming.is_due(1));
        assert!(!trimming.is_due(1), "it has been given back");
        assert!(trimming.is_due(5 * WRITES));
    }
}
