//! The simulator, small: what `make simulate` runs for a minute.

#[path = "../examples/simulate/simulation.rs"]
mod simulation;
#[path = "../examples/simulate/truth.rs"]
mod truth;

use simulation::{Size, simulate};

#[test]
fn an_oracle_that_knows_the_truth_finds_nothing_wrong() {
    for seed in 1..=3 {
        let size = Size { clusters: 20, nodes: 50, in_use: 7, minutes: 20 };
        let result = simulate(seed, size);
        assert!(result.wrong.is_empty(), "seed {seed}, {size:?}: {result}");
        assert!(result.demoted > 0, "seed {seed}: nothing happened");
    }
}

#[test]
fn a_seed_reproduces_everything() {
    let size = Size { clusters: 10, nodes: 10, in_use: 7, minutes: 10 };
    assert_eq!(simulate(5, size).to_string(), simulate(5, size).to_string());
}
