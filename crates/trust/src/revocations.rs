//! Lists of revoked certificates (RFC 5280 §5): what one says, so that the next one says it too.

use std::collections::BTreeMap;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use crate::certificate::Serial;

/// What an authority has revoked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations {
    /// Goes up with every list.
    pub number: u64,
    /// Since when each certificate does not count.
    pub revoked: BTreeMap<Serial, UnixTime>,
}

impl Revocations {
    /// What the newest list in a PEM says that an authority has issued; nothing where there is none of it.
    pub fn of(authority: &CertificateDer<'_>, pem: &str) -> Self {
        let Ok((_, authority)) = X509Certificate::from_der(authority) else { return Self::default() };
        let lists = CertificateRevocationListDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok);
        let lists = lists.filter_map(|list| read(&list, authority.subject().as_raw()));
        lists.max_by_key(|list| list.number).unwrap_or_default()
    }
}

/// None for a list of another issuer, and for what is none.
fn read(list: &CertificateRevocationListDer<'_>, issuer: &[u8]) -> Option<Revocations> {
    let (_, list) = CertificateRevocationList::from_der(list).ok()?;
    if list.issuer().as_raw() != issuer {
        return None;
    }
    let number = list.crl_number().and_then(|number| number.iter_u64_digits().next());
    let entry = |entry: &x509_parser::revocation_list::RevokedCertificate<'_>| {
        let at = u64::try_from(entry.revocation_date.timestamp()).unwrap_or_default();
        (Serial::new(entry.raw_serial()), UnixTime::since_unix_epoch(Duration::from_secs(at)))
    };
    let revoked = list.iter_revoked_certificates().map(entry).collect();
    Some(Revocations { number: number.unwrap_or_default(), revoked })
}
