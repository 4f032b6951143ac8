//! What an agent with another layout of the maps left pinned: found, read where this version knows how, retired.
//!
//! Every layout has a pin folder of its own, so programs and maps of two layouts never meet. Programs of both may serve
//! one cgroup for a while: whichever comes first translates, and what it made of a destination is no service to the
//! other. So the old ones go on until the new maps hold all that they held: at once where that can be read and moved (an
//! upgrade), else when the sources have said it again (a rollback to a version that doesn't know the newer layout).
//! Connections stay; but what they had dialled stands in the old maps, and `getpeername` shows their backend from then on.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aya::maps::MapData;
use mesh_abi::{
    BackendEntry, ClusterStates, Control, Counter, EarlierCell, EarlierEntry, LAYOUT, MAX_CLUSTERS, Plain,
    STATE_FREE, ServiceKey, SlotEntry,
};

use super::actual::Capacity;
use super::links::detach_all;
use super::maps::{MapError, Maps};
use super::pins;
use super::programs::{ProgramsError, failed, remove_folder};
use super::restore::Contents;
use super::scan;
use super::sys::How;

/// How long programs of a layout that can't be read serve beside the own ones while a peer is not synced. After that what
/// they hold of all the others is too old to be worth what they hold of that one.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the value of `SERVICES` is in the layouts that can be read. All else is as it is now; where that changes, the old
/// form belongs here, or the layout out of this list.
const READABLE: [(u32, Form); 6] =
    [(1, Form::Entry), (2, Form::Cell), (3, Form::Cell), (4, Form::Cell), (5, Form::Cell), (6, Form::Cell)];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Entry,
    Cell,
}

/// The pins of another layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherLayout {
    layout: u32,
    folder: PathBuf,
    /// Pins of its maps are missing.
    damaged: bool,
}

/// What maps held, whatever their layout or size.
pub struct Content {
    pub contents: Contents,
    pub capacity: Capacity,
    pub clusters: Box<ClusterStates>,
    /// With the last sign of life.
    pub control: Control,
}

impl Content {
    /// Reads maps of the own layout.
    pub(crate) fn of(maps: &Maps) -> Result<Self, MapError> {
        Ok(Self {
            contents: maps.services.contents()?,
            capacity: maps.services.capacity(),
            clusters: maps.clusters.read()?,
            control: maps.control.read()?,
        })
    }
}

