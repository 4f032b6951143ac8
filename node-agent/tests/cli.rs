//! The command line is a contract: help, refusals, completion, by the real binary.

#[path = "golden/command.rs"]
mod command;
mod golden;

const BINARY: &str = env!("CARGO_BIN_EXE_node-agent");

#[test]
fn the_help_is_a_contract() {
    command::assert_help(BINARY, &["uninstall", "features", "completion"]);
}

#[test]
fn a_bad_command_line_is_refused_with_flag_reason_and_remedy() {
    command::assert_refusals(
        BINARY,
        &[],
        &[
            (&[], &["--cluster-name", "--cluster-id", "--source", "--node-name"]),
            (&["instal"], &["instal"]),
            (&["uninstall", "--dry-run"], &["--dry-run", "uninstall"]),
            (&["completion", "tcsh"], &["tcsh", "bash"]),
            (&["--cluster-name", "h", "uninstall"], &["uninstall"]),
        ],
    );
    let base = ["--cluster-name=hoth", "--cluster-id=2", "--node-name=hoth-1", "--source=manifests:/nowhere"];
    command::assert_refusals(
        BINARY,
        &base,
        &[
            (&["--bogus"], &["--bogus", "--help"]),
            (&["--pod-cidr=10.2.0.1/16"], &["--pod-cidr", "behind its prefix", "write 10.2.0.0/16"]),
            (&["--node-cidr=127.0.0.0/8"], &["--node-cidr", "is loopback", "really uses"]),
            (
                &["--pod-cidr=10.2.0.0/16", "--service-cidr=10.2.3.0/24"],
                &["--service-cidr", "overlaps --pod-cidr", "correct whichever"],
            ),
            (
                &["--pod-cidr=10.2.0.0"],
                &["--pod-cidr <CIDR>", "has a prefix length", "write e.g. 10.2.0.0/16"],
            ),
            (&["--node-cidr=node-1"], &["--node-cidr <CIDR>", "no range", "write e.g. 10.1.0.0/16"]),
            (&["--log-filter=info,mesh_kv=loud"], &["--log-filter", "loud", "write a level such as `debug`"]),
            (&["--log-format=xml"], &["--log-format", "xml", "text, json"]),
            (&["--admin-address=9000"], &["--admin-address <ADDRESS:PORT>", "9000"]),
            (&["--yield-after=5"], &["--yield-after", "a number and a unit", "90s"]),
            (&["--max-slots=1"], &["--max-slots", "64..=268435456"]),
            (&["--max-services=many"], &["--max-services", "many"]),
            (&["--peers-secret=a"], &["--peers-secret needs --source kubernetes", "--peers-dir"]),
            (&["--peers-secret=a", "--peers-dir=/a"], &["--peers-secret <NAME>", "cannot be used with"]),
            (&["--instance=a.b"], &["--instance", "letters, digits"]),
        ],
    );
    let without = |flag: &str| base.into_iter().filter(|given| !given.starts_with(flag)).collect::<Vec<_>>();
    for (flag, value, parts) in [
        ("--cluster-name", "Hoth", &["--cluster-name", "RFC 1123 label", "lower case"][..]),
        ("--cluster-id", "4096", &["--cluster-id", "outside 1–4095"]),
        ("--cluster-id", "two", &["--cluster-id", "\"two\" is no number", "write one within 1–4095"]),
        ("--node-name", "hoth_1", &["--node-name", "RFC 1123", "lower case"]),
        ("--source", "kubernets", &["--source", "is no source", "write kubernetes or manifests:DIR"]),
        ("--source", "/etc/manifests", &["--source", "is no source", "or manifests:DIR"]),
    ] {
        command::assert_refusals(BINARY, &without(flag), &[(&[flag, value], parts)]);
    }
}

#[test]
fn bash_completes_flags_and_subcommands() {
    command::assert_bash_completes(BINARY, &["un"], &["uninstall"]);
    command::assert_bash_completes(BINARY, &["fe"], &["features"]);
    command::assert_bash_completes(BINARY, &["--peers"], &["--peers-dir"]);
    command::assert_bash_completes(BINARY, &["uninstall", "--bp"], &["--bpffs"]);
}
