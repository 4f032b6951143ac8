//! How many CPUs this machine has. Never decides anything.

use std::io;

/// CPUs that the kernel keeps a list of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cpus {
    /// Those that may ever be: as many values a per-CPU map gives.
    Possible,
    Online,
}

/// Number of CPUs.
pub(super) fn cpus(which: Cpus) -> io::Result<usize> {
    Ok(listed(which)?.len())
}

/// The place of a CPU among the possible ones: where a per-CPU map has its value.
pub(super) fn place(cpu: usize) -> io::Result<usize> {
    let place = listed(Cpus::Possible)?.into_iter().position(|listed| listed == cpu);
    place.ok_or_else(|| io::Error::other(format!("CPU {cpu} is none of the possible ones")))
}

fn listed(which: Cpus) -> io::Result<Vec<usize>> {
    let list = match which {
        Cpus::Possible => "possible",
        Cpus::Online => "online",
    };
    let text = std::fs::read_to_string(format!("/sys/devices/system/cpu/{list}"))?;
    parse(&text).ok_or_else(|| io::Error::other(format!("no list of CPUs: {text:?}")))
}

/// As `0-3,8`.
fn parse(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for range in text.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        cpus.extend(first.parse().ok()?..=last.parse::<usize>().ok()?);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_cpus_may_have_holes() {
        assert_eq!(parse("0-2,8\n"), Some(vec![0, 1, 2, 8]));
        assert_eq!(parse("0\n"), Some(vec![0]));
        assert_eq!(parse("none"), None);
    }
}
