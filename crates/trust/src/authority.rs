//! A cluster's certificate authority: makes itself, vouches for the cluster's own processes, and revokes. Never keeps what it
//! issued: who needs it stores it.

use std::time::Duration;

use mesh_model::name::ClusterName;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    RevokedCertParams, SanType, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use time::OffsetDateTime;

use crate::bundle::Bundle;
use crate::certificate::{Certificate, CertificateError, Serial};
use crate::identity::{Identity, Role};
use crate::revocations::Revocations;
use crate::trust::leads;

/// What a certificate counts before the moment at which it was made: other clocks may be late.
const CLOCK_SLACK: Duration = Duration::from_secs(5 * 60);
/// How long an authority's own certificate counts: ten years.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What tells subjects of one name apart (X.520).
const SERIAL_NUMBER: [u64; 4] = [2, 5, 4, 5];

/// From when to when a certificate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    pub from: UnixTime,
    pub to: UnixTime,
}

impl Lifetime {
    /// From a little before `now`, because other clocks may be late, until `length` after it.
    pub fn starting(now: UnixTime, length: Duration) -> Self {
        let at = Duration::from_secs(now.as_secs());
        Self {
            from: UnixTime::since_unix_epoch(at.saturating_sub(CLOCK_SLACK)),
            to: UnixTime::since_unix_epoch(at.saturating_add(length)),
        }
    }

    /// The `now` of [`Self::starting`].
    pub(crate) fn start(&self) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(self.from.as_secs()).saturating_add(CLOCK_SLACK))
    }

    /// When a certificate of this lifetime is renewed: after a third of it, so that two thirds are left for whatever keeps it
    /// from being renewed.
    pub fn renewal(&self) -> UnixTime {
        let (from, to) = (self.from.as_secs(), self.to.as_secs());
        UnixTime::since_unix_epoch(Duration::from_secs(from + to.saturating_sub(from) / 3))
    }
}

/// A certificate with its private key, as PEM.
#[derive(Clone)]
pub struct Issued {
    pub certificate_pem: String,
    pub key_pem: String,
}

impl Issued {
    /// Whether the key is the one that the certificate names.
    pub(crate) fn check_key(&self, certificate: &CertificateDer<'_>) -> Result<(), AuthorityError> {
        let key = KeyPair::from_pem(&self.key_pem).map_err(AuthorityError::Pair)?;
        if holds_key(certificate, &key) { Ok(()) } else { Err(AuthorityError::OtherKey) }
    }
}

