//! Names of Secrets and of their keys, as Kubernetes allows them. A key's name is also a file's.

use std::fmt;
use std::str::FromStr;

/// `validation.DNS1123SubdomainMaxLength`; keys have the same.
const LONGEST: usize = 253;

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("{0:?} is no name of a Secret: write lowercase letters, digits, - and ., at most {LONGEST}")]
    Secret(String),
    #[error(
        "{0:?} can't be a file's name: use letters, digits, -, _ and ., at most {LONGEST}, and begin with no dot"
    )]
    Key(String),
}

/// The name of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretName(String);

/// The name of a key that may be a file's: never hidden, never a way out of its folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName(String);

impl SecretName {
    /// # Errors
    /// Kubernetes allows no such name.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let part = |part: &str| {
            let ends = part.bytes().next().into_iter().chain(part.bytes().last());
            !part.is_empty() && ends.into_iter().all(plain) && part.bytes().all(|it| plain(it) || it == b'-')
        };
        let is_name = text.len() <= LONGEST && text.split('.').all(part);
        if is_name { Ok(Self(text.into())) } else { Err(NameError::Secret(shown(text))) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl KeyName {
    /// # Errors
    /// Kubernetes allows no such name, or it begins with a dot.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let is_name =
            (1..=LONGEST).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(plain);
        if is_name { Ok(Self(text.into())) } else { Err(NameError::Key(shown(text))) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn shown(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_kubernetes_allows_are_names() {
        for name in ["a", "clustermesh-ca", "a.b-c.9"] {
            assert_eq!(SecretName::new(name).unwrap().as_str(), name);
        }
        for text in ["", "A", "-a", "a-", "a..b", ".a", "a/b", "a b", "ä", &"a".repeat(254)] {
            SecretName::new(text).unwrap_err();
        }
    }

    #[test]
    fn a_key_leads_nowhere_but_into_its_folder() {
        for name in ["tls.crt", "hoth.yaml", "A_b-c.9", "a..b"] {
            assert_eq!(KeyName::new(name).unwrap().as_str(), name);
        }
        for text in
            ["", ".", "..", "..data", ".hidden", "../a", "a/b", "/a", "a\0", "a\\b", "ä", &"a".repeat(254)]
        {
            KeyName::new(text).unwrap_err();
        }
    }
}
