//! What a cluster's processes trust within their cluster, as PEM. Pure.

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";

/// The authority's certificate, then all others of a text that are not there yet: its roots, or the authority before it.
pub(super) fn joined(authority: &str, others: &str) -> String {
    let mut joined: Vec<&str> = Vec::new();
    for certificate in certificates(authority).chain(certificates(others)) {
        if !joined.contains(&certificate) {
            joined.push(certificate);
        }
    }
    joined.iter().map(|certificate| format!("{certificate}\n")).collect()
}

fn certificates(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices(BEGIN).map(|(at, _)| {
        let rest = &text[at..];
        let end = rest[BEGIN.len()..].find("-----BEGIN").map_or(rest.len(), |end| end + BEGIN.len());
        rest[..end].trim()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_certificate_stands_there_once_and_the_authoritys_first() {
        let certificate = |text: &str| format!("{BEGIN}\n{text}\n-----END CERTIFICATE-----\n");
        let (one, two) = (certificate("one"), certificate("two"));
        assert_eq!(joined(&one, ""), one);
        assert_eq!(joined(&one, &format!("a comment\n{one}\n\n{two}{two}")), format!("{one}{two}"));
        let list = "-----BEGIN X509 CRL-----\nlist\n-----END X509 CRL-----\n";
        assert_eq!(joined(&one, &format!("{list}{two}")), format!("{one}{two}"));
    }
}
