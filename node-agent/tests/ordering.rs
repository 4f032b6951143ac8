//! What the programs read in order on arm64 is ordered by addresses that are made of what was read before: the object has
//! that arithmetic, and no branch in its place (docs/kernels.md).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends there")]

use std::mem::{offset_of, size_of};

use mesh_abi::{Group, ServiceCell, ServiceVersion};

const OBJECT: &[u8] = include_bytes!("../../ebpf/object/mesh.bpf.o");
/// The programs that choose a backend.
const CHOOSING: [&str; 4] = ["cgroup/connect4", "cgroup/connect6", "cgroup/sendmsg4", "cgroup/sendmsg6"];

/// Operations of eBPF instructions (`linux/bpf_common.h`, `linux/bpf.h`).
const LOAD_WORD: u8 = 0x61;
const LOAD_HALF: u8 = 0x69;
const LOAD_BYTE: u8 = 0x71;
const LOAD_DOUBLE: u8 = 0x79;
const AND_32: u8 = 0x54;
const AND_64: u8 = 0x57;
const SHIFT_LEFT: u8 = 0x67;
const ADD_REGISTER: u8 = 0x0f;
const OR_REGISTER: u8 = 0x4f;
const MOVE: u8 = 0xbf;
const STORE_WORD: u8 = 0x63;
const STORE_DOUBLE: u8 = 0x7b;

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

/// `version = cell + ((cell.current & 1) << the size's logarithm)`, without a branch. What it begins with is kept aside
/// meanwhile.
fn is_version_by_address(window: &[Instruction]) -> bool {
    let kept = window.iter().filter(|next| !matches!(next.op, STORE_WORD | STORE_DOUBLE));
    let steps: Vec<_> = kept.filter(|next| next.op != MOVE).take(4).collect();
    let [load, mask, scale, add] = steps[..] else { return false };
    let current = i16::try_from(offset_of!(ServiceCell, current)).unwrap();
    let version = i32::try_from(size_of::<ServiceVersion>().trailing_zeros()).unwrap();
    let (index, cell) = (load.destination, load.source);
    let is_copied =
        window.iter().any(|next| (next.op, next.source, next.destination) == (MOVE, cell, add.destination));
    (load.op, load.offset) == (LOAD_WORD, current)
        && matches!(mask.op, AND_32 | AND_64)
        && (mask.destination, mask.immediate) == (index, 1)
        && (scale.op, scale.destination, scale.immediate) == (SHIFT_LEFT, index, version)
        && (add.op, add.source) == (ADD_REGISTER, index)
        && (add.destination == cell || is_copied)
}

#[test]
fn the_version_that_counts_is_reached_by_an_address_made_of_the_word_that_says_so() {
    for program in CHOOSING {
        let all = instructions(OBJECT, program);
        let starts = all.windows(8).filter(|window| window[0].op == LOAD_WORD);
        let found = starts.filter(|window| is_version_by_address(window)).count();
        assert_eq!(
            found, 1,
            "{program}: rebuilt with a compiler that does it otherwise? See docs/kernels.md"
        );
    }
}

fn offset(bytes: usize) -> i16 {
    i16::try_from(bytes).unwrap()
}

/// The places of `x & 0`, which no compiler writes by itself.
fn distances(all: &[Instruction]) -> Vec<usize> {
    let is_distance = |at: &usize| (all[*at].op, all[*at].immediate) == (AND_64, 0);
    (0..all.len()).filter(is_distance).collect()
}

/// The loads at addresses to which a register was added: operation and offset of the first load through each.
fn loads_at_distance(after: &[Instruction], distance: u8) -> Vec<(u8, i16)> {
    let loads: Vec<_> = after.iter().filter(|next| next.op != MOVE).collect();
    let adds = loads.windows(2).filter(|pair| (pair[0].op, pair[0].source) == (ADD_REGISTER, distance));
    adds.filter(|pair| pair[1].source == pair[0].destination)
        .map(|pair| (pair[1].op, pair[1].offset))
        .collect()
}

#[test]
fn what_tells_whether_an_entry_is_whole_is_read_at_an_address_made_of_all_that_was_read_of_it() {
    let current = offset(offset_of!(ServiceCell, current));
    let head = offset(offset_of!(ServiceVersion, head));
    for program in CHOOSING {
        let all = instructions(OBJECT, program);
        let [at] = distances(&all)[..] else { panic!("{program}: not one `x & 0`: see docs/kernels.md") };
        let seen = all[at].destination;
        // The cell's word, and from the stamp on all the rest of the entry, behind one another.
        let loads = loads_at_distance(&all[at + 1..at + 16], seen);
        assert_eq!(loads, [(LOAD_WORD, current), (LOAD_DOUBLE, head)], "{program}");
        // Two stamps, the flags with the number of groups, the word that chooses a group, and the group.
        let words = all.iter().filter(|or| (or.op, or.destination) == (OR_REGISTER, seen)).count();
        assert!(words >= 4 + GROUP_FIELDS, "{program}: {words} words are seen");
        assert_eq!(groups_seen(&all, Some(seen)), 1, "{program}: the group that is chosen");
    }
    assert_eq!(
        groups_seen(&instructions(OBJECT, ".text"), None),
        1,
        "mesh_look: the groups that are looked at"
    );
}

const GROUP_FIELDS: usize = 6;

/// How often all fields of a group are loaded, one after the other, and then put, one after the other, into one register.
fn groups_seen(all: &[Instruction], into: Option<u8>) -> usize {
    let fields = [
        (LOAD_HALF, offset_of!(Group, cluster)),
        (LOAD_BYTE, offset_of!(Group, tier)),
        (LOAD_WORD, offset_of!(Group, weight)),
        (LOAD_WORD, offset_of!(Group, first)),
        (LOAD_WORD, offset_of!(Group, count)),
        (LOAD_WORD, offset_of!(Group, counter)),
    ]
    .map(|(op, field)| (op, offset(field)));
    let is_seen = |at: &usize| {
        let (loads, rest) = all[*at..].split_at(GROUP_FIELDS);
        let ors: Vec<_> =
            rest.iter().take(12).filter(|next| next.op == OR_REGISTER).take(GROUP_FIELDS).collect();
        let register = ors.first().map(|or| or.destination);
        loads.iter().map(|load| (load.op, load.offset)).eq(fields)
            && ors.iter().map(|or| or.source).eq(loads.iter().map(|load| load.destination))
            && ors.iter().all(|or| Some(or.destination) == register)
            && into.is_none_or(|into| register == Some(into))
    };
    (0..all.len() - GROUP_FIELDS).filter(is_seen).count()
}
