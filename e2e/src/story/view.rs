//! The live view: who answers whom, one bar a second. On a terminal it redraws in place; elsewhere it is one plain
//! line a second.

use std::io::Write;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::wait::unix_us;

use super::board::{Board, Scene};
use super::seconds::{Second, Seconds};
use super::terminal::{Look, glyph};

/// Seconds that are shown at once.
const ROWS: usize = 12;
/// Length of a bar.
const BAR: usize = 26;
/// Of a terminal, at least.
const WIDTH: usize = 79;
/// A second is complete this much after its end: what the clients say takes its time.
const LAG_US: u64 = 150_000;

/// Shows the board on standard output, on a thread of its own, until the story is over.
pub(crate) fn watch(board: &Board) -> std::io::Result<JoinHandle<()>> {
    let mut view = View::new(board, Look::of_stdout());
    thread::Builder::new().name("view".into()).spawn(move || {
        while !view.board.over() {
            view.tick();
            thread::sleep(Duration::from_millis(if view.look.live { 200 } else { 50 }));
        }
        view.tick();
    })
}

struct View {
    board: Board,
    look: Look,
    seconds: Seconds,
    /// Lines that the last drawing took.
    drawn: usize,
    /// Plain mode: what has been said.
    said_seconds: usize,
    said_scenes: usize,
    said_commands: usize,
}

impl View {
    fn new(board: &Board, look: Look) -> Self {
        let seconds = Seconds::since(board.begun_us);
        Self {
            board: board.clone(),
            look,
            seconds,
            drawn: 0,
            said_seconds: 0,
            said_scenes: 0,
            said_commands: 0,
        }
    }

