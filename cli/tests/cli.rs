//! The command line is a contract: help, refusals, completion, by the real binary.

#[path = "../../node-agent/tests/golden/command.rs"]
mod command;
#[path = "../../node-agent/tests/golden/mod.rs"]
mod golden;

const BINARY: &str = env!("CARGO_BIN_EXE_clustermesh");

#[test]
fn the_help_is_a_contract() {
    command::assert_help(
        BINARY,
        &[
            "join",
            "invite",
            "invite list",
            "invite revoke",
            "leave",
            "status",
            "service",
            "service list",
            "service show",
            "backend",
            "backend list",
            "peer",
            "peer list",
            "peer show",
            "peer export",
            "peer import",
            "peer remove",
            "cert",
            "cert show",
            "cert rotate",
            "cert revoke",
            "hook",
            "hook list",
            "bpf",
            "bpf dump",
            "completion",
        ],
    );
}

#[test]
fn a_bad_command_line_is_refused_with_flag_reason_and_remedy() {
    command::assert_refusals(
        BINARY,
        &[],
        &[
            (&[], &["Usage: clustermesh", "service", "peer"]),
            (&["service"], &["list", "show"]),
            (&["pod", "list"], &["pod", "--help"]),
            (&["service", "show"], &["<NAMESPACE/NAME>"]),
            (&["service", "show", "rebel-base"], &["write NAMESPACE/NAME", "default/rebel-base"]),
            (&["service", "show", "default/Base"], &["service name", "lower case"]),
            (&["backend", "list", "--service", "base"], &["--service <NAMESPACE/NAME>", "e.g. default/base"]),
            (&["service", "list", "-o", "xml"], &["--output", "xml", "table, wide, json, yaml"]),
            (&["peer", "show"], &["<NAME>"]),
            (&["peer", "import"], &["<FILE>"]),
            (&["join", "--endpoint", "https://a:1"], &["CLUSTER=https://HOST:PORT", "hoth=https://"]),
            (&["join", "--timeout", "2"], &["--timeout <DURATION>", "e.g. 90s"]),
            (&["invite", "hoth", "--id", "1"], &["--pods <CIDR>"]),
            (&["invite", "Hoth", "--id", "1", "--pods", "10.1.0.0/16"], &["<NAME>", "lower case"]),
            (&["invite", "hoth", "--id", "0", "--pods", "10.1.0.0/16"], &["--id <N>", "1–4095"]),
            (&["leave"], &["<NAME>"]),
            (&["bpf", "dump", "--bogus"], &["--bogus", "--help"]),
            (&["completion", "tcsh"], &["tcsh", "bash"]),
        ],
    );
}

#[test]
fn what_cant_be_shown_is_named_with_the_remedy_and_status_1() {
    for (arguments, parts) in [
        (
            &["service", "list", "--socket", "/nowhere/agent.sock"][..],
            ["/nowhere/agent.sock", "is it running", "--instance or --socket"],
        ),
        (
            &["peer", "list", "--run-dir", "/nowhere"],
            ["/nowhere/default/agent.sock", "is it running", "bpf dump"],
        ),
        (
            &["bpf", "dump", "--bpffs", "/nowhere", "--instance", "lab"],
            ["/nowhere/clustermesh/lab/", "instance lab", "installed on this node"],
        ),
    ] {
        let output = command::run(BINARY, arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        parts
            .iter()
            .for_each(|part| assert!(said.contains(part), "{arguments:?} does not say {part:?}: {said}"));
    }
}

#[test]
fn bash_completes_flags_and_subcommands() {
    command::assert_bash_completes(BINARY, &["ser"], &["service"]);
    command::assert_bash_completes(BINARY, &["peer", ""], &["export", "import", "list", "remove", "show"]);
    command::assert_bash_completes(BINARY, &["join", "--con"], &["--context"]);
    command::assert_bash_completes(BINARY, &["-o", ""], &["table", "wide", "json", "yaml"]);
    command::assert_bash_completes(BINARY, &["backend", "list", "--s"], &["--service", "--socket"]);
}
