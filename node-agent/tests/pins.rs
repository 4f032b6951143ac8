//! Pins that a kill has left anywhere on the way, or that somebody has removed: connects go on, and the next start keeps
//! what there is.
//!
//! The frontend has no route: a connect that is not translated fails at once.

#![allow(clippy::unwrap_used, clippy::panic)]

mod one_backend;
mod support;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use mesh_abi::LAYOUT;
use node_agent::datapath::actual::{Actual, Capacity};
use node_agent::datapath::apply::apply;
use node_agent::datapath::maps::{Maps, NAMES, instance_dir};
use node_agent::datapath::pins::Step;
use node_agent::datapath::programs::{Found, uninstall};
use node_agent::datapath::restore::restore;
use node_agent::install::Installed;

use one_backend::{FRONTEND, frontend, plan};
use support::{CAPACITY, INSTANCE, World, server};

const LARGER: Capacity = Capacity { services: 128, ..CAPACITY };

/// Puts the frontend with this one backend into the maps.
fn fill(maps: &mut Maps, actual: &mut Actual, backend: &TcpListener) {
    let mut plan = plan(actual, backend);
    apply(&mut maps.services, &plan).unwrap();
    actual.written(&mut plan);
}

fn assert_connects(backend: &TcpListener, when: &str) {
    TcpStream::connect(FRONTEND).unwrap_or_else(|error| panic!("{when}: {error}"));
    while backend.accept().is_ok() {}
}

fn start(world: &World, backend: &TcpListener) {
    let Installed { mut maps, mut actual, .. } = world.installed("");
    fill(maps.as_mut(), &mut actual, backend);
    assert_connects(backend, "before");
}

fn layouts(world: &World) -> Vec<String> {
    let entries = fs::read_dir(instance_dir(&world.bpffs, INSTANCE)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Maps of another size, filled and not in use yet, and then as many steps as there are before the kill.
fn swap_until(world: &World, steps: &[Step]) {
    let installation = world.installation();
    let Found::Built { mut maps, old: Some(old) } = installation.maps(LARGER).unwrap() else {
        panic!("the size is another")
    };
    let (_, plan) =
        restore(&old.services.contents().unwrap(), old.services.capacity()).actual.moved_to(LARGER);
    apply(&mut maps.services, &plan).unwrap();
    for step in steps {
        assert!(installation.take_step(*step).unwrap(), "{step:?} is known to this kernel");
    }
}

#[test]
fn a_kill_after_any_step_of_a_swap_loses_nothing() {
    let world = World::new();
    let backend = server("127.0.1.1:8080");
    let ways: [&[Step]; 2] = [&Step::SHORT_WAY, &Step::LONG_WAY];
    for way in ways {
        for (taken, capacity) in (0..=way.len()).flat_map(|taken| [(taken, LARGER), (taken, CAPACITY)]) {
            let when = format!("{:?} to {capacity:?}", &way[..taken]);
            start(&world, &backend);
            swap_until(&world, &way[..taken]);
            assert_connects(&backend, &when);
            let installed = world.installed_with(capacity, "");
            assert_eq!(installed.maps.services.capacity(), capacity, "{when}");
            assert!(installed.actual.held(&frontend()).is_some(), "{when}: the content is lost");
            assert!(installed.retiring.is_empty(), "{when}");
            assert_connects(&backend, &when);
            let parts =
                fs::read_dir(instance_dir(&world.bpffs, INSTANCE).join(format!("v{LAYOUT}"))).unwrap();
            assert_eq!(parts.count(), 2, "{when}: maps and links");
            assert!(uninstall(&world.bpffs, INSTANCE).unwrap());
        }
    }
}

#[test]
fn a_missing_pin_is_repaired_and_connects_go_on() {
    let world = World::new();
    let backend = server("127.0.1.1:8080");
    for name in NAMES {
        start(&world, &backend);
        fs::remove_file(world.pin("maps", name)).unwrap();
        assert_connects(&backend, name);
        let mut installed = world.installed("");
        assert_connects(&backend, name);
        let essential = ["SERVICES", "GROUPS", "SLOTS", "BACKENDS"].contains(&name);
        assert_eq!(installed.actual.held(&frontend()).is_none(), essential, "{name}");
        assert_eq!(installed.retiring.is_empty(), !essential, "{name}");
        if essential {
            // The programs that have the lost map go on until the new maps hold everything, also over a restart.
            drop(installed);
            installed = world.installed("");
            assert_connects(&backend, name);
            installed.retiring.pass(false, true, Instant::now());
            assert_eq!(layouts(&world).len(), 2, "{name}");
            fill(installed.maps.as_mut(), &mut installed.actual, &backend);
            installed.retiring.pass(true, true, Instant::now());
            assert_eq!(layouts(&world), [format!("v{LAYOUT}")], "{name}");
            assert_connects(&backend, name);
        }
        // The programs that run have the map that is pinned.
        let group = &installed.actual.held(&frontend()).unwrap().groups[0];
        let count = |maps: &Maps| maps.services.read_counters(&[group.counter]).unwrap()[0].connections;
        let before = count(&installed.maps);
        assert_connects(&backend, name);
        assert_eq!(count(&installed.maps), before + 1, "{name}");
        drop(installed);
        assert!(uninstall(&world.bpffs, INSTANCE).unwrap());
    }
}

#[test]
fn all_pins_of_maps_may_be_gone_while_the_programs_go_on() {
    let world = World::new();
    let backend = server("127.0.1.1:8080");
    start(&world, &backend);
    fs::remove_dir_all(world.pin("maps", "")).unwrap();
    let mut installed = world.installed("");
    assert_connects(&backend, "none is left");
    fill(installed.maps.as_mut(), &mut installed.actual, &backend);
    installed.retiring.pass(true, true, Instant::now());
    assert_eq!(layouts(&world), [format!("v{LAYOUT}")]);
    assert_connects(&backend, "the new maps are full");
}
