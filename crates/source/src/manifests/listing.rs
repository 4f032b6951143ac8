//! From the documents of all files to one list of objects: which of several claims wins, what stays as it was,
//! and what is wrong. Pure.

use std::collections::{BTreeSet, HashMap};

use mesh_model::address::Address;
use mesh_model::name::ServiceName;
use mesh_model::snapshot::{Protocol, Service};
use mesh_model::table::Knowledge;

use super::document::{Document, Effect, Owner};
use crate::convert::{Note, SERVICE_LABEL};
use crate::objects::{Kind, Object, ObjectKey, Objects};
use crate::status::{Problem, Reason};

/// What is known of a file.
#[derive(Debug, Default)]
pub(crate) struct FileReading {
    pub(crate) documents: Vec<Document>,
    /// Why the file as a whole says nothing; its objects then stay.
    pub(crate) broken: Option<Note>,
    /// Whether it was ever clear which objects it holds: to this process, or to one that remembered it.
    pub(crate) ever_clear: bool,
    /// The objects that the last list took from it.
    pub(crate) contributed: BTreeSet<ObjectKey>,
    /// It came to be while this process looked, so it was nothing before.
    pub(crate) is_new: bool,
    /// Only remembered: this process has not read it yet.
    pub(crate) is_remembered: bool,
}

impl FileReading {
    /// A file of which a process before this one knew what it holds.
    pub(crate) fn remembered(contributed: BTreeSet<ObjectKey>) -> Self {
        Self { ever_clear: true, contributed, is_remembered: true, ..Self::default() }
    }

    /// Whether it may hold any object of the time before this process.
    pub(crate) fn may_hold_anything(&self) -> bool {
        !self.ever_clear && !self.is_new
    }

    /// Replaces the reading; returns whether anything is different.
    pub(crate) fn replace(&mut self, read: Result<Vec<Document>, Note>) -> bool {
        let (documents, broken) = match read {
            Ok(documents) => (documents, None),
            Err(note) => (Vec::new(), Some(note)),
        };
        let same = self.documents == documents && self.broken == broken && !self.is_remembered;
        self.is_remembered = false;
        (self.documents, self.broken) = (documents, broken);
        self.ever_clear |= self.is_clear();
        !same
    }

    /// Whether it is clear which objects the file holds; else those it held before stay.
    pub(crate) fn is_clear(&self) -> bool {
        let unidentified = |document: &Document| document.effect == Effect::Unidentified;
        !self.is_remembered && self.broken.is_none() && !self.documents.iter().any(unidentified)
    }
}

type Frontend = (Address, u16, Protocol);

/// A list in the making.
pub(crate) struct Listing<'a> {
    objects: &'a mut Objects,
    /// File and place of each object.
    owners: HashMap<ObjectKey, (String, String)>,
    frontends: HashMap<Frontend, ServiceName>,
    problems: Vec<Problem>,
    /// Problems of slices, which matter where their Service is global.
    of_slices: Vec<(ServiceName, Problem)>,
    /// File and place of Endpoints objects.
    endpoints: HashMap<ServiceName, (String, String)>,
    /// Objects that stay as they were, because what they are now can't be read.
    pub(crate) kept: usize,
}

impl<'a> Listing<'a> {
    pub(crate) fn begin(objects: &'a mut Objects) -> Self {
        Kind::ALL.iter().for_each(|kind| objects.begin_list(*kind));
        Self {
            objects,
            owners: HashMap::new(),
            frontends: HashMap::new(),
            problems: Vec::new(),
            of_slices: Vec::new(),
            endpoints: HashMap::new(),
            kept: 0,
        }
    }

    /// Lists a file. Of two claims to one name or address the first wins, so files come in the order of their paths.
    pub(crate) fn file(&mut self, name: &str, file: &mut FileReading) {
        if let Some(note) = &file.broken {
            self.problem(name, "", "", note);
        }
        let (mut taken, mut left) = (BTreeSet::new(), BTreeSet::new());
        for document in &file.documents {
            for note in &document.notes {
                self.problem_of(name, document, note);
            }
            match &document.effect {
                Effect::Object(object) if self.claim(object.key(), name, document) => {
                    if self.put(object, name, document) {
                        taken.insert(object.key());
                    } else {
                        left.insert(object.key());
                    }
                }
                Effect::Keep(key) if self.claim(key.clone(), name, document) => {
                    self.keep(key);
                    self.kept += 1;
                    taken.insert(key.clone());
                }
                Effect::Endpoints(service) => {
                    self.endpoints.insert(service.clone(), (name.into(), document.place.clone()));
                }
                Effect::Leave(key) if self.claim(key.clone(), name, document) => {
                    left.insert(key.clone());
                }
                _ => {}
            }
        }
        if !file.is_clear() {
            self.keep_rest(name, file, &left, &mut taken);
        }
        file.contributed = taken;
    }

    /// It is unclear what became of the file's other objects, so they stay.
    fn keep_rest(
        &mut self,
        name: &str,
        file: &FileReading,
        left: &BTreeSet<ObjectKey>,
        taken: &mut BTreeSet<ObjectKey>,
    ) {
        for key in &file.contributed {
            let free = !taken.contains(key) && !left.contains(key) && !self.owners.contains_key(key);
            if free {
                self.owners.insert(key.clone(), (name.into(), String::new()));
                self.keep(key);
                self.kept += 1;
                taken.insert(key.clone());
            }
        }
    }

