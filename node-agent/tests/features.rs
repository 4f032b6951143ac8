//! What the agent says of a kernel and of its own rights, and that documents say the same.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use node_agent::datapath::kernel::MINIMUM;

const AGENT: &str = env!("CARGO_BIN_EXE_node-agent");

/// The same command without some capabilities.
fn without(capabilities: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new("setpriv");
    command.arg(format!("--bounding-set={capabilities}")).arg(format!("--inh-caps={capabilities}"));
    command.arg(AGENT).args(arguments);
    command.output().expect("these tests need util-linux")
}

#[test]
fn where_tests_run_the_agent_can_run() {
    let output = Command::new(AGENT).args(["features", "-o", "json"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{report:#}");
    assert_eq!(report["fit"], true);
    let items = report["items"].as_array().unwrap();
    assert!(items.iter().all(|item| item["present"] == true || item["required"] == false), "{report:#}");
}

#[test]
fn missing_rights_are_named_with_their_remedy() {
    let output = without("-all", &["features"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let line = said
        .lines()
        .find(|line| line.starts_with("missing  connect-hooks"))
        .unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains("required"), "{line}");
    assert!(said.contains("CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"), "{said}");
    assert!(said.ends_with("The agent can't run here.\n"), "{said}");
}

#[test]
fn only_the_right_that_is_missing_is_named() {
    for (capability, name) in [("bpf", "CAP_BPF"), ("net_admin", "CAP_NET_ADMIN"), ("perfmon", "CAP_PERFMON")]
    {
        // CAP_SYS_ADMIN stands for some of them.
        let output = without(&format!("-sys_admin,-{capability}"), &["features"]);
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        let mut remedies = said.lines().filter(|line| line.starts_with("         "));
        assert!(remedies.clone().count() > 0, "{said}");
        assert!(remedies.all(|line| line.contains(&format!("this process lacks {name}: give it"))), "{said}");
    }
}

#[test]
fn every_text_names_the_same_kernel() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let [(_, x86), (_, arm)] = MINIMUM;
    for (file, words) in [
        ("docs/install.md", vec![format!("Linux {x86}"), format!("arm64: {arm}")]),
        ("docs/kernels.md", vec![format!("x86-64: Linux {x86}"), format!("arm64: Linux {arm}")]),
        ("CONTRIBUTING.md", vec![format!("Linux {x86} or newer")]),
        ("setup/deps.sh", vec![format!("KERNEL_WANTED={x86}")]),
        ("e2e/src/prerequisite.rs", vec![format!("(5, {})", x86.trim_start_matches("5."))]),
    ] {
        let text = fs::read_to_string(root.join(file)).unwrap();
        // A line may end between the words.
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for word in words {
            assert!(text.contains(&word), "{file} does not say {word:?}");
        }
    }
}

#[test]
fn the_oldest_kernel_of_the_matrix_is_the_one_that_texts_name() {
    let matrix = Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/kernels/matrix");
    let matrix = fs::read_to_string(matrix).unwrap();
    let rows = matrix.lines().filter(|line| !line.starts_with('#'));
    let mut loads = rows.filter_map(|line| {
        let mut fields = line.split_whitespace();
        let name = fields.next()?;
        (fields.next()? == "loads").then_some(name)
    });
    assert_eq!(loads.next(), Some(MINIMUM[0].1));
}
