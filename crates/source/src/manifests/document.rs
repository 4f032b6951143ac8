//! From a file's bytes to objects and refusals. Pure.
//!
//! Documents are parsed one by one, so that a broken one doesn't hide the others.

use std::net::IpAddr;

use ipnet::IpNet;
use mesh_model::address::Address;
use mesh_model::name::ServiceName;
use serde_json::Value;

use crate::convert::{self, Note, Verdict};
use crate::kinds::{Api, Kind, NotRead, Object, ObjectKey, Reading};
use crate::status::Reason;
use crate::wire::Meta;

/// Bounds on what one document may make of itself: nesting, and what aliases expand to. An 8 MiB file of the
/// densest honest YAML has some 2 million nodes.
const MAX_NODES: usize = 2_000_000;
const MAX_REPLAYED: usize = 100_000;
/// Deeper than any Kubernetes object, shallow enough for any stack.
const MAX_DEPTH: usize = 64;
/// A byte order mark.
const MARK: char = '\u{feff}';

/// An object in a file, or what stands in its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Document {
    /// E.g. `document 2, item 3`.
    pub(crate) place: String,
    /// `Kind namespace/name` as far as it is known.
    pub(crate) object: String,
    pub(crate) effect: Effect,
    pub(crate) notes: Vec<Note>,
    /// Of which Service a slice is.
    pub(crate) owner: Owner,
}

/// Whose problem a document's problems are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Owner {
    /// They are told in any case.
    #[default]
    Itself,
    /// They matter where this Service is global.
    Service(ServiceName),
    /// They are those of a slice that belongs to no Service.
    Nobody,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Effect {
    Object(Object),
    /// Nothing for us: another kind, an empty list. That it stands there is knowledge all the same.
    Nothing,
    /// Endpoints of a Service, which are not read: slices are.
    Endpoints(ServiceName),
    /// An object that is none for the mesh (any more): not global, or nothing to balance.
    Leave(ObjectKey),
    /// An object whose last good value stays.
    Keep(ObjectKey),
    /// Nobody knows which object this was meant to be.
    Unidentified,
}

/// Parses a file. `json` says that it is JSON by its name; otherwise it is YAML.
pub(crate) fn documents(text: &str, json: bool) -> Vec<Document> {
    let text = text.strip_prefix(MARK).unwrap_or(text);
    let values = if json { json_values(text) } else { yaml_values(text) };
    let mut documents = Vec::new();
    for (index, value) in values.into_iter().enumerate() {
        let place = format!("document {}", index + 1);
        match value {
            Ok(value) => objects(value, &place, &mut documents),
            Err(note) => documents.push(unidentified(place, String::new(), note)),
        }
    }
    documents
}

/// Keeps what Services were whose ClusterIPs lie outside of these ranges, if there are any: a client's connects to some
/// other address must not be taken.
pub(crate) fn confine(mut documents: Vec<Document>, ranges: &[IpNet]) -> Vec<Document> {
    for document in &mut documents {
        let Effect::Object(Object::Service(name, service)) = &document.effect else { continue };
        let holds = |ip: Address| ranges.iter().any(|range| range.contains(&IpAddr::from(ip)));
        let Some(outside) = service.cluster_ips.iter().find(|ip| !ranges.is_empty() && !holds(**ip)) else {
            continue;
        };
        let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        let message = format!(
            "ClusterIP {outside} is outside of --service-cidr {}; correct the Service, or the flag",
            ranges.join(",")
        );
        document.notes.push(Note::new(Reason::Service, message));
        document.effect = Effect::Keep(name.clone().into());
    }
    documents
}

fn unidentified(place: String, object: String, note: Note) -> Document {
    Document { place, object, effect: Effect::Unidentified, notes: vec![note], owner: Owner::Itself }
}

fn json_values(text: &str) -> Vec<Result<Value, Note>> {
    let read = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    read.map(|value| value.map_err(|error| syntax("JSON", &error.to_string()))).collect()
}

fn syntax(language: &str, error: &str) -> Note {
    let first = error.lines().next().unwrap_or_default();
    let short: String = first.chars().take(300).collect();
    Note::new(Reason::Syntax, format!("it is not {language}: {short}; correct it"))
}

