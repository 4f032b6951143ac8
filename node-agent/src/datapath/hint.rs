//! What to do where the kernel refuses a bpf(2) call: capabilities, limits, version. One list for all who make such calls.
//!
//! The judgement is pure; what this process is and has is read from `/proc` only once something was refused.

use std::error::Error;
use std::fmt;
use std::fs;
use std::io;

use aya::programs::ProgramError;

use super::kernel::MINIMUM;

/// The capabilities that the agent needs, with their numbers.
const NEEDED: [(u32, &str); 3] = [(39, "CAP_BPF"), (NET_ADMIN, "CAP_NET_ADMIN"), (PERFMON, "CAP_PERFMON")];
const NET_ADMIN: u32 = 12;
const PERFMON: u32 = 38;
/// Stands for CAP_BPF and CAP_PERFMON, which came with Linux 5.8.
const SYS_ADMIN: u32 = 21;
const SYS_RESOURCE: u32 = 24;
/// From here on maps count against the cgroup's memory instead of RLIMIT_MEMLOCK.
const CGROUP_MEMORY: (u32, u32) = (5, 11);

/// The kernel's own ENOTSUPP, of a JIT that lacks an instruction.
const NOT_SUPPORTED: i32 = 524;

/// What the verifier says of programs that only those with CAP_PERFMON may load.
const POINTERS: [&str; 3] = ["pointer -= pointer prohibited", "pointer comparison prohibited", "leaks addr"];

/// What this process is and has, as far as the kernel's answers depend on it.
#[derive(Clone, Debug, Default)]
pub(super) struct Process {
    /// `CapEff`.
    capabilities: u64,
    /// Major and minor version of the kernel.
    release: (u32, u32),
    /// RLIMIT_MEMLOCK in bytes; none: without limit.
    memlock: Option<u64>,
}

/// What the kernel answered.
#[derive(Clone, Debug, Default)]
struct Refusal {
    errno: Option<i32>,
    /// The verifier's.
    log: String,
}

/// What to do, to be shown behind an error; nothing where nothing is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hint(Option<String>);

impl Hint {
    /// What to do about an error of a bpf(2) call.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        let refusal = Refusal::of(error);
        // Most errors are no refusals, and need no look at this process.
        if refusal.errno.is_none() { Self(None) } else { Self(remedy(&refusal, &Process::current())) }
    }

    /// The same text, or another where nothing is known.
    pub(super) fn or(self, text: &str) -> Self {
        Self(self.0.or_else(|| Some(text.into())))
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(text) => write!(f, "; {text}"),
            None => Ok(()),
        }
    }
}

/// What to do where a probe of the kernel failed, if that says nothing of the kernel. A process without the rights can't
/// tell what the kernel offers, whatever it answers.
pub(super) fn of_probe(error: &io::Error) -> Option<String> {
    let process = Process::current();
    let (errno, lacking) = (error.raw_os_error(), process.lacks());
    match errno {
        _ if !lacking.is_empty() => Some(give(&lacking)),
        Some(libc::EPERM | libc::ENOMEM) => remedy(&Refusal { errno, log: String::new() }, &process),
        _ => None,
    }
}

impl Refusal {
    fn of(error: &(dyn Error + 'static)) -> Self {
        let mut refusal = Self::default();
        let mut next = Some(error);
        while let Some(cause) = next {
            if let Some(ProgramError::LoadError { verifier_log, .. }) = cause.downcast_ref() {
                refusal.log = verifier_log.to_string();
            }
            let errno = cause.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
            refusal.errno = refusal.errno.or(errno);
            next = cause.source();
        }
        refusal
    }
}

impl Process {
    /// The calling one. What can't be read counts as there, so that nothing is named wrongly.
    fn current() -> Self {
        // Capabilities are a thread's.
        let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        Self {
            capabilities: capabilities(&status).unwrap_or(u64::MAX),
            release: version(&release).unwrap_or((u32::MAX, 0)),
            memlock: locked_memory(&limits),
        }
    }

    fn has(&self, capability: u32) -> bool {
        self.capabilities & 1 << capability != 0
    }

    fn lacks(&self) -> Vec<&'static str> {
        let covered = |number| number != NET_ADMIN && self.has(SYS_ADMIN);
        let lacking = NEEDED.into_iter().filter(|(number, _)| !self.has(*number) && !covered(*number));
        lacking.map(|(_, name)| name).collect()
    }
}

