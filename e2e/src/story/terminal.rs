//! Colours and lengths of text on a terminal.

use std::io::IsTerminal;

/// How the output is to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// Redraw in place; otherwise one line after the other.
    pub(super) live: bool,
    pub(super) colour: bool,
}

impl Look {
    /// As standard output and the environment ask for (<https://no-color.org>).
    pub(super) fn of_stdout() -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
        let live = std::io::stdout().is_terminal() && !dumb;
        Self { live, colour: live && !set("NO_COLOR") }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into() }
    }

    /// The colour of the `place`th cluster.
    pub(super) fn cluster(self, place: usize, text: &str) -> String {
        self.paint(["36", "33", "35", "32", "34"][place % 5], text)
    }

    pub(super) fn error(self, text: &str) -> String {
        self.paint("31;1", text)
    }

    pub(super) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(super) fn faint(self, text: &str) -> String {
        self.paint("2", text)
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }
}

/// The character of the `place`th cluster's part of a bar, so that bars can be read without colours.
pub(super) fn glyph(place: usize) -> &'static str {
    ["█", "▒", "▓", "░", "▚"][place % 5]
}

/// 12345 as "12,345".
pub(super) fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn thousands_are_separated() {
        assert_eq!([0, 999, 1000, 1_234_567].map(super::thousands), ["0", "999", "1,000", "1,234,567"]);
    }
}