/// Why an authority can't be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("making a key")]
    Key(#[source] rcgen::Error),
    #[error("making random bytes")]
    Random,
    #[error("signing a certificate for {identity}")]
    Sign { identity: Identity, source: rcgen::Error },
    #[error("signing the authority's own certificate")]
    SignOwn(#[source] rcgen::Error),
    #[error("signing the list of revoked certificates")]
    SignRevocations(#[source] rcgen::Error),
    #[error("reading the authority's certificate")]
    Pem(#[source] rustls::pki_types::pem::Error),
    #[error("reading the authority's certificate")]
    Certificate(#[source] CertificateError),
    #[error("the authority's certificate may not vouch for others (it is no CA)")]
    NotAnAuthority,
    #[error("the authority's key does not belong to its certificate, or can't be read")]
    Pair(#[source] rcgen::Error),
    #[error("the authority's key does not belong to its certificate")]
    OtherKey,
    #[error("{name:?} can't stand in a certificate as a name")]
    Name { name: String, source: rcgen::Error },
    #[error("{seconds} s after 1970 is no date that a certificate can hold")]
    Date { seconds: u64 },
}

/// A cluster's certificate authority.
pub struct Authority {
    cluster: ClusterName,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new authority with a key of its own (ECDSA P-256, which every TLS library takes), for ten years.
    pub fn new(cluster: &ClusterName, now: UnixTime) -> Result<Self, AuthorityError> {
        let key = new_key()?;
        let mut params = params(Lifetime::starting(now, AUTHORITY_LIFETIME))?;
        params.distinguished_name = common_name(&format!("clustermesh CA of {cluster}"));
        // One that takes another's place has another name: lists of revoked certificates are found by their issuer's.
        params.distinguished_name.push(DnType::CustomDnType(SERIAL_NUMBER.into()), tag()?);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(AuthorityError::SignOwn)?;
        let (certificate_pem, key_pem) = (certificate.pem(), key.serialize_pem());
        let certificate = certificate.der().clone();
        let issuer = Issuer::new(params, key);
        Ok(Self { cluster: cluster.clone(), certificate, certificate_pem, key_pem, issuer })
    }

    /// Reads what [`Self::certificate_pem`] and [`Self::key_pem`] gave, or what somebody else's tools made.
    pub fn from_pem(
        cluster: &ClusterName,
        certificate_pem: &str,
        key_pem: &str,
    ) -> Result<Self, AuthorityError> {
        let certificate =
            CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(AuthorityError::Pem)?;
        let read = Certificate::read(&certificate).map_err(AuthorityError::Certificate)?;
        if !read.is_authority {
            return Err(AuthorityError::NotAnAuthority);
        }
        let key = KeyPair::from_pem(key_pem).map_err(AuthorityError::Pair)?;
        if !holds_key(&certificate, &key) {
            return Err(AuthorityError::OtherKey);
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(AuthorityError::Pair)?;
        Ok(Self {
            cluster: cluster.clone(),
            certificate,
            certificate_pem: certificate_pem.into(),
            key_pem: key_pem.into(),
            issuer,
        })
    }

    pub fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// What others need to trust it.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// What nobody else may have.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// Makes a key and a certificate for a role of the own cluster. `names` are DNS names and addresses that stand beside the
    /// identity, for clients that verify host names.
    pub fn issue(&self, role: Role, names: &[String], lifetime: Lifetime) -> Result<Issued, AuthorityError> {
        let identity = Identity::new(self.cluster.clone(), role);
        let key = new_key()?;
        let params = leaf(&identity, names, lifetime)?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(|source| AuthorityError::Sign { identity, source })?;
        Ok(Issued { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// Whether it has signed this certificate, given as PEM; whether that still counts is another question.
    pub fn vouches_for(&self, certificate_pem: &str) -> bool {
        let Ok(leaf) = CertificateDer::from_pem_slice(certificate_pem.as_bytes()) else { return false };
        let (Ok(read), Ok(own)) = (Certificate::read(&leaf), Bundle::of_root(&self.certificate)) else {
            return false;
        };
        leads(&own, &read, (&leaf, &[]), read.not_before)
    }

    /// Lists certificates as revoked since the list begins, as PEM. `number` goes up with every list.
    pub fn revoke(
        &self,
        serials: &[Serial],
        number: u64,
        lifetime: Lifetime,
    ) -> Result<String, AuthorityError> {
        let revoked = serials.iter().map(|serial| (serial.clone(), lifetime.from)).collect();
        self.list(&Revocations { number, revoked }, lifetime)
    }

    /// What this authority has revoked, as the newest of its lists in a PEM says.
    pub fn revoked(&self, pem: &str) -> Revocations {
        Revocations::of(&self.certificate, pem)
    }

    /// The list that takes the place of those before it. It counts until somebody writes another one.
    pub fn relist(&self, revocations: &Revocations, now: UnixTime) -> Result<String, AuthorityError> {
        self.list(revocations, Lifetime::starting(now, AUTHORITY_LIFETIME))
    }

    fn list(&self, revocations: &Revocations, lifetime: Lifetime) -> Result<String, AuthorityError> {
        let revoked = |(serial, at): (&Serial, &UnixTime)| {
            Ok(RevokedCertParams {
                serial_number: SerialNumber::from_slice(serial.bytes()),
                revocation_time: date(*at)?,
                reason_code: None,
                invalidity_date: None,
            })
        };
        let params = CertificateRevocationListParams {
            this_update: date(lifetime.from)?,
            next_update: date(lifetime.to)?,
            crl_number: SerialNumber::from(revocations.number),
            issuing_distribution_point: None,
            revoked_certs: revocations.revoked.iter().map(revoked).collect::<Result<_, AuthorityError>>()?,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).map_err(AuthorityError::SignRevocations)?;
        list.pem().map_err(AuthorityError::SignRevocations)
    }
}

/// Whether the key is the one that the certificate names.
fn holds_key(certificate: &CertificateDer<'_>, key: &KeyPair) -> bool {
    use rcgen::PublicKeyData;
    use x509_parser::prelude::{FromDer, X509Certificate};
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, read)| read.public_key().subject_public_key.data.as_ref() == key.der_bytes())
}

fn new_key() -> Result<KeyPair, AuthorityError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Key)
}

fn random<const N: usize>() -> Result<[u8; N], AuthorityError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| AuthorityError::Random)?;
    Ok(bytes)
}

fn tag() -> Result<String, AuthorityError> {
    Ok(random::<4>()?.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What every certificate has: a lifetime and a random serial number.
fn params(lifetime: Lifetime) -> Result<CertificateParams, AuthorityError> {
    let mut serial: [u8; 16] = random()?;
    // Positive, and never shorter than others.
    serial[0] = serial[0] & 0x3f | 0x40;
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = date(lifetime.from)?;
    params.not_after = date(lifetime.to)?;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn leaf(
    identity: &Identity,
    names: &[String],
    lifetime: Lifetime,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = params(lifetime)?;
    params.distinguished_name = common_name(&format!("{} of {}", identity.role.as_str(), identity.cluster));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = usages(identity.role);
    params.subject_alt_names = vec![SanType::URI(ia5(&identity.to_string())?)];
    for name in names {
        params.subject_alt_names.push(match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(ia5(name)?),
        });
    }
    Ok(params)
}

/// The apiserver serves, and reads etcd, whose members serve and talk to each other; everybody else only reads.
fn usages(role: Role) -> Vec<ExtendedKeyUsagePurpose> {
    match role {
        Role::Apiserver | Role::Etcd => {
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
        }
        Role::Agent | Role::Admin => vec![ExtendedKeyUsagePurpose::ClientAuth],
    }
}

fn ia5(name: &str) -> Result<Ia5String, AuthorityError> {
    Ia5String::try_from(name).map_err(|source| AuthorityError::Name { name: name.into(), source })
}

fn common_name(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn date(at: UnixTime) -> Result<OffsetDateTime, AuthorityError> {
    let seconds = at.as_secs();
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or(AuthorityError::Date { seconds })
}