fn yaml_values(text: &str) -> Vec<Result<Value, Note>> {
    let mut values = Vec::new();
    for range in split(text) {
        let chunk = &text[range.clone()];
        let read = read_yaml(chunk);
        let broken = read.iter().any(Result::is_err);
        if broken && range.start > 0 {
            // Read once more behind as many empty lines, so that the message counts lines from the file's start.
            let lines = text[..range.start].matches('\n').count();
            values.extend(read_yaml(&format!("{}{chunk}", "\n".repeat(lines))));
        } else {
            values.extend(read);
        }
    }
    values
}

/// The documents' ranges. A line that begins with `---` and a space or nothing more is a marker wherever it
/// stands, even within a quoted text (YAML 1.2.2, c-forbidden), so nothing needs to be parsed for this.
fn split(text: &str) -> Vec<std::ops::Range<usize>> {
    let (mut starts, mut position) = (vec![0], 0);
    for line in text.split_inclusive('\n') {
        let unmarked = line.strip_prefix(MARK).unwrap_or(line);
        let marker =
            unmarked.strip_prefix("---").is_some_and(|rest| rest.starts_with([' ', '\t', '\r', '\n']));
        if (marker || unmarked == "---") && position > 0 {
            starts.push(position);
        }
        position += line.len();
    }
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    starts
        .iter()
        .copied()
        .zip(ends)
        .map(|(start, end)| start..end)
        .map(|it| without_mark(text, it))
        .filter(|it| says(&text[it.clone()]))
        .collect()
}

/// A byte order mark may stand at the start of each document (YAML 1.2.2, 5.2), before or behind its marker: files that
/// were saved with one are joined.
fn without_mark(text: &str, range: std::ops::Range<usize>) -> std::ops::Range<usize> {
    let document = &text[range.clone()];
    if document.starts_with(MARK) {
        return without_mark(text, range.start + MARK.len_utf8()..range.end);
    }
    let marker = document.strip_prefix("---").map_or(0, |rest| {
        let line_end = rest.find('\n').map_or(rest.len(), |at| at + 1);
        if rest[..line_end].trim().is_empty() { 3 + line_end } else { 0 }
    });
    let marked = document[marker..].starts_with(MARK);
    if marked { range.start + marker + MARK.len_utf8()..range.end } else { range }
}

/// Whether a document is more than comments, directives and markers.
fn says(text: &str) -> bool {
    let silent = |line: &str| {
        let line = line.strip_prefix("---").unwrap_or(line).trim();
        line.is_empty() || line.starts_with(['#', '%']) || line == "..."
    };
    !text.lines().all(silent)
}

fn read_yaml(text: &str) -> Vec<Result<Value, Note>> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_nodes: MAX_NODES,
            max_events: 2 * MAX_NODES,
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_REPLAYED },
    };
    let mut reader = text.as_bytes();
    let read = serde_saphyr::read_with_options::<_, Value>(&mut reader, options);
    read.map(|value| value.map_err(|error| yaml_error(&error))).collect()
}

fn yaml_error(error: &serde_saphyr::Error) -> Note {
    if let serde_saphyr::Error::DuplicateMappingKey { key, location } = error.without_snippet() {
        let key = key.as_deref().unwrap_or("a key");
        let message = format!(
            "{} stands twice in one object, the second time at line {}; remove one, or write --- between two objects",
            convert::shown(key),
            location.line()
        );
        return Note::new(Reason::Syntax, message);
    }
    syntax("YAML", &error.to_string())
}

/// Flattens lists: `v1 List`, and `ServiceList` and its like.
fn objects(value: Value, place: &str, documents: &mut Vec<Document>) {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (version, kind) = (text("apiVersion"), text("kind"));
    let item_kind = match kind.strip_suffix("List") {
        Some(item) if ["", "Service", "EndpointSlice", "Endpoints", "Node"].contains(&item) => {
            item.to_owned()
        }
        _ => return documents.push(document(value, &version, &kind, place.into())),
    };
    let items = match value {
        Value::Object(mut fields) => fields.remove("items").unwrap_or(Value::Null),
        _ => Value::Null,
    };
    let Value::Array(items) = items else {
        let note = malformed("it is a list without items; write items: [] if it is meant to be empty");
        return documents.push(unidentified(place.into(), kind, note));
    };
    // An empty list is knowledge: whoever writes it means that there is nothing.
    documents.push(nothing(place.into(), kind));
    for (index, item) in items.into_iter().enumerate() {
        let text = |field: &str, default: &str| {
            item.get(field).and_then(Value::as_str).map_or_else(|| default.to_owned(), Into::into)
        };
        let (version, kind) = (text("apiVersion", &version), text("kind", &item_kind));
        documents.push(document(item, &version, &kind, format!("{place}, item {}", index + 1)));
    }
}

