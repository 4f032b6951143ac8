//! The text that carries an invite to another cluster: one line that survives a chat.
//!
//! `clustermesh-invite-1.` and, as base64url without padding, four bytes of checksum and JSON. The checksum is there so that
//! half a token is told as such; that nobody has changed it on its way shows when its secret is not the one that was stored,
//! or another server than the pinned one answers.

use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use mesh_model::name::ClusterName;
use serde::{Deserialize, Serialize};

use super::identifier::{Digest, InviteId, Secret};

const PREFIX: &str = "clustermesh-invite-";
const VERSION: &str = "1.";
/// Far above a token with all endpoints that it may have.
const MAX_BYTES: usize = 16 << 10;
const MAX_ENDPOINTS: usize = 16;
const MAX_ENDPOINT_BYTES: usize = 300;
const CHECKSUM_BYTES: usize = 4;

/// An invite, as it is given to the other cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Where it is taken: 1 to 16 of `https://HOST:PORT`.
    pub endpoints: Vec<String>,
    /// Who invites.
    pub cluster: ClusterName,
    /// Of the inviting cluster's authority: whoever answers at the endpoints has to have a certificate of it.
    pub fingerprint: Digest,
    pub invite: InviteId,
    pub secret: Secret,
}

/// Why a text is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("it does not begin with {PREFIX}: paste the whole line that `clustermesh invite` printed")]
    Prefix,
    #[error("it is of a newer version: use the version of clustermesh that made it, or a later one")]
    Version,
    #[error("it is longer than any token: paste only the line that `clustermesh invite` printed")]
    TooLong,
    #[error("a part of it is missing, or was changed on its way: copy the whole line again")]
    Damaged,
    #[error("its content can't be used ({reason}): have a new invite made")]
    Content { reason: String },
}

impl Token {
    /// One line.
    pub fn encode(&self) -> String {
        let json = serde_json::to_vec(self).expect("a token is plain data");
        let bytes = [&checksum(&json)[..], &json].concat();
        format!("{PREFIX}{VERSION}{}", BASE64URL_NOPAD.encode(&bytes))
    }

    fn check(&self) -> Result<(), String> {
        if self.endpoints.is_empty() || self.endpoints.len() > MAX_ENDPOINTS {
            return Err(format!(
                "it names {} endpoints; 1 to {MAX_ENDPOINTS} are possible",
                self.endpoints.len()
            ));
        }
        let is_good =
            |endpoint: &&String| endpoint.starts_with("https://") && endpoint.len() <= MAX_ENDPOINT_BYTES;
        if self.endpoints.iter().all(|endpoint| is_good(&endpoint)) {
            return Ok(());
        }
        Err(format!("an endpoint is no https://HOST:PORT of at most {MAX_ENDPOINT_BYTES} bytes"))
    }
}

impl FromStr for Token {
    type Err = TokenError;

    /// Space within, which chats and terminals add where they break a line, is left out.
    fn from_str(text: &str) -> Result<Self, TokenError> {
        if text.len() > MAX_BYTES {
            return Err(TokenError::TooLong);
        }
        let text: String = text.split_whitespace().collect();
        let rest = text.strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        let Some(encoded) = rest.strip_prefix(VERSION) else {
            let is_other = rest.split_once('.').is_some_and(|(version, _)| version.parse::<u32>().is_ok());
            return Err(if is_other { TokenError::Version } else { TokenError::Damaged });
        };
        let bytes = BASE64URL_NOPAD.decode(encoded.as_bytes()).map_err(|_| TokenError::Damaged)?;
        let (sum, json) = bytes.split_at_checked(CHECKSUM_BYTES).ok_or(TokenError::Damaged)?;
        if *sum != checksum(json) {
            return Err(TokenError::Damaged);
        }
        let token: Self = serde_json::from_slice(json)
            .map_err(|error| TokenError::Content { reason: error.to_string() })?;
        token.check().map_err(|reason| TokenError::Content { reason })?;
        Ok(token)
    }
}

/// CRC-32 (ISO 3309), big-endian.
fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    let shifted = |sum: u32| if sum & 1 == 1 { (sum >> 1) ^ POLYNOMIAL } else { sum >> 1 };
    let with_byte = |sum: u32, byte: &u8| (0..8).fold(sum ^ u32::from(*byte), |sum, _| shifted(sum));
    (!bytes.iter().fold(u32::MAX, with_byte)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> Token {
        Token {
            endpoints: vec!["https://mesh.yavin.example:2381".into(), "https://192.0.2.7:2381".into()],
            cluster: ClusterName::new("yavin").unwrap(),
            fingerprint: Digest::new([0xab; 32]),
            invite: InviteId::new(*b"\x01\x23\x45\x67\x89\xab\xcd\xef"),
            secret: Secret::new([0x5a; 32]),
        }
    }

    /// Tokens of earlier versions are read as long as their number is.
    const GOLDEN: &str = include_str!("../../tests/golden/token.txt");

    #[test]
    fn the_text_of_a_token_is_a_contract() {
        assert_eq!(token().encode(), GOLDEN.trim());
        assert_eq!(GOLDEN.parse(), Ok(token()));
    }

    #[test]
    fn the_checksum_is_the_one_of_the_standard() {
        assert_eq!(checksum(b"123456789"), [0xcb, 0xf4, 0x39, 0x26]);
    }

    #[test]
    fn a_line_that_a_chat_broke_is_whole() {
        let text = token().encode();
        let (one, other) = text.split_at(70);
        assert_eq!(format!("  {one}\r\n {other}\n").parse(), Ok(token()));
    }

    #[test]
    fn every_truncated_token_is_told_as_one() {
        let text = token().encode();
        for length in 0..text.len() {
            let error = text[..length].parse::<Token>().unwrap_err();
            let expected = if length < PREFIX.len() { TokenError::Prefix } else { TokenError::Damaged };
            assert_eq!(error, expected, "{length} of {}", text.len());
        }
    }

    #[test]
    fn what_is_wrong_with_a_token_is_said() {
        let error = |token: &str| token.parse::<Token>().unwrap_err();
        assert_eq!(error("clustermesh-invite-2.abc"), TokenError::Version);
        assert_eq!(error("https://example.org"), TokenError::Prefix);
        assert_eq!(error(&"a".repeat(MAX_BYTES + 1)), TokenError::TooLong);
        let none = Token { endpoints: vec![], ..token() };
        assert!(error(&none.encode()).to_string().contains("0 endpoints"));
        let plain = Token { endpoints: vec!["http://a:1".into()], ..token() };
        assert!(error(&plain.encode()).to_string().contains("https://HOST:PORT"));
    }

    proptest! {
        #[test]
        fn a_token_reads_as_itself(invite: [u8; 8], secret: [u8; 32], fingerprint: [u8; 32], hosts in prop::collection::vec("[a-z.]{1,40}", 1..16)) {
            let endpoints = hosts.iter().map(|host| format!("https://{host}:2381")).collect();
            let (invite, secret, fingerprint) = (InviteId::new(invite), Secret::new(secret), Digest::new(fingerprint));
            let token = Token { endpoints, fingerprint, invite, secret, ..token() };
            let text = token.encode();
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)));
            prop_assert_eq!(text.parse(), Ok(token));
        }

        #[test]
        fn no_other_text_is_read_as_a_token(at in 0..400_usize, to in "[A-Za-z0-9_-]") {
            let mut text = token().encode();
            let at = at % text.len();
            text.replace_range(at..=at, &to);
            if let Ok(read) = text.parse::<Token>() {
                prop_assert_eq!(read, token());
            }
        }
    }
}
