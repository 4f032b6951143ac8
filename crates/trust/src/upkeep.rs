//! Whether a certificate that a process of the cluster holds still serves, or has to be made anew, and why. Pure: whoever
//! keeps it stores it and tells the time.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use mesh_model::name::ClusterName;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};

use crate::authority::{Authority, AuthorityError, Issued, Lifetime};
use crate::bundle::{Bundle, BundleError};
use crate::certificate::Certificate;
use crate::identity::{Identity, Role};
use crate::refusal::Refusal;
use crate::trust::{Side, Trust};

/// The certificate that a process of the cluster needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub role: Role,
    /// DNS names and addresses that stand beside the identity, in any order.
    pub names: BTreeSet<String>,
    /// How long a new one counts.
    pub length: Duration,
}

/// What becomes of the certificate that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upkeep {
    /// It serves, and is made anew at this second at the latest.
    Keep { renewal: UnixTime },
    /// It is made anew now.
    Renew(Cause),
}

/// Why a certificate is made anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// There is none.
    Missing,
    /// Certificate or key can't be read, or they don't belong together.
    Unreadable { why: String },
    /// It speaks for somebody else.
    Identity { found: Identity },
    /// The authority does not vouch for it, or not at this time.
    Refused(Refusal),
    /// It has other names than it should.
    Names { found: BTreeSet<String> },
    /// A third of its life is over.
    Due,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("there is none"),
            Self::Unreadable { why } => write!(f, "it can't be used: {why}"),
            Self::Identity { found } => write!(f, "it speaks for {found}"),
            Self::Refused(refusal) => write!(f, "the authority does not vouch for it: {refusal}"),
            Self::Names { found } if found.is_empty() => f.write_str("it has no names"),
            Self::Names { found } => {
                let found: Vec<&str> = found.iter().map(String::as_str).collect();
                write!(f, "it has other names: {}", found.join(", "))
            }
            Self::Due => f.write_str("a third of its life is over"),
        }
    }
}

impl Wanted {
    /// What becomes of the certificate that is held; none: there is none. `revoked` is what the authority has revoked: its
    /// list as PEM, or nothing.
    ///
    /// # Errors
    /// Only where the authority's own certificate, or its list, can't be trusted.
    pub fn upkeep(
        &self,
        (authority, revoked): (&Authority, &str),
        held: Option<&Issued>,
        now: UnixTime,
    ) -> Result<Upkeep, BundleError> {
        let trust = own_trust(authority, revoked)?;
        let Some(held) = held else { return Ok(Upkeep::Renew(Cause::Missing)) };
        Ok(match self.fault(authority, &trust, held, now) {
            Ok(renewal) if renewal.as_secs() > now.as_secs() => Upkeep::Keep { renewal },
            Ok(_) => Upkeep::Renew(Cause::Due),
            Err(cause) => Upkeep::Renew(cause),
        })
    }

    /// Makes it.
    pub fn issue(&self, authority: &Authority, now: UnixTime) -> Result<Issued, AuthorityError> {
        let names: Vec<String> = self.names.iter().cloned().collect();
        authority.issue(self.role, &names, Lifetime::starting(now, self.length))
    }

    /// When the certificate is due, if nothing is wrong with it.
    fn fault(
        &self,
        authority: &Authority,
        trust: &Trust,
        held: &Issued,
        now: UnixTime,
    ) -> Result<UnixTime, Cause> {
        let unreadable = |why: String| Cause::Unreadable { why };
        let der = CertificateDer::from_pem_slice(held.certificate_pem.as_bytes())
            .map_err(|error| unreadable(error.to_string()))?;
        held.check_key(&der).map_err(|why| unreadable(why.to_string()))?;
        let read = Certificate::read(&der).map_err(|error| unreadable(error.to_string()))?;
        let wanted = Identity::new(authority.cluster().clone(), self.role);
        match trust.admit(&der, &[], self.role.side(), now) {
            Ok(identity) if identity == wanted => {}
            Ok(found) => return Err(Cause::Identity { found }),
            Err(refusal) => return Err(Cause::Refused(refusal)),
        }
        if read.names != self.names {
            return Err(Cause::Names { found: read.names });
        }
        Ok(read.renewal())
    }
}

