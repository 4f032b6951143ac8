//! Runs a real binary's command line. Shared by the tests of all binaries.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends there")]

use std::process::{Command, Output};

use super::golden::assert_golden;

/// One run, whatever this machine's environment says.
pub(crate) fn run(binary: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary);
    command.env_clear().env("COLUMNS", "100").args(arguments);
    command.output().unwrap_or_else(|error| panic!("{binary}: {error}"))
}

/// Compares the help of the binary and of its subcommands, each in a file of its own.
pub(crate) fn assert_help(binary: &str, subcommands: &[&str]) {
    for subcommand in std::iter::once(&"").chain(subcommands) {
        let mut arguments: Vec<&str> = subcommand.split_whitespace().collect();
        arguments.push("--help");
        let output = run(binary, &arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        let name = ["help", subcommand].join(" ").trim().replace(' ', "_") + ".txt";
        assert_golden(&name, &String::from_utf8(output.stdout).unwrap());
    }
}

/// Each command line must be refused with status 2, in words that hold all of the parts.
pub(crate) fn assert_refusals(binary: &str, base: &[&str], refusals: &[(&[&str], &[&str])]) {
    for (arguments, parts) in refusals {
        let output = run(binary, &[base, arguments].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty(), "{arguments:?} says something on stdout");
        for part in *parts {
            assert!(said.contains(part), "{arguments:?} does not say {part:?}: {said}");
        }
    }
}

/// A shell must take the script and complete with it what it should.
pub(crate) fn assert_bash_completes(binary: &str, words: &[&str], completions: &[&str]) {
    let output = run(binary, &["completion", "bash"]);
    assert!(output.status.success(), "{output:?}");
    let script = String::from_utf8(output.stdout).unwrap();
    let name = binary.rsplit('/').next().expect("a path");
    let registered = script.split("complete -F ").nth(1).and_then(|rest| rest.split(' ').next());
    let function = registered.expect("the script registers a function");
    let line = words.join("' '");
    let ask = format!(
        "{script}\nCOMP_WORDS=('{name}' '{line}'); COMP_CWORD={}; COMPREPLY=()\n\
         {function} '{name}' '{}' '{}'\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"",
        words.len(),
        words.last().unwrap_or(&""),
        words.iter().rev().nth(1).unwrap_or(&name)
    );
    let bash = Command::new("bash").args(["--norc", "-c", &ask]).output().unwrap();
    let offered = String::from_utf8(bash.stdout).unwrap();
    for completion in completions {
        assert!(
            offered.lines().any(|line| line == *completion),
            "bash does not offer {completion} behind {words:?}, but {offered:?}; {}",
            String::from_utf8_lossy(&bash.stderr)
        );
    }
}
