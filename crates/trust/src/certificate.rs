//! What stands in a certificate. Never judges whether it counts.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::authority::Lifetime;
use crate::identity::{Identity, IdentityError};

/// SHA-256 of a certificate's DER bytes, shown as openssl shows it: upper case hex with colons.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Self(bytes)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is no fingerprint or serial number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is neither a serial number nor a SHA-256 fingerprint: write it as `clustermesh cert show -o wide` does, in hex with \
     or without colons"
)]
pub struct HexError {
    text: String,
}

/// Bytes as openssl shows them, with or without colons.
fn read_hex(text: &str) -> Result<Vec<u8>, HexError> {
    let error = || HexError { text: text.chars().take(100).collect() };
    let digits: Vec<char> = text.trim().chars().filter(|digit| *digit != ':').collect();
    if digits.is_empty() || !digits.len().is_multiple_of(2) {
        return Err(error());
    }
    let digits: Option<Vec<u32>> = digits.iter().map(|digit| digit.to_digit(16)).collect();
    let bytes = digits.ok_or_else(error)?;
    bytes.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).map_err(|_| error())).collect()
}

impl FromStr for Fingerprint {
    type Err = HexError;

    fn from_str(text: &str) -> Result<Self, HexError> {
        let bytes = read_hex(text)?.try_into();
        bytes.map(Self).map_err(|_| HexError { text: text.chars().take(100).collect() })
    }
}

impl FromStr for Serial {
    type Err = HexError;

    fn from_str(text: &str) -> Result<Self, HexError> {
        match read_hex(text)? {
            bytes if bytes.len() <= 21 && bytes.iter().any(|byte| *byte != 0) => Ok(Self::new(&bytes)),
            _ => Err(HexError { text: text.chars().take(100).collect() }),
        }
    }
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    for (at, byte) in bytes.iter().enumerate() {
        write!(f, "{}{byte:02X}", if at == 0 { "" } else { ":" })?;
    }
    Ok(())
}

/// A certificate's serial number: at most 20 bytes, big-endian, without leading zeros (RFC 5280 §4.1.2.2).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(Vec<u8>);

impl Serial {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Self(bytes[zeros..].to_vec())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a certificate says of itself. Nothing of it is proven by reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The one identity that it claims; nothing if it claims none.
    pub identity: Option<Identity>,
    pub serial: Serial,
    pub fingerprint: Fingerprint,
    /// The issuer's name, as one line.
    pub issuer: String,
    /// It counts from this second on.
    pub not_before: UnixTime,
    /// It counts up to this second.
    pub not_after: UnixTime,
    /// Whether it may vouch for others.
    pub is_authority: bool,
    /// The DNS names and addresses that stand in it beside its identity.
    pub names: BTreeSet<String>,
}

/// Why a certificate says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    #[error("it is no X.509 certificate: {why}")]
    Malformed { why: String },
    #[error("its validity lies before 1970")]
    Validity,
    #[error(
        "it claims two identities, {first} and {second}: one certificate speaks for one role of one cluster"
    )]
    TwoIdentities { first: Identity, second: Identity },
    #[error("its identity can't be read")]
    Identity(#[source] IdentityError),
}

impl Certificate {
    /// Reads a DER certificate.
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let malformed = |why: String| CertificateError::Malformed { why };
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|error| malformed(error.to_string()))?;
        if !rest.is_empty() {
            return Err(malformed("bytes follow it".into()));
        }
        Ok(Self {
            identity: identity(&parsed)?,
            serial: Serial::new(parsed.raw_serial()),
            fingerprint: Fingerprint::of(der),
            issuer: parsed.issuer().to_string(),
            not_before: time(parsed.validity().not_before.timestamp())?,
            not_after: time(parsed.validity().not_after.timestamp())?,
            is_authority: parsed.is_ca(),
            names: names(&parsed)?,
        })
    }

    /// When an [`crate::Authority`] of this crate has made it.
    pub fn made(&self) -> UnixTime {
        Lifetime { from: self.not_before, to: self.not_after }.start()
    }

    /// When whoever keeps it makes it anew.
    pub fn renewal(&self) -> UnixTime {
        Lifetime { from: self.not_before, to: self.not_after }.renewal()
    }
}

fn time(seconds: i64) -> Result<UnixTime, CertificateError> {
    let seconds = u64::try_from(seconds).map_err(|_| CertificateError::Validity)?;
    Ok(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
}

/// The one identity among the alternative names; other URIs (SPIFFE's, a company's) may stand beside it.
fn identity(parsed: &X509Certificate<'_>) -> Result<Option<Identity>, CertificateError> {
    let names = parsed
        .subject_alternative_name()
        .map_err(|error| CertificateError::Malformed { why: error.to_string() })?;
    let mut found: Option<Identity> = None;
    for name in names.iter().flat_map(|extension| &extension.value.general_names) {
        let GeneralName::URI(uri) = name else { continue };
        if !Identity::is_claimed_by(uri) {
            continue;
        }
        let identity: Identity = uri.parse().map_err(CertificateError::Identity)?;
        if let Some(first) = found.replace(identity.clone())
            && first != identity
        {
            return Err(CertificateError::TwoIdentities { first, second: identity });
        }
    }
    Ok(found)
}

fn names(parsed: &X509Certificate<'_>) -> Result<BTreeSet<String>, CertificateError> {
    let names = parsed
        .subject_alternative_name()
        .map_err(|error| CertificateError::Malformed { why: error.to_string() })?;
    let names = names.iter().flat_map(|extension| &extension.value.general_names);
    Ok(names.filter_map(name).collect())
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(|v4| IpAddr::from(v4).to_string());
            let v6 = || <[u8; 16]>::try_from(*bytes).map(|v6| IpAddr::from(v6).to_string());
            v4.or_else(|_| v6()).ok()
        }
        _ => None,
    }
}
