//! A kernel that refuses one program, or whose hook somebody holds: nothing is left half attached.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends there")]

mod support;

use std::fs;

use aya::programs::links::{FdLink, PinnedLink};
use node_agent::datapath::programs::{Found, HOOKS, ProgramsError};
use support::{CAPACITY, World};

/// The object with one program that no verifier takes: it begins with `exit`, without a verdict.
fn spoilt(section: &str) -> &'static [u8] {
    #[repr(align(8))]
    struct Aligned<const N: usize>([u8; N]);
    const OBJECT: &[u8] = include_bytes!("../../ebpf/object/mesh.bpf.o");
    let mut object = Box::new(Aligned([0; OBJECT.len()]));
    object.0.copy_from_slice(OBJECT);
    let bytes = &mut Box::leak(object).0;
    let start = section_start(bytes, section);
    bytes[start..start + 8].copy_from_slice(&[0x95, 0, 0, 0, 0, 0, 0, 0]);
    bytes
}

/// Where a section of an ELF64 file begins.
fn section_start(elf: &[u8], wanted: &str) -> usize {
    let number = |at: usize, bytes: usize| {
        let mut word = [0; 8];
        word[..bytes].copy_from_slice(&elf[at..at + bytes]);
        usize::try_from(u64::from_le_bytes(word)).unwrap()
    };
    let (headers, size, count, names) = (number(40, 8), number(58, 2), number(60, 2), number(62, 2));
    let start = |index: usize| number(headers + index * size + 24, 8);
    let name = |index: usize| {
        let at = start(names) + number(headers + index * size, 4);
        elf[at..].split(|byte| *byte == 0).next().unwrap()
    };
    start((0..count).find(|index| name(*index) == wanted.as_bytes()).unwrap())
}

/// The ids of the programs that the pinned links run.
fn programs(world: &World) -> Vec<u32> {
    let program = |hook| {
        let link: FdLink = PinnedLink::from_pin(world.pin("links", hook)).unwrap().into();
        link.info().unwrap().program_id()
    };
    HOOKS.into_iter().map(program).collect()
}

#[test]
fn a_refused_program_leaves_none_attached() {
    let world = World::new();
    let installation = world.installation().with_object(spoilt("cgroup/recvmsg6"));
    let Found::Built { mut maps, old: None } = installation.maps(CAPACITY).unwrap() else { panic!("maps") };
    let error = installation.attach(&mut maps).unwrap_err();
    assert!(error.to_string().contains("mesh_recvmsg6"), "{error}");
    for hook in HOOKS {
        assert!(!world.pin("links", hook).exists(), "{hook}");
    }
    drop(maps);
    drop(world.attached());
}

#[test]
fn a_refused_upgrade_leaves_the_programs_that_ran() {
    let world = World::new();
    drop(world.attached());
    let before = programs(&world);
    let installation = world.installation().with_object(spoilt("cgroup/recvmsg6"));
    let Found::Adopted(mut maps) = installation.maps(CAPACITY).unwrap() else { panic!("new maps") };
    installation.attach(&mut maps).unwrap_err();
    assert_eq!(programs(&world), before);
}

#[test]
fn a_hook_that_is_refused_takes_the_others_off_again() {
    let world = World::new();
    // Nothing can be pinned at the place of the last link.
    let installation = world.installation();
    let blocked = world.pin("links", "mesh_recvmsg6");
    fs::create_dir(&blocked).unwrap();
    let Found::Built { mut maps, old: None } = installation.maps(CAPACITY).unwrap() else { panic!("maps") };
    installation.attach(&mut maps).unwrap_err();
    for hook in HOOKS.into_iter().filter(|hook| *hook != "mesh_recvmsg6") {
        assert!(!world.pin("links", hook).exists(), "{hook}");
    }
    // connect, sendmsg, recvmsg, getpeername and release, as the kernel numbers them.
    for attach_type in [10, 11, 14, 15, 19, 20, 29, 30, 34] {
        assert_eq!(world.effective(attach_type), 0, "attach type {attach_type}");
    }
}

/// Does something with these capabilities alone. Returns what it says of its failure, causes included.
fn said_with(capabilities: &[u32], work: impl FnOnce() -> Result<(), ProgramsError> + Send) -> String {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            support::keep_capabilities(capabilities);
            work().unwrap_err().to_string()
        });
        thread.join().unwrap()
    })
}

#[test]
fn rights_that_are_missing_are_named_where_maps_are_created_and_programs_loaded_and_attached() {
    let world = World::new();
    let installation = world.installation();
    let said = said_with(&[], || installation.maps(CAPACITY).map(drop));
    assert!(
        said.contains("creating the maps; this process lacks CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"),
        "{said}"
    );

    let Found::Built { maps, old: None } = installation.maps(CAPACITY).unwrap() else { panic!("maps") };
    let maps = std::sync::Mutex::new(maps);
    let attach = || installation.attach(&mut maps.lock().unwrap()).map(drop);
    let said = said_with(&[support::NET_ADMIN, support::BPF], attach);
    assert!(
        said.contains("loading program mesh_") && said.contains("this process lacks CAP_PERFMON: give it"),
        "{said}"
    );
    let said = said_with(&[support::PERFMON, support::BPF], attach);
    assert!(said.contains("this process lacks CAP_NET_ADMIN: give it"), "{said}");
    attach().unwrap();
}
