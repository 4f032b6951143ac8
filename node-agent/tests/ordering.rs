//! What the programs read in order on arm64 is ordered by addresses that are made of what was read before: the object has
//! that arithmetic, and no branch in its place (docs/kernels.md).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends there")]

use std::mem::{offset_of, size_of};

use mesh_abi::{ServiceCell, ServiceEntry};

const OBJECT: &[u8] = include_bytes!("../../ebpf/object/mesh.bpf.o");
/// The programs that choose a backend.
const CHOOSING: [&str; 4] = ["cgroup/connect4", "cgroup/connect6", "cgroup/sendmsg4", "cgroup/sendmsg6"];

/// Operations of eBPF instructions (`linux/bpf_common.h`, `linux/bpf.h`).
const LOAD_WORD: u8 = 0x61;
const AND_32: u8 = 0x54;
const AND_64: u8 = 0x57;
const MULTIPLY: u8 = 0x27;
const ADD_REGISTER: u8 = 0x0f;

#[derive(Clone, Copy, Debug)]
struct Instruction {
    op: u8,
    destination: u8,
    source: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    fn parse(bytes: &[u8]) -> Self {
        Self {
            op: bytes[0],
            destination: bytes[1] & 0xf,
            source: bytes[1] >> 4,
            offset: i16::from_le_bytes([bytes[2], bytes[3]]),
            immediate: i32::from_le_bytes(bytes[4..8].try_into().unwrap()),
        }
    }
}

fn number(elf: &[u8], at: usize, bytes: usize) -> usize {
    let mut word = [0; 8];
    word[..bytes].copy_from_slice(&elf[at..at + bytes]);
    usize::try_from(u64::from_le_bytes(word)).unwrap()
}

/// The instructions of a section of an ELF64 file.
fn instructions(elf: &[u8], wanted: &str) -> Vec<Instruction> {
    let (headers, size) = (number(elf, 40, 8), number(elf, 58, 2));
    let (count, names) = (number(elf, 60, 2), number(elf, 62, 2));
    let header = |index: usize| headers + index * size;
    let name = |index: usize| {
        let at = number(elf, header(names) + 24, 8) + number(elf, header(index), 4);
        elf[at..].split(|byte| *byte == 0).next().unwrap()
    };
    let index = (0..count).find(|index| name(*index) == wanted.as_bytes()).unwrap();
    let (start, length) = (number(elf, header(index) + 24, 8), number(elf, header(index) + 32, 8));
    elf[start..start + length].chunks_exact(8).map(Instruction::parse).collect()
}

/// `version = cell + (cell.current & 1) * size`, without a branch.
fn is_version_by_address(window: &[Instruction]) -> bool {
    let [load, mask, scale, add] = window else { return false };
    let current = i16::try_from(offset_of!(ServiceCell, current)).unwrap();
    let version = i32::try_from(size_of::<ServiceEntry>()).unwrap();
    let index = load.destination;
    (load.op, load.offset) == (LOAD_WORD, current)
        && matches!(mask.op, AND_32 | AND_64)
        && (mask.destination, mask.immediate) == (index, 1)
        && (scale.op, scale.destination, scale.immediate) == (MULTIPLY, index, version)
        && (add.op, add.destination, add.source) == (ADD_REGISTER, load.source, index)
}

#[test]
fn the_version_that_counts_is_reached_by_an_address_made_of_the_word_that_says_so() {
    for program in CHOOSING {
        let all = instructions(OBJECT, program);
        let found = all.windows(4).filter(|window| is_version_by_address(window)).count();
        assert_eq!(
            found, 1,
            "{program}: rebuilt with a compiler that does it otherwise? See docs/kernels.md"
        );
    }
}
