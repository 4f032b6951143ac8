//! As much of DNS (RFC 1035) as a pod needs to say its name, and a client to ask for it: every question is answered by one
//! TXT record.

/// Length of a message's header.
const HEADER: usize = 12;
/// A response, authoritative, without error; recursion desired is given back as it came.
const RESPONSE: u8 = 0b1000_0100;
/// A name by reference to the question's, which stands right behind the header.
const SAME_NAME: [u8; 2] = [0xc0, 12];
const TXT: [u8; 2] = [0, 16];
const INTERNET: [u8; 2] = [0, 1];

/// The response to a message with one question; none where it is no such message, or the text too long.
pub(super) fn answer(message: &[u8], text: &str) -> Option<Vec<u8>> {
    let header = message.get(..HEADER)?;
    let is_question = header[2] & 0x80 == 0 && header[4..6] == [0, 1];
    let question = message.get(HEADER..question_end(message)?)?;
    let length = u8::try_from(text.len()).ok().filter(|length| *length < u8::MAX && is_question)?;
    let mut response = header[..2].to_vec();
    response.extend([RESPONSE | header[2] & 1, 0]);
    // One question, one answer, nothing else.
    response.extend([0, 1, 0, 1, 0, 0, 0, 0]);
    response.extend(question);
    response.extend(SAME_NAME.into_iter().chain(TXT).chain(INTERNET));
    // Not to be kept, and as long as the text with its own length.
    response.extend([0, 0, 0, 0, 0, length + 1, length]);
    response.extend(text.as_bytes());
    Some(response)
}

/// "Who?", of type TXT.
pub(super) const QUESTION: &[u8] = b"\x2a\x2a\x01\0\0\x01\0\0\0\0\0\0\x03who\0\0\x10\0\x01";

/// The text in an [`answer`] to [`QUESTION`]; none where it is something else.
pub(super) fn text(response: &[u8]) -> Option<String> {
    let is_answer = response.get(..2)? == &QUESTION[..2] && response.get(6..8)? == [0, 1];
    let record = response.get(QUESTION.len()..).filter(|_| is_answer)?;
    // Name, type, class, time to live and the length of the data come before the text's own length.
    let (length, text) = record.get(12..)?.split_first()?;
    String::from_utf8(text.get(..usize::from(*length))?.to_vec()).ok()
}

/// Where the first question ends: labels up to an empty one, then type and class.
fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match message.get(at)? {
            0 => return Some(at + 5),
            label @ 1..=63 => at += 1 + usize::from(*label),
            // A question has nothing before it to refer to.
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The question of `dig TXT a.b`, without EDNS.
    const QUESTION: &[u8] = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x01a\x01b\0\0\x10\0\x01";

    #[test]
    fn a_question_is_answered_by_one_text() {
        let response = answer(QUESTION, "hoth/1").unwrap();
        assert_eq!(response[..12], *b"\x12\x34\x85\0\0\x01\0\x01\0\0\0\0");
        assert_eq!(response[12..QUESTION.len()], QUESTION[12..]);
        assert_eq!(response[QUESTION.len()..], *b"\xc0\x0c\0\x10\0\x01\0\0\0\0\0\x07\x06hoth/1");
    }

    #[test]
    fn the_text_of_an_answer_is_found() {
        let response = answer(super::QUESTION, "hoth/1").unwrap();
        assert_eq!(text(&response).as_deref(), Some("hoth/1"));
        for length in 0..response.len() {
            assert_eq!(text(&response[..length]), None, "{length} bytes");
        }
        assert_eq!(text(super::QUESTION), None, "a question");
    }

    #[test]
    fn what_is_no_question_is_not_answered() {
        for length in 0..QUESTION.len() {
            assert_eq!(answer(&QUESTION[..length], "hoth/1"), None, "{length} bytes");
        }
        let mut response = QUESTION.to_vec();
        response[2] |= 0x80;
        assert_eq!(answer(&response, "hoth/1"), None, "a response");
        let mut reference = QUESTION.to_vec();
        reference[12] = 0xc0;
        assert_eq!(answer(&reference, "hoth/1"), None, "a reference");
        assert_eq!(answer(QUESTION, &"x".repeat(255)), None, "too long a text");
    }
}
