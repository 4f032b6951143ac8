//! What a connect hook costs by the kernel's own account, by number of groups. Ignored: a measurement, no
//! test. Run: `cargo test -p node-agent --test hook_cost -- --ignored --nocapture`.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::net::TcpStream;

use aya::programs::links::{FdLink, PinnedLink};
use aya::sys::{Stats, enable_stats};

use support::{Service, World, server};

const CONNECTS: u32 = 3000;

/// Nanoseconds and runs of the program that a pinned link runs, from `/proc/self/fdinfo`.
fn cost(world: &World) -> (u64, u64) {
    let link: FdLink = PinnedLink::from_pin(world.pin("links", "mesh_connect4")).unwrap().into();
    let id = link.info().unwrap().program_id();
    let program = aya::programs::loaded_programs().flatten().find(|program| program.id() == id).unwrap();
    let fd = program.fd().unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&fd));
    let lines = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
    let field = |name: &str| -> u64 {
        let line = lines.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().parse().unwrap()
    };
    (field("run_time_ns:"), field("run_cnt:"))
}

fn measure(world: &World, frontend: &str) -> f64 {
    let mut medians: Vec<f64> = (0..9)
        .map(|_| {
            let before = cost(world);
            for _ in 0..CONNECTS / 9 {
                let _refused_is_fine = TcpStream::connect(frontend);
            }
            let after = cost(world);
            (after.0 - before.0) as f64 / (after.1 - before.1) as f64
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    medians[4]
}

#[test]
#[ignore = "a measurement"]
fn connect_hook_by_number_of_groups() {
    let world = World::new();
    let mut maps = world.attached();
    let _stats = enable_stats(Stats::RunTime).unwrap();
    let servers: Vec<_> = (1..=16).map(|last| server(&format!("127.0.1.{last}:80"))).collect();
    // Nobody listens any more: every connect runs the hook and is refused at once.
    let mut rows = vec![("miss".to_owned(), measure(&world, "127.0.2.1:81"))];
    let mut frontends = Vec::new();
    for (id, groups) in [(1, 1), (2, 2), (3, 4), (4, 16)] {
        let frontend = format!("10.96.0.{id}:80");
        let mut service = Service::new(id, &frontend);
        for (cluster, server) in (1..).zip(&servers[..groups]) {
            service = service.group(cluster, 0, 3, &[server]);
        }
        service.write(&mut maps);
        frontends.push((format!("{groups} groups"), frontend));
    }
    drop(servers);
    rows.extend(frontends.into_iter().map(|(name, frontend)| (name, measure(&world, &frontend))));
    for (name, ns) in rows {
        println!("{name:>10}: {ns:6.0} ns");
    }
}
