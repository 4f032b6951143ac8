//! The command line is a contract: help, refusals, completion, by the real binary.

#[path = "../../node-agent/tests/golden/command.rs"]
mod command;
#[path = "../../node-agent/tests/golden/mod.rs"]
mod golden;

const BINARY: &str = env!("CARGO_BIN_EXE_clustermesh-apiserver");

#[test]
fn the_help_is_a_contract() {
    command::assert_help(BINARY, &["completion", "forget"]);
}

#[test]
fn a_bad_command_line_is_refused_with_flag_reason_and_remedy() {
    command::assert_refusals(
        BINARY,
        &[],
        &[
            (&[], &["--cluster-name", "--cluster-id", "--source", "--etcd-endpoint"]),
            (&["complete"], &["complete"]),
            (&["completion", "tcsh"], &["tcsh", "bash"]),
            (&["forget"], &["--cluster-name", "--etcd-endpoint"]),
            (&["forget", "--cluster-name=a_b", "--etcd-endpoint=http://a"], &["--cluster-name", "a_b"]),
            (
                &["forget", "--cluster-name=hoth", "--etcd-endpoint=https://a"],
                &["is https", "--etcd-tls-dir is needed"],
            ),
        ],
    );
    let base = ["--cluster-name=hoth", "--cluster-id=2", "--source=manifests:/nowhere"];
    command::assert_refusals(
        BINARY,
        &base,
        &[
            (&[], &["--etcd-endpoint"]),
            (
                &["--etcd-endpoint=etcd:2379"],
                &["--etcd-endpoint", "http:// or https://", "write https://HOST:PORT"],
            ),
            (&["--etcd-endpoint=http://etcd:0"], &["--etcd-endpoint", "port", "1–65535"]),
            (&["--etcd-endpoint=http://etcd/v3"], &["--etcd-endpoint", "path", "nothing behind it"]),
            (&["--etcd-endpoint=https://etcd"], &["--etcd-endpoint", "is https", "--etcd-tls-dir is needed"]),
            (&["--etcd-endpoint=http://a,http://a"], &["--etcd-endpoint", "named twice", "remove one"]),
            (
                &["--etcd-endpoint=http://a,https://b"],
                &["--etcd-endpoint", "mix http and https", "use https"],
            ),
        ],
    );
    let base = [&base[..], &["--etcd-endpoint=http://127.0.0.1:1"]].concat();
    command::assert_refusals(
        BINARY,
        &base,
        &[
            (&["--pod-cidr=10.2.0.1/16"], &["--pod-cidr", "behind its prefix", "write 10.2.0.0/16"]),
            (&["--log-filter=loud=loud"], &["--log-filter", "loud", "write a level such as `debug`"]),
            (&["--admin-address=9000"], &["--admin-address <ADDRESS:PORT>", "9000"]),
            (&["--peers-secret=a"], &["--peers-secret needs --source kubernetes", "--peers-dir"]),
            (&["--peers-secret=a", "--peers-dir=/a"], &["--peers-secret <NAME>", "cannot be used with"]),
            (&["--mesh-address=2379"], &["--mesh-address <ADDRESS:PORT>", "2379"]),
            (&["--mesh-address=127.0.0.1:0"], &["--mesh-tls-dir <DIR>", "--peers-dir <DIR>"]),
            (
                &["--mesh-address=127.0.0.1:0", "--mesh-tls-dir=/a"],
                &["required arguments", "--peers-dir <DIR>"],
            ),
        ],
    );
}

#[test]
fn bash_completes_flags_and_subcommands() {
    command::assert_bash_completes(BINARY, &["comp"], &["completion"]);
    command::assert_bash_completes(BINARY, &["--etcd-"], &["--etcd-endpoint", "--etcd-tls-dir"]);
    command::assert_bash_completes(BINARY, &["completion", ""], &["bash", "zsh"]);
    command::assert_bash_completes(BINARY, &["forget", "--"], &["--cluster-name", "--yes", "--etcd-tls-dir"]);
}
