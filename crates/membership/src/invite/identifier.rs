//! The numbers of an invite: its id, its secret, and what is known of certificates and secrets by their hashes.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER, HEXUPPER};
use serde::{Deserialize, Serialize};

/// Why a text is none of these.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentifierError {
    #[error("an invite's id has 16 hex digits, in lower case")]
    Id,
    #[error("an invite's secret has 43 characters")]
    Secret,
    #[error("a SHA-256 has 32 bytes: 64 hex digits, in upper case, with colons between bytes or without")]
    Digest,
}

/// Which invite: 16 hex digits. No secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InviteId([u8; 8]);

/// What proves that an invite was given to whoever shows it: 32 random bytes, as base64url.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Secret([u8; 32]);

/// A SHA-256, shown as openssl shows a fingerprint: upper case hex with colons.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl InviteId {
    /// Of random bytes.
    pub fn new(random: [u8; 8]) -> Self {
        Self(random)
    }
}

impl Secret {
    /// Of random bytes.
    pub fn new(random: [u8; 32]) -> Self {
        Self(random)
    }

    /// What is hashed.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Digest {
    pub fn new(sha256: [u8; 32]) -> Self {
        Self(sha256)
    }

    /// Compares all bytes, however early two differ: the time that it takes says nothing of where they do.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let differs = self.0.iter().zip(&other.0).fold(0, |differs, (one, other)| differs | (one ^ other));
        std::hint::black_box(differs) == 0
    }
}

impl FromStr for InviteId {
    type Err = IdentifierError;

    fn from_str(text: &str) -> Result<Self, IdentifierError> {
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| IdentifierError::Id)?;
        bytes.try_into().map(Self).map_err(|_| IdentifierError::Id)
    }
}

impl FromStr for Secret {
    type Err = IdentifierError;

    fn from_str(text: &str) -> Result<Self, IdentifierError> {
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| IdentifierError::Secret)?;
        bytes.try_into().map(Self).map_err(|_| IdentifierError::Secret)
    }
}

impl FromStr for Digest {
    type Err = IdentifierError;

    fn from_str(text: &str) -> Result<Self, IdentifierError> {
        let bytes = HEXUPPER.decode(text.replace(':', "").as_bytes()).map_err(|_| IdentifierError::Digest)?;
        bytes.try_into().map(Self).map_err(|_| IdentifierError::Digest)
    }
}

impl fmt::Display for InviteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for InviteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A secret stands in no log.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02X}", if at == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Secret> for String {
    fn from(secret: Secret) -> Self {
        BASE64URL_NOPAD.encode(&secret.0)
    }
}

/// Text that is read as such a number, and written back as it was read.
macro_rules! text {
    ($($type:ident),+) => {
        $(impl TryFrom<String> for $type {
            type Error = IdentifierError;

            fn try_from(text: String) -> Result<Self, IdentifierError> {
                text.parse()
            }
        })+
    };
}

text!(InviteId, Secret, Digest);

impl From<InviteId> for String {
    fn from(id: InviteId) -> Self {
        id.to_string()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_reads_as_itself(id: [u8; 8], secret: [u8; 32], digest: [u8; 32]) {
            let (id, secret, digest) = (InviteId::new(id), Secret::new(secret), Digest::new(digest));
            prop_assert_eq!(id.to_string().parse(), Ok(id));
            prop_assert_eq!(String::from(secret.clone()).parse(), Ok(secret));
            prop_assert_eq!(digest.to_string().parse(), Ok(digest));
        }

        #[test]
        fn digests_are_the_same_only_where_all_bytes_are(digest: [u8; 32], at in 0..32_usize, bit in 0..8_u8) {
            let mut other = digest;
            other[at] ^= 1 << bit;
            prop_assert!(Digest::new(digest).is_same(&Digest::new(digest)));
            prop_assert!(!Digest::new(digest).is_same(&Digest::new(other)));
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", Secret::new([7; 32])), "Secret(…)");
        assert!("../leader".parse::<InviteId>().is_err(), "an id is a part of a key");
    }
}
