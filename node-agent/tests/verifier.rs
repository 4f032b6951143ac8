//! What the kernel's verifier makes of each program: all of them load, well within its limit. Kernels explore a
//! program differently, so that `make test-kernels` runs this on each kernel of its list.

#![allow(clippy::unwrap_used, clippy::panic)]

use aya::programs::{CgroupSock, CgroupSockAddr, Program};

/// Half of what the verifier looks at before it refuses a program (a million instructions since Linux 5.2), so that a
/// kernel which explores differently still loads it.
const BUDGET: u32 = 500_000;

static OBJECT: &[u8] = aya::include_bytes_aligned!("../../ebpf/object/mesh.bpf.o");

/// Loads a program, and says how many instructions the verifier has looked at (Linux 5.16 tells).
fn verified(program: &mut Program) -> Option<u32> {
    load(program);
    program.info().unwrap().verified_instruction_count()
}

fn load(program: &mut Program) {
    match program {
        Program::CgroupSock(program) => CgroupSock::load(program).unwrap(),
        program => <&mut CgroupSockAddr>::try_from(program).unwrap().load().unwrap(),
    }
}

#[test]
fn every_program_takes_at_most_half_of_what_the_verifier_allows() {
    // As the agent loads them.
    let features = node_agent::features::probe().items;
    let mptcp = u32::from(features.iter().any(|feature| feature.name == "mptcp" && feature.present));
    let mut loader = aya::EbpfLoader::new();
    loader.btf(None).override_global("MPTCP", &mptcp, true);
    let mut object = loader.load(OBJECT).expect("these tests need root and eBPF");
    let mut costs: Vec<_> =
        object.programs_mut().map(|(name, program)| (name.to_owned(), verified(program))).collect();
    costs.sort();
    assert_eq!(costs.len(), node_agent::datapath::programs::HOOKS.len());
    for (name, cost) in &costs {
        println!("verifier: {name} {}", cost.map_or("unknown".to_owned(), |cost| cost.to_string()));
    }
    let over: Vec<_> = costs.iter().filter(|(_, cost)| cost.is_some_and(|cost| cost > BUDGET)).collect();
    assert!(over.is_empty(), "over the budget of {BUDGET} instructions: {over:?}");
}
