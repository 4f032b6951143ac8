//! An error as one text.

use std::error::Error;

/// An error and its sources in one line; a source that the text already tells is not repeated.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let shown = source.to_string();
        if !text.contains(&shown) {
            text = format!("{text}: {shown}");
        }
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    #[derive(Debug)]
    struct Said(&'static str, Option<Box<Said>>);

    impl fmt::Display for Said {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Said {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|source| source as _)
        }
    }

    #[test]
    fn sources_follow_and_none_is_told_twice() {
        let of = |texts: &[&'static str]| {
            let said = texts.iter().rev().fold(None, |source, text| Some(Box::new(Said(text, source))));
            chain(said.as_deref().expect("there is a text"))
        };
        assert_eq!(of(&["reading it"]), "reading it");
        assert_eq!(of(&["reading it", "opening x", "no such file"]), "reading it: opening x: no such file");
        assert_eq!(
            of(&["connecting: refused (111)", "refused", "os error"]),
            "connecting: refused (111): os error"
        );
    }
}
