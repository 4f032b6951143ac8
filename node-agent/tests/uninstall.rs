//! `node-agent uninstall`, by the real binary: what it removes, and how a clean-up DaemonSet's pod ends.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{INSTANCE, World};

mod support;

fn uninstall(world: &World, run_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_node-agent"));
    let flags = ["uninstall", "--instance", INSTANCE, "--bpffs"];
    command.args(flags).arg(&world.bpffs).arg("--run-dir").arg(run_dir);
    command
}

#[test]
fn it_removes_everything_and_stays_until_it_is_told_to_stop() {
    let world = World::new();
    drop(world.attached());
    let scratch = tempfile::tempdir().unwrap();
    let run_dir = scratch.path().join("run");
    fs::create_dir_all(run_dir.join(INSTANCE)).unwrap();
    fs::write(run_dir.join(INSTANCE).join("names"), "").unwrap();

    let mut child =
        uninstall(&world, &run_dir).arg("--stay").stdout(Stdio::piped()).spawn().expect("the binary starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, format!("removed instance {INSTANCE}\n"));
    assert!(!world.bpffs.join("clustermesh").exists());
    assert!(!run_dir.exists());
    assert_eq!(child.try_wait().unwrap(), None, "it stays");

    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn another_instance_is_left_alone() {
    let world = World::new();
    drop(world.attached());
    let scratch = tempfile::tempdir().unwrap();
    let run_dir = scratch.path().join("run");
    fs::create_dir_all(run_dir.join("other")).unwrap();
    fs::create_dir_all(world.bpffs.join("clustermesh").join("other")).unwrap();

    assert!(uninstall(&world, &run_dir).status().unwrap().success());
    assert!(!world.bpffs.join("clustermesh").join(INSTANCE).exists());
    assert!(run_dir.join("other").exists());
    assert!(world.bpffs.join("clustermesh").join("other").exists());

    let again = uninstall(&world, &run_dir).output().unwrap();
    assert!(again.status.success());
    assert_eq!(
        String::from_utf8_lossy(&again.stdout),
        format!("nothing to remove for instance {INSTANCE}\n")
    );
}
