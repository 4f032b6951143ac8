//! Annotations of a Service: lines of `name value`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_model::annotation;

fuzz_target!(|text: &str| {
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    let (annotated, problems) = annotation::parse(pairs.clone());
    let reversed: Vec<_> = pairs.collect();
    // Of two annotations of one name Kubernetes keeps one, so only without such does the order not matter.
    let mut names: Vec<_> = reversed.iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    if names.len() == reversed.len() {
        assert_eq!(annotation::parse(reversed.into_iter().rev()).0, annotated);
    }
    assert!(problems.len() <= 3);
    problems.iter().for_each(|problem| assert!(problem.to_string().len() < 2000));
});
