//! What a cluster's processes trust within their cluster, as PEM: certificates of authorities, and lists of what these have
//! revoked. Pure.

const CERTIFICATE: &str = "CERTIFICATE";
const LIST: &str = "X509 CRL";

/// The authority's certificate, then all others of a text that are not there yet (its roots, the authority before it), then
/// the lists of the text.
pub(super) fn joined(authority: &str, others: &str) -> String {
    once(blocks(authority, CERTIFICATE).chain(blocks(others, CERTIFICATE)).chain(blocks(others, LIST)))
}

/// Its certificates alone: etcd takes nothing else for trust.
pub(super) fn roots(text: &str) -> String {
    once(blocks(text, CERTIFICATE))
}

/// The text without the blocks of either kind that are picked.
pub(super) fn without(text: &str, is_picked: impl Fn(&str) -> bool) -> String {
    once(blocks(text, CERTIFICATE).chain(blocks(text, LIST)).filter(|block| !is_picked(block)))
}

/// The lists of a text that are picked.
pub(super) fn lists(text: &str, is_picked: impl Fn(&str) -> bool) -> String {
    once(blocks(text, LIST).filter(|block| is_picked(block)))
}

fn once<'a>(blocks: impl Iterator<Item = &'a str>) -> String {
    let mut found: Vec<&str> = Vec::new();
    for block in blocks {
        if !found.contains(&block) {
            found.push(block);
        }
    }
    found.iter().map(|block| format!("{block}\n")).collect()
}

/// The PEM blocks of one kind, each from its first line on.
fn blocks<'a>(text: &'a str, kind: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    let begin = format!("-----BEGIN {kind}-----");
    let length = begin.len();
    let starts: Vec<usize> = text.match_indices(&begin).map(|(at, _)| at).collect();
    starts.into_iter().map(move |at| {
        let rest = &text[at..];
        let end = rest[length..].find("-----BEGIN").map_or(rest.len(), |end| end + length);
        rest[..end].trim()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(kind: &str, text: &str) -> String {
        format!("-----BEGIN {kind}-----\n{text}\n-----END {kind}-----\n")
    }

    #[test]
    fn each_block_stands_there_once_the_authoritys_first_and_lists_last() {
        let [one, two] = ["one", "two"].map(|text| block(CERTIFICATE, text));
        assert_eq!(joined(&one, ""), one);
        assert_eq!(joined(&one, &format!("a comment\n{one}\n\n{two}{two}")), format!("{one}{two}"));
        let list = block(LIST, "list");
        let all = joined(&one, &format!("{list}{two}{list}"));
        assert_eq!(all, format!("{one}{two}{list}"));
        assert_eq!(roots(&all), format!("{one}{two}"));
        assert_eq!(without(&all, |block| block.contains("one")), format!("{two}{list}"));
        assert_eq!(lists(&all, |_| true), list);
        assert_eq!(lists(&all, |_| false), "");
    }
}