/// Why maps of another layout can't be read.
#[derive(Debug, thiserror::Error)]
pub enum UnreadableError {
    #[error("this version doesn't know the layout, or pins of its maps are missing")]
    Unknown,
    #[error("map {name} can't be opened")]
    Open { name: &'static str, source: Box<aya::maps::MapError> },
    #[error("map {name} has another shape than its layout says")]
    Shape { name: &'static str },
    #[error("map {name} can't be read")]
    Read { name: &'static str, source: io::Error },
}

/// The other layouts pinned in an instance's folder, the newest first.
///
/// # Errors
/// The folder can't be read.
pub(crate) fn others(instance: &Path) -> Result<Vec<OtherLayout>, ProgramsError> {
    let entries = fs::read_dir(instance).map_err(failed("reading", instance))?;
    let mut others: Vec<OtherLayout> = entries
        .flatten()
        .filter_map(|entry| {
            let (layout, damaged) = pins::layout_of(entry.file_name().to_str()?)?;
            (layout != LAYOUT || damaged).then(|| OtherLayout { layout, folder: entry.path(), damaged })
        })
        .collect();
    others.sort_by_key(|other| std::cmp::Reverse(other.layout));
    Ok(others)
}

impl OtherLayout {
    pub(crate) fn layout(&self) -> u32 {
        self.layout
    }

    /// Whether this version knows how to read it.
    pub(crate) fn is_known(&self) -> bool {
        self.form().is_some()
    }

    fn form(&self) -> Option<Form> {
        if self.damaged {
            return None;
        }
        READABLE.iter().find(|(layout, _)| *layout == self.layout).map(|(_, form)| *form)
    }

    /// What its maps hold.
    ///
    /// # Errors
    /// The layout is unknown, or its maps are not what it says.
    pub fn read(&self) -> Result<Content, UnreadableError> {
        let (services, entries) = match self.form().ok_or(UnreadableError::Unknown)? {
            Form::Entry => {
                let map = self.open::<ServiceKey, EarlierEntry>("SERVICES")?;
                let entries = map.dump::<ServiceKey, EarlierEntry>(How::Plain)?;
                (map.max_entries, entries.into_iter().map(|(key, entry)| (key, entry.entry())).collect())
            }
            Form::Cell => {
                let map = self.open::<ServiceKey, EarlierCell>("SERVICES")?;
                let cells = map.dump::<ServiceKey, EarlierCell>(How::Locked)?;
                (
                    map.max_entries,
                    cells.into_iter().map(|(key, cell)| (key, cell.entry())).collect::<Vec<_>>(),
                )
            }
        };
        let slots = self.open::<u32, SlotEntry>("SLOTS")?;
        let backends = self.open::<u32, BackendEntry>("BACKENDS")?;
        let clusters = self.open::<u32, ClusterStates>("CLUSTERS")?.dump::<u32, ClusterStates>(How::Plain)?;
        let clusters = clusters.into_iter().next().map(|(_, states)| states);
        let control = self.open::<u32, Control>("CONTROL")?.dump::<u32, Control>(How::Plain)?;
        let counters = self.open::<u32, Counter>("COUNTERS")?;
        let in_use = |(_, entry): &(u32, BackendEntry)| entry.state != STATE_FREE;
        Ok(Content {
            contents: Contents {
                services: entries,
                slots: slots.dump::<u32, SlotEntry>(How::Plain)?.into_iter().map(|(_, slot)| slot).collect(),
                backends: backends.dump(How::Plain)?.into_iter().filter(in_use).collect(),
                tables: Vec::new(),
            },
            capacity: Capacity {
                services,
                slots: slots.max_entries,
                backends: backends.max_entries,
                counters: counters.max_entries,
            },
            clusters: Box::new(clusters.unwrap_or(ClusterStates { state: [0; MAX_CLUSTERS] })),
            control: control.into_iter().next().map(|(_, control)| control).unwrap_or_default(),
        })
    }

    /// Ends its programs, then removes its maps.
    ///
    /// # Errors
    /// A pin can't be removed.
    pub(crate) fn retire(&self) -> Result<(), ProgramsError> {
        detach_all(&self.folder.join("links"));
        remove_folder(&self.folder)
    }

    fn open<K: Plain, V: Plain>(&self, name: &'static str) -> Result<OtherMap, UnreadableError> {
        let opened = MapData::from_pin(self.folder.join("maps").join(name));
        let opened = opened.and_then(|data| Ok((data.info()?, data)));
        let (info, data) =
            opened.map_err(|source| UnreadableError::Open { name, source: Box::new(source) })?;
        let same = |found: u32, wanted: usize| usize::try_from(found).is_ok_and(|found| found == wanted);
        if same(info.key_size(), size_of::<K>()) && same(info.value_size(), size_of::<V>()) {
            Ok(OtherMap { name, data, max_entries: info.max_entries() })
        } else {
            Err(UnreadableError::Shape { name })
        }
    }
}

/// A map whose keys and values have the sizes that its layout says.
struct OtherMap {
    name: &'static str,
    data: MapData,
    max_entries: u32,
}

impl OtherMap {
    fn dump<K: Plain, V: Plain>(&self, how: How) -> Result<Vec<(K, V)>, UnreadableError> {
        let limit = usize::try_from(self.max_entries).unwrap_or(usize::MAX);
        scan::dump(self.data.fd().as_fd(), limit, how)
            .map_err(|source| UnreadableError::Read { name: self.name, source })
    }
}

/// Layouts that go on serving beside the own one until the own maps hold everything.
#[derive(Debug, Default)]
pub struct RetiringLayouts {
    others: Vec<OtherLayout>,
    /// When the own maps first held all that was known.
    settled_at: Option<Instant>,
}

impl RetiringLayouts {
    pub fn new(others: Vec<OtherLayout>) -> Self {
        Self { others, settled_at: None }
    }

    /// Retires the others once the own maps hold everything known (`settled`), which is everything there is if all
    /// peers are synced; where one is silent, after [`PATIENCE`].
    pub fn pass(&mut self, settled: bool, all_synced: bool, now: Instant) {
        if self.others.is_empty() || !settled {
            return;
        }
        let since = *self.settled_at.get_or_insert(now);
        if !all_synced && now.duration_since(since) < PATIENCE {
            return;
        }
        for other in std::mem::take(&mut self.others) {
            retire(&other, all_synced);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.others.is_empty()
    }
}

/// What can't be retired now is found again at the next start.
fn retire(other: &OtherLayout, all_synced: bool) {
    let layout = other.layout;
    match other.retire() {
        Ok(()) => tracing::info!(layout, all_synced, "retired programs and maps of another layout"),
        Err(error) => {
            let error = mesh_failure::chain(&error);
            tracing::error!(layout, error, "programs and maps of another layout can't be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retiring() -> RetiringLayouts {
        let folder = PathBuf::from("/nonexistent/v99");
        RetiringLayouts::new(vec![OtherLayout { layout: 99, folder, damaged: false }])
    }

    #[test]
    fn another_layout_serves_until_everybody_is_synced() {
        let (mut retiring, now) = (retiring(), Instant::now());
        retiring.pass(false, true, now);
        retiring.pass(true, false, now);
        assert!(!retiring.is_empty());
        retiring.pass(true, true, now);
        assert!(retiring.is_empty());
    }

    #[test]
    fn a_silent_peer_keeps_another_layout_only_for_a_while() {
        let (mut retiring, now) = (retiring(), Instant::now());
        retiring.pass(true, false, now);
        retiring.pass(true, false, now + PATIENCE / 2);
        assert!(!retiring.is_empty());
        retiring.pass(true, false, now + PATIENCE);
        assert!(retiring.is_empty());
    }
}
