//! The core under bytes of anybody's making, for the fuzz target of requests.

use bytes::Bytes;
use mesh_kv::{RawChange, RawEntry, Revision};
use mesh_model::name::ClusterName;
use prost::Message;

use super::cache::{Cache, Window};
use super::range::range;
use super::view::{Scope, View};
use super::watch::Watches;
use super::wire::{AlarmRequest, RangeRequest, WatchRequest};

/// Revisions of the cache, of which it keeps some.
const REVISIONS: i64 = 12;
const WINDOW: Window = Window { revisions: 5, bytes: usize::MAX };

/// Answers bytes as a range, as an alarm's request, and in pieces (a byte says how long each is) as the requests of a stream,
/// for a reader who does not see everything.
///
/// # Panics
/// Where an answer is not bounded by what there is.
pub fn answer_bytes(data: &[u8]) {
    let (Ok(hoth), Ok(yavin)) = (ClusterName::new("hoth"), ClusterName::new("yavin")) else { return };
    let (mut cache, view) = (cache(&hoth), View::of(&yavin, &hoth));
    let _ = AlarmRequest::decode(data);
    if let Ok(request) = RangeRequest::decode(data)
        && let Ok(found) = range(&cache, &view, &request)
    {
        assert!(found.records.len() <= 4, "more than there is");
    }
    let (mut watches, mut rest) = (Watches::new(view), data);
    while let Some((length, behind)) = rest.split_first() {
        let (piece, behind) = behind.split_at(usize::from(*length).min(behind.len()));
        rest = behind;
        let Ok(request) = WatchRequest::decode(Bytes::copy_from_slice(piece)) else { continue };
        watches.request(&cache, request);
        drain(&mut watches, &cache);
        cache.apply(change(cache.revision() + 1));
        watches.tick(&cache);
        drain(&mut watches, &cache);
    }
}

fn drain(watches: &mut Watches, cache: &Cache) {
    let told = std::iter::from_fn(|| watches.next(cache)).take(10_000).count();
    assert!(told < 10_000, "there is no end to what is told");
}

fn cache(cluster: &ClusterName) -> Cache {
    let mut cache = Cache::listed(Scope::of_cluster(cluster), WINDOW, Vec::new(), 1);
    (2..=REVISIONS).for_each(|revision| cache.apply(change(revision)));
    cache
}

/// Records come, go, and change their audience.
fn change(revision: i64) -> Revision {
    let key = format!("clustermesh/v1/services/hoth/ns/{}", revision % 4).into_bytes();
    let audience = ["", r#"{"export_to":["yavin"]}"#, r#"{"export_to":["endor"]}"#];
    let value = usize::try_from(revision).ok().and_then(|number| audience.get(number % 5));
    let put = |value: &&str| RawEntry {
        key: key.clone(),
        value: value.as_bytes().to_vec(),
        create_revision: revision,
        mod_revision: revision,
        version: 1,
        lease: 0,
    };
    let change = value.map(put).map_or_else(|| RawChange::Delete { key: key.clone() }, RawChange::Put);
    Revision { revision, changes: vec![change] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bytes_break_anything() {
        for length in 0..=255_u8 {
            answer_bytes(&[length].repeat(600));
        }
    }
}
