//! Grace periods: waiting until every program that was running has ended, so that nothing that it had looked up is
//! looked at any more.
//!
//! Programs on a cgroup's socket hooks run inside RCU read sections. Two calls wait for those:
//! - `membarrier(2)` with `MEMBARRIER_CMD_GLOBAL` (Linux 4.3). Refused with EINVAL where CPUs run without a tick
//!   (`nohz_full=`), and with only one CPU online it returns without waiting, although a program may have been
//!   preempted there.
//! - A write to an array of maps. The kernel lets it return only when no program can still see what stood there before
//!   (`maybe_wait_bpf_programs`, Linux 5.0). Always there where maps can be created at all.
#![allow(unsafe_code, reason = "the kernel is called by number")]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::cpus::{self, Cpus};
use super::sys::{self, How, MapAttr};

/// By what a grace period is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Membarrier,
    OuterMap,
}

impl Method {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Membarrier => "membarrier",
            Self::OuterMap => "outer_map",
        }
    }
}

/// There is no way to wait.
#[derive(Debug, thiserror::Error)]
pub enum GraceError {
    #[error(
        "no way to wait for running programs: membarrier(2) is refused ({membarrier}), and no array of maps can be \
         created; this process needs CAP_BPF"
    )]
    NoMethod { membarrier: io::Error, source: io::Error },
    #[error("waiting for running programs to end")]
    Wait(#[source] io::Error),
}

/// The ways that this kernel offers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct GracePeriods {
    kernel: Kernel,
    method: Method,
    outer: Option<Arc<OuterMap>>,
}

/// What is asked of the kernel; tests answer themselves.
#[derive(Clone, Copy, Debug)]
struct Kernel {
    membarrier: fn() -> io::Result<()>,
    online_cpus: fn() -> io::Result<usize>,
}

const KERNEL: Kernel = Kernel { membarrier, online_cpus: || cpus::cpus(Cpus::Online) };

/// An array of maps and what is written into it.
#[derive(Debug)]
struct OuterMap {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl GracePeriods {
    /// Finds out what this kernel offers, by trying it.
    ///
    /// # Errors
    /// It offers nothing to this process.
    pub(crate) fn probe() -> Result<Self, GraceError> {
        Self::probe_with(KERNEL)
    }

    fn probe_with(kernel: Kernel) -> Result<Self, GraceError> {
        let outer = OuterMap::create();
        match (kernel.wait(), outer) {
            (Ok(()), outer) => {
                Ok(Self { kernel, method: Method::Membarrier, outer: outer.ok().map(Arc::new) })
            }
            (Err(_), Ok(outer)) => {
                Ok(Self { kernel, method: Method::OuterMap, outer: Some(Arc::new(outer)) })
            }
            (Err(membarrier), Err(source)) => Err(GraceError::NoMethod { membarrier, source }),
        }
    }

    /// The way that is tried first.
    pub(crate) fn method(&self) -> Method {
        self.method
    }

    /// Returns once every program that was running at the call has ended, and says how that was known.
    ///
    /// # Errors
    /// No way works any more.
    pub fn wait(&self) -> Result<Method, GraceError> {
        let refused = match self.method {
            Method::Membarrier => match self.kernel.wait() {
                Ok(()) => return Ok(Method::Membarrier),
                Err(error) => error,
            },
            Method::OuterMap => io::ErrorKind::Unsupported.into(),
        };
        let outer = self.outer.as_ref().ok_or(GraceError::Wait(refused))?;
        outer.wait().map_err(GraceError::Wait)?;
        Ok(Method::OuterMap)
    }
}

impl Kernel {
    fn wait(&self) -> io::Result<()> {
        self.check_cpus()?;
        (self.membarrier)()?;
        // CPUs come and go.
        self.check_cpus()
    }

    fn check_cpus(&self) -> io::Result<()> {
        if (self.online_cpus)()? > 1 {
            return Ok(());
        }
        Err(io::Error::other("with one CPU online it does not wait"))
    }
}

impl OuterMap {
    fn create() -> io::Result<Self> {
        let array = MapAttr {
            kind: MapAttr::ARRAY,
            key_size: 4,
            value_size: 4,
            max_entries: 1,
            ..MapAttr::default()
        };
        let inner = sys::create_map(array)?;
        let outer = MapAttr { kind: MapAttr::ARRAY_OF_MAPS, inner: sys::raw(inner.as_fd()), ..array };
        Ok(Self { outer: sys::create_map(outer)?, inner })
    }

    fn wait(&self) -> io::Result<()> {
        sys::update(self.outer.as_fd(), &0_u32, &[sys::raw(self.inner.as_fd())], How::Plain)
    }
}

fn membarrier() -> io::Result<()> {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: the call takes no addresses.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use super::*;

    const NO_HZ_FULL: Kernel =
        Kernel { membarrier: || Err(io::Error::from_raw_os_error(libc::EINVAL)), online_cpus: || Ok(64) };
    /// As the kernel does it: success, and nothing has been waited for.
    const ONE_CPU: Kernel = Kernel { membarrier: || Ok(()), online_cpus: || Ok(1) };

    /// A wait that begins while a program runs ends after it. Needs CAP_BPF.
    fn assert_waits(waits: &GracePeriods, method: Method) {
        const RUNS: u32 = 20;
        let program = sys::LongProgram::load().unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    program.run().unwrap();
                }
            });
            let deadline = Instant::now() + Duration::from_secs(60);
            let mut caught = 0;
            while caught < RUNS && Instant::now() < deadline {
                let [begun, ended] = program.progress().unwrap();
                if begun == ended {
                    continue;
                }
                assert_eq!(waits.wait().unwrap(), method);
                let [_, ended] = program.progress().unwrap();
                if ended < begun {
                    stop.store(true, Ordering::Relaxed);
                }
                assert!(ended >= begun, "run {begun} was under way before and after the wait");
                caught += 1;
            }
            stop.store(true, Ordering::Relaxed);
            assert_eq!(caught, RUNS, "the program was not met in the middle of a run");
        });
    }

    #[test]
    fn a_wait_outlasts_every_program_that_ran_when_it_began() {
        let outer = GracePeriods::probe_with(NO_HZ_FULL).unwrap();
        assert_waits(&outer, Method::OuterMap);
        if let Ok(2..) = cpus::cpus(Cpus::Online) {
            assert_waits(&GracePeriods::probe().unwrap(), Method::Membarrier);
        }
    }

    #[test]
    fn where_membarrier_is_refused_or_does_not_wait_an_outer_map_does() {
        for kernel in [NO_HZ_FULL, ONE_CPU] {
            let waits = GracePeriods::probe_with(kernel).unwrap();
            assert_eq!(waits.method(), Method::OuterMap);
            assert_eq!(waits.wait().unwrap(), Method::OuterMap);
        }
    }

    #[test]
    fn a_membarrier_that_is_refused_later_is_replaced() {
        let mut waits =
            GracePeriods::probe_with(Kernel { membarrier: || Ok(()), online_cpus: || Ok(2) }).unwrap();
        assert_eq!(waits.wait().unwrap(), Method::Membarrier);
        waits.kernel = ONE_CPU;
        assert_eq!(waits.wait().unwrap(), Method::OuterMap);
        waits.outer = None;
        assert!(waits.wait().is_err());
    }
}