fn malformed(message: impl Into<String>) -> Note {
    Note::new(Reason::Malformed, message)
}

fn nothing(place: String, object: String) -> Document {
    Document { place, object, effect: Effect::Nothing, notes: Vec::new(), owner: Owner::Itself }
}

fn document(value: Value, version: &str, kind: &str, place: String) -> Document {
    let object = object_name(&value, kind);
    let kind = match kind {
        "" => {
            let note =
                malformed("it is no Kubernetes object: kind is missing; write apiVersion, kind and metadata");
            return unidentified(place, object, note);
        }
        "Endpoints" => {
            let name = value.pointer("/metadata/name").and_then(Value::as_str);
            let effect = convert::owner(namespace(&value), name).map_or(Effect::Nothing, Effect::Endpoints);
            return Document { effect, ..nothing(place, object) };
        }
        other => match Kind::named(other).filter(|kind| kind.api().in_manifests) {
            Some(kind) => kind,
            None => return nothing(place, object),
        },
    };
    let Api { kind: name, version: supported, .. } = kind.api();
    if version != *supported {
        let message = format!("apiVersion {version:?} of {name} is not read; write {supported}");
        return unidentified(place, object, Note::new(Reason::Version, message));
    }
    let owner = if kind == Kind::Slice { owner(&value) } else { Owner::Itself };
    let (effect, notes) = read(kind, value);
    Document { place, object, effect, notes, owner }
}

fn namespace(value: &Value) -> Option<&str> {
    value.pointer("/metadata/namespace").and_then(Value::as_str)
}

fn owner(slice: &Value) -> Owner {
    let label = slice.pointer("/metadata/labels").and_then(|labels| labels.get(convert::SERVICE_LABEL));
    match label {
        None => Owner::Nobody,
        Some(label) => convert::owner(namespace(slice), label.as_str()).map_or(Owner::Itself, Owner::Service),
    }
}

fn object_name(value: &Value, kind: &str) -> String {
    let field = |name: &str| value.pointer(&format!("/metadata/{name}")).and_then(Value::as_str);
    let short = |text: &str| text.chars().take(253).collect::<String>();
    let name = short(field("name").unwrap_or("without a name"));
    match (kind, field("namespace")) {
        ("", _) => String::new(),
        _ if Kind::named(kind).is_some_and(|kind| !kind.api().namespaced) => format!("{kind} {name}"),
        (_, namespace) => format!("{} {}/{name}", short(kind), short(namespace.unwrap_or("default"))),
    }
}

/// Reads a value as an object of a kind. Where only the name can be read, the object is kept as it was.
fn read(kind: Kind, value: Value) -> (Effect, Vec<Note>) {
    let metadata = value.get("metadata").cloned();
    let Reading { key, verdict, notes, .. } = match kind.operations().read_value(value) {
        Ok(reading) => reading,
        Err(NotRead::Fields(error)) => {
            let note = malformed(format!("{error}; correct that field (texts such as \"true\" need quotes)"));
            let key = metadata.and_then(|metadata| key_of(kind, &metadata));
            return (key.map_or(Effect::Unidentified, Effect::Keep), vec![note]);
        }
        Err(NotRead::Name(note)) => return (Effect::Unidentified, vec![note]),
    };
    let effect = match verdict {
        Verdict::Use(object) => Effect::Object(object),
        Verdict::Leave => Effect::Leave(key),
        Verdict::Keep => Effect::Keep(key),
    };
    (effect, notes)
}

/// The key of an object of which nothing but the name can be read.
fn key_of(kind: Kind, metadata: &Value) -> Option<ObjectKey> {
    let name = |field: &str| metadata.get(field).cloned().unwrap_or(Value::Null);
    let only_name = serde_json::json!({"name": name("name"), "namespace": name("namespace")});
    let meta: Meta = serde_json::from_value(only_name).ok()?;
    kind.operations().key(&meta).ok()
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
