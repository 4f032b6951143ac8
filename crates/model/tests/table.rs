//! `Table` against a naive model.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends there")]

use std::collections::{BTreeMap, BTreeSet};

use mesh_model::table::{Knowledge, Table};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Begin,
    Put(u8, u8),
    Keep(u8),
    Delete(u8, bool),
    End(bool),
    DropStale,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = || 0_u8..6;
    let step = prop_oneof![
        1 => Just(Step::Begin),
        5 => (key(), 0_u8..3).prop_map(|(key, value)| Step::Put(key, value)),
        1 => key().prop_map(Step::Keep),
        2 => (key(), any::<bool>()).prop_map(|(key, complete)| Step::Delete(key, complete)),
        1 => any::<bool>().prop_map(Step::End),
        1 => Just(Step::DropStale),
    ];
    proptest::collection::vec(step, 0..60)
}

fn knowledge(complete: bool) -> Knowledge {
    if complete { Knowledge::Complete } else { Knowledge::Partial }
}

/// The same in other words: all that was ever said, kept apart.
#[derive(Default)]
struct Naive {
    visible: BTreeMap<u8, u8>,
    doubted: BTreeSet<u8>,
    open: Option<Vec<(u8, Option<u8>)>>,
}

impl Naive {
    fn step(&mut self, step: &Step) {
        match (step, &mut self.open) {
            (Step::Begin, open) => *open = Some(Vec::new()),
            (Step::Put(key, value), Some(said)) => said.push((*key, Some(*value))),
            (Step::Delete(key, _), Some(said)) => said.push((*key, None)),
            (Step::Keep(key), Some(said)) => {
                let listed = said.iter().rev().find(|(other, _)| other == key).and_then(|(_, value)| *value);
                if let Some(value) = listed.or(self.visible.get(key).copied()) {
                    said.push((*key, Some(value)));
                }
            }
            (Step::Put(key, value), None) => {
                self.visible.insert(*key, *value);
                self.doubted.remove(key);
            }
            (Step::Keep(key), None) => drop(self.doubted.remove(key)),
            (Step::Delete(key, true), None) => {
                self.visible.remove(key);
                self.doubted.remove(key);
            }
            (Step::Delete(key, false), None) => {
                if self.visible.contains_key(key) {
                    self.doubted.insert(*key);
                }
            }
            (Step::DropStale, _) => {
                for key in std::mem::take(&mut self.doubted) {
                    self.visible.remove(&key);
                }
            }
            (Step::End(_), None) => {}
            (Step::End(complete), Some(_)) => self.end(*complete),
        }
    }

    fn end(&mut self, complete: bool) {
        let said = self.open.take().unwrap_or_default();
        let mut listed = BTreeMap::new();
        for (key, value) in said {
            match value {
                Some(value) => drop(listed.insert(key, value)),
                None => drop(listed.remove(&key)),
            }
        }
        self.doubted.clear();
        if !complete {
            for (key, value) in &self.visible {
                if !listed.contains_key(key) {
                    listed.insert(*key, *value);
                    self.doubted.insert(*key);
                }
            }
        }
        self.visible = listed;
    }
}

proptest! {
    #[test]
    fn a_table_does_what_the_naive_model_does(steps in steps()) {
        let mut table = Table::default();
        let mut naive = Naive::default();
        for step in steps {
            let before = naive.visible.clone();
            naive.step(&step);
            let changed: BTreeSet<u8> = match step.clone() {
                Step::Begin => { table.begin_list(); BTreeSet::new() }
                Step::Put(key, value) => table.put(key, value).then_some(key).into_iter().collect(),
                Step::Keep(key) => { table.keep(&key); BTreeSet::new() }
                Step::Delete(key, complete) => table.delete(&key, knowledge(complete)).then_some(key).into_iter().collect(),
                Step::End(complete) => table.end_list(knowledge(complete)).into_iter().collect(),
                Step::DropStale => table.drop_stale().into_iter().collect(),
            };
            let visible: BTreeMap<u8, u8> = table.entries().iter().map(|(key, value)| (*key, *value)).collect();
            prop_assert_eq!(&visible, &naive.visible, "{:?}", step);
            let differ = (0..6).filter(|key| before.get(key) != naive.visible.get(key)).collect();
            prop_assert_eq!(changed, differ, "{:?}", step);
        }
    }
}

#[test]
fn a_list_becomes_visible_only_when_it_ends() {
    let mut table = Table::default();
    table.put("old", 1);
    table.begin_list();
    table.put("new", 2);
    assert_eq!(table.entries().keys().collect::<Vec<_>>(), [&"old"]);
    assert_eq!(table.end_list(Knowledge::Complete), ["new", "old"]);
    assert_eq!(table.entries().keys().collect::<Vec<_>>(), [&"new"]);
}

#[test]
fn a_list_that_was_cut_off_leaves_nothing_behind() {
    let mut table = Table::default();
    table.begin_list();
    table.put("half", 1);
    table.begin_list();
    table.put("whole", 2);
    table.end_list(Knowledge::Complete);
    assert_eq!(table.entries().keys().collect::<Vec<_>>(), [&"whole"]);
}

#[test]
fn nothing_goes_on_partial_knowledge_until_it_is_complete() {
    let mut table = Table::default();
    table.put("a", 1);
    table.put("b", 1);
    table.begin_list();
    assert_eq!(table.end_list(Knowledge::Partial), Vec::<&str>::new());
    assert!(!table.delete(&"b", Knowledge::Partial));
    assert_eq!(table.entries().len(), 2);
    table.put("a", 1);
    assert_eq!(table.drop_stale(), ["b"]);
}
