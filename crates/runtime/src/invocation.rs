//! The command line of a binary that runs without a subcommand, and has some besides.

use std::error::Error;
use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use clap_complete::Shell;

/// The task that a command line asks for: to run with flags, or a subcommand, which has flags of its own.
#[derive(Debug)]
pub enum Invocation<R, C> {
    Run(Box<R>),
    Command(C),
}

/// Flags that may be wrong in a way that only shows when all of them are known.
pub trait Check {
    /// # Errors
    /// What is wrong, and what to do about it.
    fn check(&self) -> Result<(), Box<dyn Error>>;
}

impl<R: Parser + Check, C: Subcommand + Check> Invocation<R, C> {
    /// Parses a command line, its first word the program's name.
    ///
    /// # Errors
    /// The fault in it, or the help or version that it asked for.
    pub fn parse_from<T: Into<OsString> + Clone>(
        words: impl IntoIterator<Item = T>,
    ) -> Result<Self, clap::Error> {
        let mut command = Self::command();
        let mut matches = command.try_get_matches_from_mut(words)?;
        // With a subcommand there are no flags, which flattened arguments can't express themselves.
        let parsed = match matches.subcommand_name() {
            Some(_) => C::from_arg_matches_mut(&mut matches).map(Self::Command),
            None => R::from_arg_matches_mut(&mut matches).map(|args| Self::Run(Box::new(args))),
        };
        let invocation = parsed.map_err(|error| error.format(&mut command))?;
        let checked = match &invocation {
            Self::Run(args) => args.check(),
            Self::Command(subcommand) => subcommand.check(),
        };
        checked.map_err(|error| Self::refusal(&*error))?;
        Ok(invocation)
    }

    /// The refusal of a command line whose flags are wrong in a way that only shows later.
    pub fn refusal(error: &dyn Error) -> clap::Error {
        Self::command().error(ErrorKind::ValueValidation, mesh_failure::chain(error))
    }

    /// The completion script of a shell.
    pub fn completion(shell: Shell) -> String {
        let mut command = Self::command();
        let name = command.get_name().to_owned();
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut command, &*name, &mut script);
        let script = String::from_utf8(script).expect("scripts are text");
        // clap_complete spells a hyphen of the binary's name in two ways (clap-rs/clap#6421), so that bash would
        // complete nothing behind a subcommand.
        script.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__"))
    }

    /// The whole command line.
    pub fn command() -> clap::Command {
        C::augment_subcommands(R::command()).subcommand_required(false).arg_required_else_help(false)
    }
}