fn own_trust(authority: &Authority, revoked: &str) -> Result<Trust, BundleError> {
    let cluster: ClusterName = authority.cluster().clone();
    let bundle = Bundle::from_pem(&format!("{}\n{revoked}", authority.certificate_pem()))?;
    Ok(Trust::in_one(cluster, bundle.into()))
}

impl Role {
    /// The side on which a process of this role shows its certificate; apiserver and etcd show it on both.
    fn side(self) -> Side {
        match self {
            Self::Apiserver | Self::Etcd => Side::Server,
            Self::Agent | Self::Admin => Side::Client,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn at(after: Duration) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000) + after)
    }

    fn authority(name: &str) -> Authority {
        Authority::new(&ClusterName::new(name).expect("valid"), at(Duration::ZERO)).expect("made")
    }

    fn wanted(role: Role, names: &[&str]) -> Wanted {
        Wanted { role, names: names.iter().map(ToString::to_string).collect(), length: 6 * DAY }
    }

    fn cause(
        wanted: &Wanted,
        authority: &Authority,
        held: Option<&Issued>,
        after: Duration,
    ) -> Option<Cause> {
        match wanted.upkeep((authority, ""), held, at(after)).expect("the authority is sound") {
            Upkeep::Keep { renewal } => {
                assert!(renewal.as_secs() > at(after).as_secs());
                None
            }
            Upkeep::Renew(cause) => Some(cause),
        }
    }

    #[test]
    fn a_certificate_is_made_anew_after_a_third_of_its_life() {
        let authority = authority("hoth");
        for role in [Role::Apiserver, Role::Agent, Role::Admin, Role::Etcd] {
            let wanted = wanted(role, &["mesh.example", "192.0.2.1", "2001:db8::1"]);
            assert_eq!(cause(&wanted, &authority, None, DAY), Some(Cause::Missing));
            let held = wanted.issue(&authority, at(Duration::ZERO)).expect("issued");
            assert_eq!(cause(&wanted, &authority, Some(&held), DAY), None);
            assert_eq!(cause(&wanted, &authority, Some(&held), 2 * DAY), Some(Cause::Due));
        }
    }

    #[test]
    fn what_is_wrong_with_a_certificate_is_told() {
        let (own, other) = (authority("hoth"), authority("hoth"));
        let wanted_agent = wanted(Role::Agent, &[]);
        let held = wanted_agent.issue(&own, at(Duration::ZERO)).expect("issued");
        let said = |wanted: &Wanted, authority: &Authority, held: &Issued, after| {
            cause(wanted, authority, Some(held), after).expect("made anew").to_string()
        };
        let soon = Duration::from_secs(60);
        assert!(said(&wanted_agent, &other, &held, soon).contains("does not vouch for it"));
        assert!(said(&wanted_agent, &own, &held, 7 * DAY).contains("does not vouch for it"), "expired");
        assert!(said(&wanted(Role::Admin, &[]), &own, &held, soon).contains("clustermesh://hoth/agent"));
        assert!(said(&wanted(Role::Agent, &["a.example"]), &own, &held, soon).contains("no names"));
        let named = wanted(Role::Agent, &["b.example"]).issue(&own, at(Duration::ZERO)).expect("issued");
        assert!(said(&wanted_agent, &own, &named, soon).contains("b.example"));
        let crossed = Issued { key_pem: named.key_pem, certificate_pem: held.certificate_pem.clone() };
        assert!(said(&wanted_agent, &own, &crossed, soon).contains("can't be used"));
        for bad in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            let (certificate_pem, key_pem) = (held.certificate_pem.clone(), held.key_pem.clone());
            for torn in [
                Issued { certificate_pem: bad.into(), key_pem },
                Issued { certificate_pem, key_pem: bad.into() },
            ] {
                assert!(said(&wanted_agent, &own, &torn, soon).contains("can't be used"), "{bad}");
            }
        }
    }
}
