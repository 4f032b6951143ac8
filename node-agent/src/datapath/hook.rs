//! A program of the object on its way onto a cgroup, whichever kind of hook it is for. Never decides anything.

use std::fs::File;

use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSock, CgroupSockAddr, Program, ProgramError};

/// A cgroup link always shares its cgroup with others; the kernel refuses other modes as a flag.
const MODE: CgroupAttachMode = CgroupAttachMode::Single;

/// Hands a program to the kernel's verifier.
pub(super) fn load(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::CgroupSock(program) => program.load(),
        program => <&mut CgroupSockAddr>::try_from(program)?.load(),
    }
}

/// Attaches a program to a cgroup, by a link (kernel 5.7).
pub(super) fn attach(program: &mut Program, cgroup: &File) -> Result<FdLink, ProgramError> {
    let link = match program {
        Program::CgroupSock(program) => of_sock(program, cgroup)?,
        program => of_address(program.try_into()?, cgroup)?,
    };
    link.ok_or(ProgramError::NotAttached)
}

fn of_sock(program: &mut CgroupSock, cgroup: &File) -> Result<Option<FdLink>, ProgramError> {
    let id = program.attach(cgroup, MODE)?;
    Ok(program.take_link(id)?.try_into().ok())
}

fn of_address(program: &mut CgroupSockAddr, cgroup: &File) -> Result<Option<FdLink>, ProgramError> {
    let id = program.attach(cgroup, MODE)?;
    Ok(program.take_link(id)?.try_into().ok())
}
