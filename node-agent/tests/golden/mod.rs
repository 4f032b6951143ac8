//! Golden files: `tests/golden/NAME` of the crate under test. Shared by the tests of all binaries.
//!
//! They are contracts. `UPDATE_GOLDEN=1 cargo test -p CRATE` writes them; look at the difference before you commit it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends there")]

use std::path::Path;

/// Panics where the text is not what the golden file holds.
pub(crate) fn assert_golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        std::fs::create_dir_all(path.parent().expect("it has a folder")).unwrap();
        std::fs::write(&path, text).unwrap();
        return;
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    let (is, shall) = (text.lines(), golden.lines());
    let differs =
        is.zip(shall.map(Some).chain(std::iter::repeat(None))).find(|(is, shall)| Some(*is) != *shall);
    assert!(
        text == golden,
        "{} differs; if that is meant, UPDATE_GOLDEN=1 writes it. First different line, is and shall: {differs:?}\n{text}",
        path.display()
    );
}
