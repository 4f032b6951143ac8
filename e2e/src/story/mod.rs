//! The story that is told in a lab.
