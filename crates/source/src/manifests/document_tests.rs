use super::*;

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: a, annotations: {clustermesh.io/global: \"true\"}}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}
";
const NODE: &str = "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n";

fn yaml(text: &str) -> Vec<Document> {
    documents(text, false)
}

fn is_object(document: &Document) -> bool {
    matches!(document.effect, Effect::Object(_))
}

/// The reason of the only note of the only document.
fn reason(text: &str) -> Reason {
    let documents = yaml(text);
    assert_eq!(documents.len(), 1, "{documents:?}");
    assert_eq!(documents[0].notes.len(), 1, "{documents:?}");
    documents[0].notes[0].reason
}

#[test]
fn several_documents_are_read_in_order() {
    let text = format!("# comment\n---\n{SERVICE}---\n{NODE}...\n---\n# nothing\n---\n");
    let documents = yaml(&text);
    assert_eq!(documents.len(), 2, "{documents:?}");
    assert_eq!(
        (documents[0].place.as_str(), documents[0].object.as_str()),
        ("document 1", "Service default/a")
    );
    assert_eq!((documents[1].place.as_str(), documents[1].object.as_str()), ("document 2", "Node n1"));
    assert!(documents.iter().all(is_object));
}

#[test]
fn windows_line_ends_and_a_byte_order_mark_are_fine() {
    let text = format!("\u{feff}{}", format!("{SERVICE}---\n{NODE}").replace('\n', "\r\n"));
    let documents = yaml(&text);
    assert_eq!(documents.len(), 2);
    assert!(documents.iter().all(is_object), "{documents:?}");
}

#[test]
fn a_broken_document_does_not_hide_the_others() {
    let documents = yaml(&format!("{NODE}---\nspec: [\n---\n{SERVICE}"));
    assert_eq!(documents.len(), 3);
    assert!(is_object(&documents[0]) && is_object(&documents[2]));
    assert_eq!(documents[1].effect, Effect::Unidentified);
    let message = &documents[1].notes[0].message;
    assert!(message.contains("it is not YAML") && message.contains("line 5"), "{message}");
}

#[test]
fn a_wrong_type_keeps_the_object_by_its_name() {
    let text = SERVICE.replace("port: 80", "port: eighty");
    let documents = yaml(&text);
    let key = ObjectKey::Service("default/a".parse().unwrap());
    assert_eq!(documents[0].effect, Effect::Keep(key));
    assert_eq!(documents[0].notes[0].reason, Reason::Malformed);
}

#[test]
fn an_unquoted_annotation_is_told_to_need_quotes() {
    let documents = yaml(&SERVICE.replace("\"true\"", "true"));
    let message = &documents[0].notes[0].message;
    assert!(message.contains("boolean `true`") && message.contains("need quotes"), "{message}");
}

#[test]
fn lists_are_flattened() {
    let items = "items:\n- {apiVersion: v1, kind: Node, metadata: {name: n1}}\n- {kind: 3}\n";
    let documents = yaml(&format!("apiVersion: v1\nkind: List\n{items}"));
    assert_eq!(documents[1].place, "document 1, item 1");
    assert!(is_object(&documents[1]));
    assert_eq!(documents[2].effect, Effect::Unidentified);
    let documents = yaml("apiVersion: v1\nkind: NodeList\nitems: [{metadata: {name: n1}}]\n");
    assert!(is_object(&documents[1]), "items of a typed list need no kind: {documents:?}");
}

#[test]
fn an_empty_list_is_knowledge_but_one_without_items_is_not() {
    assert_eq!(yaml("apiVersion: v1\nkind: List\nitems: []\n")[0].effect, Effect::Nothing);
    assert_eq!(reason("apiVersion: v1\nkind: List\n"), Reason::Malformed);
}

#[test]
fn other_kinds_are_nothing_to_us() {
    let documents = yaml("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n");
    assert_eq!((&documents[0].effect, documents[0].notes.len()), (&Effect::Nothing, 0));
}

#[test]
fn what_is_no_object_is_refused() {
    for text in ["hello", "- 1\n- 2\n", "metadata: {name: a}\n", "kind: 3\n"] {
        assert_eq!(reason(text), Reason::Malformed, "{text}");
    }
    assert_eq!(reason("apiVersion: v1\nkind: Node\nmetadata: {}\n"), Reason::Name);
    assert_eq!(reason("apiVersion: v1\nkind: Node\nmetadata: {name: [x]}\n"), Reason::Malformed);
    let beta = "apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\nmetadata: {name: s}\n";
    assert_eq!(reason(beta), Reason::Version);
}

#[test]
fn alias_bombs_and_deep_nesting_are_refused() {
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..9 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(",");
        bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    assert_eq!(reason(&bomb), Reason::Syntax);
    assert_eq!(reason(&format!("a: {}{}", "[".repeat(100_000), "]".repeat(100_000))), Reason::Syntax);
    let stairs: String = (0..2000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    assert_eq!(reason(&stairs), Reason::Syntax);
    let json = documents(&format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)), true);
    assert_eq!(json[0].notes[0].reason, Reason::Syntax);
}

#[test]
fn binary_junk_is_refused() {
    assert_eq!(reason("\u{0}\u{1}\u{2}"), Reason::Syntax);
    assert_eq!(reason("a: 1\na: 2\n"), Reason::Syntax);
}

#[test]
fn a_key_that_stands_twice_is_named_with_its_place() {
    let joined = format!("{NODE}---\n{SERVICE}{NODE}");
    let message = &yaml(&joined)[1].notes[0].message;
    assert_eq!(
        message,
        "\"apiVersion\" stands twice in one object, the second time at line 9; remove one, or write --- between two \
         objects"
    );
}

#[test]
fn a_byte_order_mark_may_stand_at_the_start_of_any_document() {
    for joint in ["---\n\u{feff}", "\u{feff}---\n", "--- \r\n\u{feff}", "\u{feff}---\n\u{feff}"] {
        let documents = yaml(&format!("\u{feff}{SERVICE}{joint}{NODE}{joint}{}", NODE.replace("n1", "n2")));
        assert!(documents.len() == 3 && documents.iter().all(is_object), "{joint:?}: {documents:?}");
    }
}

#[test]
fn json_is_read_as_json() {
    let text = r#"{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}"#;
    assert!(is_object(&documents(text, true)[0]));
    assert_eq!(documents("{", true)[0].notes[0].reason, Reason::Syntax);
}