    /// Some file may hold any object of the time before this process: what was remembered of that stays, and nobody
    /// knows what else there was.
    pub(crate) fn keep_unconfirmed(&mut self) {
        let unconfirmed = self.objects.unconfirmed().filter(|key| !self.owners.contains_key(*key));
        for key in unconfirmed.cloned().collect::<Vec<_>>() {
            self.keep(&key);
            self.kept += 1;
        }
    }

    /// Ends the list. Returns whether the snapshot changed, and what is wrong.
    pub(crate) fn end(mut self) -> (bool, Vec<Problem>) {
        Kind::ALL.iter().for_each(|kind| self.objects.end_list(*kind, Knowledge::Complete));
        let changed = self.objects.refresh();
        let without = self.objects.snapshot().services.iter().filter(|(_, it)| it.slices.is_empty());
        let without: Vec<Problem> = without.map(|(name, _)| self.without_slices(name)).collect();
        self.problems.extend(without);
        let beyond = self.objects.beyond().map(|(name, beyond)| {
            let owner = self.owners.get(&ObjectKey::Service(name.clone())).cloned();
            let (file, place) = owner.unwrap_or_default();
            let (object, message) = (format!("Service {name}"), beyond.to_string());
            Problem { file, place, object, reason: Reason::OverLimit, message }
        });
        self.problems.extend(beyond);
        let objects = self.objects;
        let counts = |(owner, _): &(ServiceName, Problem)| objects.service(owner).is_some();
        self.problems.extend(self.of_slices.into_iter().filter(counts).map(|(_, problem)| problem));
        self.problems.sort();
        (changed, self.problems)
    }

    fn without_slices(&self, name: &ServiceName) -> Problem {
        let label = format!("{SERVICE_LABEL}: {}", name.name());
        if let Some((file, place)) = self.endpoints.get(name).cloned() {
            let message = format!(
                "Endpoints are not read, so Service {name} has no backends here; write them as an EndpointSlice with the \
                 label {label}"
            );
            let object = format!("Endpoints {name}");
            return Problem { file, place, object, reason: Reason::Unsupported, message };
        }
        let owner = self.owners.get(&ObjectKey::Service(name.clone())).cloned();
        let (file, place) = owner.unwrap_or_default();
        let message =
            format!("it has no EndpointSlice, so only other clusters serve it; label its slices {label}");
        Problem { file, place, object: format!("Service {name}"), reason: Reason::NoSlices, message }
    }

    fn problem_of(&mut self, file: &str, document: &Document, note: &Note) {
        let problem = problem(file, &document.place, &document.object, note);
        match &document.owner {
            // It makes the whole file unclear.
            _ if document.effect == Effect::Unidentified => self.problems.push(problem),
            Owner::Itself => self.problems.push(problem),
            Owner::Service(service) => self.of_slices.push((service.clone(), problem)),
            Owner::Nobody => {}
        }
    }

    fn problem(&mut self, file: &str, place: &str, object: &str, note: &Note) {
        self.problems.push(problem(file, place, object, note));
    }

    /// Whether this is the first object of its name.
    fn claim(&mut self, key: ObjectKey, file: &str, document: &Document) -> bool {
        if let Some((first, place)) = self.owners.get(&key) {
            let at = if place.is_empty() { first.clone() } else { format!("{first}, {place}") };
            let message = format!("{key} is already defined in {at}, which counts; remove one of them");
            self.problem_of(file, document, &Note::new(Reason::Duplicate, message));
            return false;
        }
        self.owners.insert(key, (file.into(), document.place.clone()));
        true
    }

    fn put(&mut self, object: &Object, file: &str, document: &Document) -> bool {
        if let Object::Service(name, service) = object
            && let Err((frontend, other)) = self.claim_frontends(name, service)
        {
            let (address, port, protocol) = frontend;
            let message = format!(
                "{address} port {port}/{protocol} already belongs to Service {other}, which comes first; give one of \
                 them another ClusterIP"
            );
            self.problem(file, &document.place, &document.object, &Note::new(Reason::AddressTaken, message));
            return false;
        }
        self.objects.put(object.clone());
        true
    }

    fn keep(&mut self, key: &ObjectKey) {
        if let ObjectKey::Service(name) = key
            && let Some(service) = self.objects.service(name).cloned()
            && self.claim_frontends(name, &service).is_err()
        {
            // Its problem is already told: the document that should have replaced it is broken.
            return;
        }
        self.objects.keep(key);
    }

    /// Takes all addresses of a Service, or none.
    fn claim_frontends(
        &mut self,
        name: &ServiceName,
        service: &Service,
    ) -> Result<(), (Frontend, ServiceName)> {
        let frontends = service
            .cluster_ips
            .iter()
            .flat_map(|ip| service.ports.iter().map(move |port| (*ip, port.port, port.protocol)));
        if let Some(taken) =
            frontends.clone().find_map(|it| self.frontends.get(&it).map(|by| (it, by.clone())))
        {
            return Err(taken);
        }
        self.frontends.extend(frontends.map(|frontend| (frontend, name.clone())));
        Ok(())
    }
}

fn problem(file: &str, place: &str, object: &str, note: &Note) -> Problem {
    Problem {
        file: file.into(),
        place: place.into(),
        object: object.into(),
        reason: note.reason,
        message: note.message.clone(),
    }
}
