//! For tests: a program that runs for some milliseconds and says when it began and when it ended.

use std::os::fd::AsFd;

use super::*;

const PROG_LOAD: libc::c_int = 5;
const PROG_TEST_RUN: libc::c_int = 10;
const SOCKET_FILTER: u32 = 1;
/// Calls of `bpf_ktime_get_ns` in a run: as many as the verifier follows on every kernel.
const CALLS: i32 = 100_000;

/// `union bpf_attr` for loading a program, as far as it is used.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ProgramAttr {
    kind: u32,
    instructions: u32,
    first: u64,
    licence: u64,
}

/// `union bpf_attr` for a test run, as far as it is used.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct TestRunAttr {
    program: u32,
    result: u32,
    data_size: u32,
    data_size_out: u32,
    data: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

/// The program and the map in which it counts.
pub(in super::super) struct LongProgram {
    program: OwnedFd,
    map: OwnedFd,
}

/// Operation, destination and source registers, offset, immediate.
fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> u64 {
    let [low, high] = offset.to_le_bytes();
    let [a, b, c, d] = immediate.to_le_bytes();
    u64::from_le_bytes([code, source << 4 | destination, low, high, a, b, c, d])
}

impl LongProgram {
    pub(in super::super) fn load() -> io::Result<Self> {
        let attr = MapAttr {
            kind: MapAttr::ARRAY,
            key_size: 4,
            value_size: 16,
            max_entries: 1,
            ..MapAttr::default()
        };
        let map = create_map(attr)?;
        let fd = i32::try_from(raw(map.as_fd())).expect("descriptors are ints");
        let code = [
            instruction(0x62, 10, 0, -4, 0), // *(u32 *)(r10 - 4) = 0
            instruction(0xbf, 2, 10, 0, 0),  // r2 = r10
            instruction(0x07, 2, 0, 0, -4),  // r2 += -4
            instruction(0x18, 1, 1, 0, fd),  // r1 = the map
            instruction(0, 0, 0, 0, 0),
            instruction(0x85, 0, 0, 0, 1),  // r0 = bpf_map_lookup_elem(r1, r2)
            instruction(0x15, 0, 0, 10, 0), // if r0 == 0 goto the end
            instruction(0xbf, 7, 0, 0, 0),  // r7 = r0
            instruction(0x79, 1, 7, 0, 0),  // r1 = *(u64 *)(r7 + 0)
            instruction(0x07, 1, 0, 0, 1),  // r1 += 1
            instruction(0x7b, 7, 1, 0, 0),  // *(u64 *)(r7 + 0) = r1
            instruction(0xb7, 8, 0, 0, 0),  // r8 = 0
            instruction(0x85, 0, 0, 0, 5),  // bpf_ktime_get_ns()
            instruction(0x07, 8, 0, 0, 1),  // r8 += 1
            instruction(0xa5, 8, 0, -3, CALLS), // if r8 < CALLS call it again
            instruction(0x79, 1, 7, 0, 0),  // r1 = *(u64 *)(r7 + 0)
            instruction(0x7b, 7, 1, 8, 0),  // *(u64 *)(r7 + 8) = r1
            instruction(0xb7, 0, 0, 0, 0),  // r0 = 0
            instruction(0x95, 0, 0, 0, 0),  // exit
        ];
        let mut attr = ProgramAttr {
            kind: SOCKET_FILTER,
            instructions: u32::try_from(code.len()).expect("a few"),
            first: address(code.as_ptr()),
            licence: address(c"GPL".as_ptr()),
        };
        // SAFETY: the instructions and the licence outlive the call.
        let program = unsafe { bpf(PROG_LOAD, &mut attr) }?;
        Ok(Self { program: owned(program), map })
    }

    /// Runs the program once, inside an RCU read section as the kernel runs all that can't sleep.
    pub(in super::super) fn run(&self) -> io::Result<()> {
        let packet = [0_u8; 64];
        let mut attr = TestRunAttr {
            program: raw(self.program.as_fd()),
            data_size: 64,
            data: address(packet.as_ptr()),
            repeat: 1,
            ..TestRunAttr::default()
        };
        // SAFETY: the packet outlives the call, and nothing is written to user space.
        unsafe { bpf(PROG_TEST_RUN, &mut attr) }.map(drop)
    }

    /// The number of the run that last began, and of the one that last ended.
    pub(in super::super) fn progress(&self) -> io::Result<[u64; 2]> {
        let halves: Option<[u64; 2]> = lookup::<u32, Halves>(self.map.as_fd(), &0)?.map(|halves| halves.0);
        Ok(halves.unwrap_or_default())
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Halves([u64; 2]);

// SAFETY: integers have neither padding nor invalid bit patterns.
unsafe impl Plain for Halves {}