    fn tick(&mut self) {
        self.seconds.update(&self.board);
        let text = if self.look.live { self.redraw() } else { self.news() };
        let mut out = std::io::stdout().lock();
        // Our output was closed, so nobody looks any more; the story goes on.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    /// How many seconds of the story are complete.
    fn complete(&self) -> usize {
        let passed = unix_us().saturating_sub(self.board.begun_us + LAG_US) / 1_000_000;
        usize::try_from(passed).unwrap_or(usize::MAX)
    }

    fn redraw(&mut self) -> String {
        let lines = self.frame();
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        self.drawn = lines.len();
        for line in lines {
            text.push_str(&line);
            text.push_str("\x1b[K\n");
        }
        text + "\x1b[J"
    }

    fn frame(&self) -> Vec<String> {
        let scenes = self.board.scenes();
        let mut lines = vec![String::new(), self.title(&scenes)];
        let tale = scenes.last().map_or("The clusters are being built …", |scene| scene.tale.as_str());
        lines.push(format!(" {tale}"));
        let command = self.board.commands().pop().unwrap_or_default();
        lines.push(self.look.faint(&format!(" {}", command.chars().take(WIDTH - 1).collect::<String>())));
        lines.push(self.legend());
        lines.push(self.heads());
        let complete = self.complete();
        let first = complete.saturating_sub(ROWS);
        for row in first..first + ROWS {
            // Before the first connection there is nothing to show.
            let second = self.seconds.at(row).filter(|_| row < complete && row >= self.seconds.first());
            lines.push(second.map_or_else(String::new, |second| self.row(row, second)));
        }
        lines
    }

    fn title(&self, scenes: &[Scene]) -> String {
        let passed = unix_us().saturating_sub(self.board.begun_us) / 1_000_000;
        let name = scenes.last().map_or("…", |scene| scene.name.as_str());
        let step = format!("{}/{}", scenes.len(), self.board.steps);
        format!(
            " {} {}   {}",
            self.look.faint(&step),
            self.look.bold(name),
            self.look.faint(&format!("{passed} s"))
        )
    }

    fn legend(&self) -> String {
        let look = self.look;
        let names = self.board.clusters.iter().enumerate();
        let names = names.map(|(place, name)| format!("{} {name}", look.cluster(place, glyph(place))));
        format!(" answered by  {}   {} error", names.collect::<Vec<_>>().join("   "), look.error("✗"))
    }

    fn heads(&self) -> String {
        let heads = self.board.clusters.iter().map(|name| format!("{:<BAR$}", format!("x-wings in {name}")));
        self.look.faint(&format!("       {}", heads.collect::<Vec<_>>().join("  ")))
    }

    fn row(&self, number: usize, second: &[Second]) -> String {
        let bars = second.iter().map(|second| bar(second, self.look)).collect::<Vec<_>>().join("  ");
        let sum = sum(second);
        let answered = sum.total() - sum.failed();
        let complaint =
            if sum.failed() > 0 { self.look.error(&format!("  {}", sum.complaint())) } else { String::new() };
        format!(" {number:>3} s {bars}  {answered:>4}{complaint}")
    }

    /// Plain mode: what happened since the last time.
    fn news(&mut self) -> String {
        let mut text = String::new();
        let scenes = self.board.scenes();
        for scene in &scenes[self.said_scenes..] {
            self.said_scenes += 1;
            text.push_str(&format!(
                "step {} of {}, {}: {}\n",
                self.said_scenes, self.board.steps, scene.name, scene.tale
            ));
        }
        let commands = self.board.commands();
        for command in &commands[self.said_commands..] {
            text.push_str(&format!("{command}\n"));
        }
        self.said_commands = commands.len();
        let complete = self.complete().min(self.seconds.count());
        for row in self.said_seconds..complete {
            let second = self.seconds.at(row).unwrap_or_default();
            if second.iter().any(|second| second.total() > 0) {
                text.push_str(&plain(row, second, &self.board.clusters));
            }
        }
        self.said_seconds = complete.max(self.said_seconds);
        text
    }
}

fn sum(seconds: &[Second]) -> Second {
    seconds.iter().fold(Second::default(), |mut sum, second| {
        sum.add(second);
        sum
    })
}

/// "  12 s  x-wings in hoth: 101 hoth, 99 yavin; x-wings in yavin: …; no errors".
fn plain(row: usize, seconds: &[Second], clusters: &[String]) -> String {
    let of = |(home, second): (&String, &Second)| {
        let answers = clusters.iter().zip(&second.answers).map(|(name, count)| format!("{count:>3} {name}"));
        format!("x-wings in {home}: {}", answers.collect::<Vec<_>>().join(" "))
    };
    let parts: Vec<_> = clusters.iter().zip(seconds).map(of).collect();
    let sum = sum(seconds);
    let errors = if sum.failed() > 0 { format!("ERRORS: {}", sum.complaint()) } else { "no errors".into() };
    format!("{row:>4} s  {}  {errors}\n", parts.join("  "))
}

/// A bar whose parts are as long as the clusters' parts of the answers; an error is always seen.
fn bar(second: &Second, look: Look) -> String {
    let total = second.total().max(1);
    let failed = second.failed();
    let red = if failed > 0 { (failed * BAR).div_ceil(total) } else { 0 };
    let answered = (total - failed).max(1);
    let (mut text, mut sum, mut drawn) = (String::new(), 0, 0);
    for (place, count) in second.answers.iter().enumerate() {
        sum += count;
        // Rounded at the running sum, so that the parts always fill the bar.
        let end = (sum * (BAR - red) * 2 + answered) / (answered * 2);
        text.push_str(&look.cluster(place, &glyph(place).repeat(end - drawn)));
        drawn = end;
    }
    text.push_str(&look.error(&"✗".repeat(red)));
    text + &" ".repeat(BAR - red - drawn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::record::Failure;

    const PLAIN: Look = Look { live: true, colour: false };

    fn second(answers: [usize; 2], refused: usize) -> Second {
        let errors = if refused > 0 { [(Failure::Refused, refused)].into() } else { Default::default() };
        Second { answers: answers.to_vec(), errors }
    }

    #[test]
    fn bars_are_always_full_and_never_hide_an_error() {
        for (answers, refused) in [([100, 100], 0), ([0, 200], 0), ([199, 0], 1), ([0, 0], 7), ([67, 67], 66)]
        {
            let bar = bar(&second(answers, refused), PLAIN);
            assert_eq!(bar.chars().count(), BAR, "{bar:?}");
            assert_eq!(bar.contains('✗'), refused > 0, "{bar:?}");
        }
        assert_eq!(bar(&second([0, 0], 0), PLAIN), " ".repeat(BAR));
    }

    /// A story of `count` seconds so far, at `begun_us`: hoth answers less and less, one connection is refused.
    fn told(begun_us: u64, count: u64) -> Board {
        let mut board = Board::new(vec!["hoth".into(), "yavin".into()], 6);
        board.begun_us = begun_us;
        for home in ["hoth", "yavin"] {
            let records = crate::lab::client::Records::default();
            for tenth in 0..count * 10 {
                let from = if tenth % count.max(1) < tenth / 10 { "yavin/a" } else { "hoth/a" };
                let outcome = match tenth {
                    35 => crate::load::record::Outcome::Error(Failure::Refused),
                    _ => crate::load::record::Outcome::Answer(from.into()),
                };
                let start_unix_us = begun_us + tenth * 100_000;
                records.push(crate::load::record::Record { start_unix_us, latency_us: 1, outcome });
            }
            board.join(crate::story::board::XWing { cluster: home.into(), records });
        }
        board.begin(Scene { name: "hoth: pods deleted".into(), tale: "They go.".into(), begun_us });
        board
    }

    #[test]
    fn a_frame_shows_the_last_seconds_and_fits_a_terminal() {
        let board = told(unix_us() - 15_500_000, 15);
        let mut view = View::new(&board, PLAIN);
        view.seconds.update(&board);
        let frame = view.frame();
        println!("{}", frame.join("\n"));
        assert!(frame.len() < 24 && frame.iter().all(|line| line.chars().count() < 80), "{frame:#?}");
        assert!(frame[1].contains("hoth: pods deleted"), "{frame:#?}");
        assert!(
            frame.iter().any(|line| line.starts_with("   3 s") && line.contains("2 refused")),
            "{frame:#?}"
        );
        assert!(frame.iter().any(|line| line.starts_with("  14 s")), "{frame:#?}");
    }

    #[test]
    fn plain_news_says_every_second_once() {
        let board = told(unix_us() - 5_500_000, 5);
        let mut view = View::new(&board, Look { live: false, colour: false });
        view.seconds.update(&board);
        let news = view.news();
        println!("{news}");
        assert_eq!(news.lines().filter(|line| line.contains(" s  x-wings")).count(), 5, "{news}");
        assert!(news.starts_with("step 1 of 6, hoth: pods deleted: They go.\n"), "{news}");
        assert_eq!(view.news(), "");
    }

    #[test]
    fn plain_lines_name_everybody() {
        let clusters = ["hoth".to_owned(), "yavin".to_owned()];
        let line = plain(7, &[second([90, 110], 0), second([0, 198], 2)], &clusters);
        assert_eq!(
            line,
            "   7 s  x-wings in hoth:  90 hoth 110 yavin  x-wings in yavin:   0 hoth 198 yavin  ERRORS: 2 refused\n"
        );
    }
}
