//! Which port of another cluster serves an own one, and where its endpoints listen. Costs by the number of ports.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::rc::Rc;

use crate::name::PortName;
use crate::snapshot::{Protocol, ServicePort, SlicePort};

/// So many are looked through faster than they are hashed.
const FEW: usize = 16;

/// For every local port the remote port that serves it: the one of the same name and protocol, else the one of
/// the same protocol and number unless that was taken by name. A port without a name has no match by name.
pub fn match_ports<'r>(local: &[ServicePort], remote: &'r [ServicePort]) -> Vec<Option<&'r ServicePort>> {
    let names = Index::new(remote.iter().map(|port| (port.name.as_ref(), port.protocol)));
    let numbers = Index::new(remote.iter().map(|port| (port.port, port.protocol)));
    let by_name = |port: &ServicePort| {
        let name = port.name.as_ref()?;
        names.find(&(Some(name), port.protocol), |_| true)
    };
    let named: Vec<Option<usize>> = local.iter().map(by_name).collect();
    let taken: HashSet<usize> = named.iter().flatten().copied().collect();
    let by_number =
        |port: &ServicePort| numbers.find(&(port.port, port.protocol), |other| !taken.contains(&other));
    let matched = local.iter().zip(&named).map(|(port, named)| named.or_else(|| by_number(port)));
    matched.map(|matched| matched.map(|at| &remote[at])).collect()
}

/// Where the endpoints of a slice listen for a Service port: Kubernetes gives both the same name.
pub(crate) struct Targets<'a> {
    ports: &'a [SlicePort],
    names: Index<(Option<&'a PortName>, Protocol)>,
}

impl<'a> Targets<'a> {
    pub(crate) fn new(ports: &'a [SlicePort]) -> Self {
        Self { ports, names: Index::new(ports.iter().map(|port| (port.name.as_ref(), port.protocol))) }
    }

    pub(crate) fn of(&self, port: &ServicePort) -> Option<u16> {
        self.names.find(&(port.name.as_ref(), port.protocol), |_| true).map(|at| self.ports[at].port)
    }
}

/// By port: where the endpoints of a slice listen for it.
pub(crate) type Listening = Rc<[Option<u16>]>;

/// Where the endpoints of each slice listen for each port; none where a slice has not the port, or there is none.
pub(crate) fn targets<'a>(
    ports: &[Option<&ServicePort>],
    slices: impl Iterator<Item = &'a [SlicePort]>,
) -> Vec<Listening> {
    let mut last: Option<(&[SlicePort], Listening)> = None;
    let mut all = Vec::new();
    for slice in slices {
        // Most slices of a Service have the same ports.
        let same = last.as_ref().filter(|(ports, _)| std::ptr::eq(*ports, slice) || *ports == slice);
        let listen = same.map(|(_, listen)| listen.clone()).unwrap_or_else(|| {
            let targets = Targets::new(slice);
            ports.iter().map(|port| port.and_then(|port| targets.of(port))).collect()
        });
        last = Some((slice, listen.clone()));
        all.push(listen);
    }
    all
}

/// Finds the first place of a key.
struct Index<K> {
    keys: Vec<K>,
    /// None where there are few.
    places: Option<HashMap<K, Vec<usize>>>,
}

impl<K: Hash + Eq + Copy> Index<K> {
    fn new(keys: impl Iterator<Item = K>) -> Self {
        let keys: Vec<K> = keys.collect();
        let places = (keys.len() > FEW).then(|| {
            let mut places: HashMap<K, Vec<usize>> = HashMap::with_capacity(keys.len());
            for (at, key) in keys.iter().enumerate() {
                places.entry(*key).or_default().push(at);
            }
            places
        });
        Self { keys, places }
    }

    fn find(&self, key: &K, fits: impl Fn(usize) -> bool) -> Option<usize> {
        match &self.places {
            Some(places) => places.get(key)?.iter().copied().find(|at| fits(*at)),
            None => (0..self.keys.len()).find(|at| self.keys[*at] == *key && fits(*at)),
        }
    }
}