fn capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// The soft limit in bytes; none where there is none.
fn locked_memory(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

/// What to do about a refusal.
fn remedy(refusal: &Refusal, process: &Process) -> Option<String> {
    let lacking = process.lacks();
    let may_compare = process.has(PERFMON) || process.has(SYS_ADMIN);
    if POINTERS.iter().any(|part| refusal.log.contains(part)) && !may_compare {
        return Some(give(&["CAP_PERFMON"]));
    }
    match refusal.errno? {
        libc::EPERM | libc::EACCES if !lacking.is_empty() => Some(give(&lacking)),
        libc::EPERM => Some(not_permitted(process)),
        libc::ENOMEM => Some(no_memory(process)),
        libc::ENOSYS => Some("this kernel has no bpf(2): boot one with CONFIG_BPF_SYSCALL".into()),
        libc::EINVAL | libc::EACCES | libc::E2BIG | NOT_SUPPORTED => old(process),
        _ => None,
    }
}

fn give(lacking: &[&str]) -> String {
    let names = match lacking {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        _ => lacking.concat(),
    };
    let verifier = match lacking.contains(&"CAP_PERFMON") {
        true => "; without CAP_PERFMON the verifier says \"pointer -= pointer prohibited\"",
        false => "",
    };
    format!(
        "this process lacks {names}: give it (Kubernetes: securityContext.capabilities, systemd: \
         AmbientCapabilities=){verifier}"
    )
}

/// Everything that the agent needs is there, and it may not all the same.
fn not_permitted(process: &Process) -> String {
    match limit(process) {
        Some(limit) => limit,
        None => "this process has all capabilities that it needs: look for kernel.lockdown=confidentiality, a seccomp \
                 profile or a security module (SELinux, AppArmor) that forbids bpf(2), or a user namespace"
            .into(),
    }
}

fn no_memory(process: &Process) -> String {
    limit(process).unwrap_or_else(|| {
        "maps count against the memory limit of this process's cgroup: raise it, or make the maps smaller (--max-…)".into()
    })
}

/// RLIMIT_MEMLOCK, where this kernel holds maps against it.
fn limit(process: &Process) -> Option<String> {
    let bytes = process.memlock.filter(|_| process.release < CGROUP_MEMORY && !process.has(SYS_RESOURCE))?;
    Some(format!(
        "before Linux 5.11 maps count against RLIMIT_MEMLOCK, which is {} KiB: raise it (ulimit -l unlimited, systemd: \
         LimitMEMLOCK=infinity), or give this process CAP_SYS_RESOURCE",
        bytes / 1024
    ))
}

/// Whether this kernel is older than any that runs the programs.
fn old(process: &Process) -> Option<String> {
    let minimum = MINIMUM[usize::from(cfg!(target_arch = "aarch64"))];
    let (name, oldest) = minimum;
    (process.release < version(oldest)?).then(|| {
        let (major, minor) = process.release;
        format!("this is Linux {major}.{minor}, and the programs need {oldest} or newer on {name}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = 1 << 39 | 1 << NET_ADMIN | 1 << PERFMON;
    const NEW: (u32, u32) = (6, 1);
    const LOG: &str = "0: (1f) r2 -= r1\nR2 pointer -= pointer prohibited\nprocessed 2 insns";

    fn process(capabilities: u64, release: (u32, u32), memlock: Option<u64>) -> Process {
        Process { capabilities, release, memlock }
    }

    #[test]
    fn what_is_missing_is_named() {
        let (oldest, small) = ((5, 10), Some(64 << 10));
        for (errno, log, process, expected) in [
            (libc::EPERM, "", process(0, NEW, None), "lacks CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON: give it"),
            (libc::EPERM, "", process(1 << 39, NEW, None), "lacks CAP_NET_ADMIN and CAP_PERFMON"),
            (libc::EPERM, "", process(ALL & !(1 << 39), NEW, None), "lacks CAP_BPF: give it"),
            (libc::EPERM, "", process(1 << SYS_ADMIN, NEW, None), "lacks CAP_NET_ADMIN: give it"),
            (libc::EPERM, "", process(ALL, NEW, small), "kernel.lockdown"),
            (libc::EPERM, "", process(ALL, oldest, small), "RLIMIT_MEMLOCK, which is 64 KiB"),
            (libc::EPERM, "", process(ALL, oldest, None), "kernel.lockdown"),
            (libc::EPERM, "", process(ALL | 1 << SYS_RESOURCE, oldest, small), "kernel.lockdown"),
            (libc::ENOMEM, "", process(ALL, oldest, small), "RLIMIT_MEMLOCK"),
            (libc::ENOMEM, "", process(ALL, NEW, small), "memory limit of this process's cgroup"),
            (libc::EACCES, LOG, process(ALL & !(1 << PERFMON), NEW, None), "lacks CAP_PERFMON: give it"),
            (libc::EACCES, LOG, process(1 << SYS_ADMIN | 1 << NET_ADMIN, NEW, None), ""),
            (libc::EACCES, "R1 invalid mem access", process(ALL, NEW, None), ""),
            (
                libc::EINVAL,
                "unknown opcode",
                process(ALL, oldest, None),
                "this is Linux 5.10, and the programs need",
            ),
            (libc::EINVAL, "unknown opcode", process(ALL, NEW, None), ""),
            (libc::ENOSYS, "", process(ALL, NEW, None), "CONFIG_BPF_SYSCALL"),
            (libc::ENOENT, "", process(0, oldest, small), ""),
        ] {
            let refusal = Refusal { errno: Some(errno), log: log.into() };
            let told = remedy(&refusal, &process).unwrap_or_default();
            assert_eq!(told.is_empty(), expected.is_empty(), "{refusal:?} of {process:?}: {told}");
            assert!(told.contains(expected), "{refusal:?} of {process:?}: {told}");
        }
    }

    #[test]
    fn what_proc_says_is_understood() {
        assert_eq!(capabilities("Name:\ta\nCapEff:\t000001ffffffffff\nCapBnd:\t0\n"), Some(0x1ff_ffff_ffff));
        assert_eq!(capabilities("Name:\ta\n"), None);
        let limit =
            |value: &str| locked_memory(&format!("Limit\nMax locked memory   {value}   8388608   bytes\n"));
        assert_eq!((limit("65536"), limit("unlimited"), locked_memory("")), (Some(65536), None, None));
        for (release, expected) in
            [("6.1.0-28-amd64\n", Some((6, 1))), ("5.15", Some((5, 15))), ("7", None), ("", None)]
        {
            assert_eq!(version(release), expected, "{release}");
        }
        assert_ne!(Process::current().release, (u32::MAX, 0));
    }

    #[test]
    fn the_cause_is_found_below_other_errors() {
        let refused = io::Error::from_raw_os_error(libc::EPERM);
        let error =
            super::super::maps::MapError::Call { action: "writing", name: "SERVICES", source: refused };
        assert_eq!(Refusal::of(&error).errno, Some(libc::EPERM));
        assert_eq!(Hint::of(&io::Error::other("no number")), Hint::default());
    }
}
