//! A cluster's authorities: the one that issues, and while one takes another's place the other one beside it. Pure: whoever
//! keeps them stores them and tells the time.
//!
//! The phases follow from what is stored, so that a rotation goes on wherever it was interrupted: a next authority is announced,
//! a previous one has been switched from.

use mesh_admin::cluster::RotationPhase;
use mesh_model::name::ClusterName;
use mesh_trust::{Authority, AuthorityError, Certificate, Issued, Role, Serial};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};

use super::Holder;
use super::store::{Beside, Entry, Place};
use super::trust;

/// Certificates that stand on a list of revoked ones at most: peers read it with every peer file.
const MAX_REVOKED: usize = 1000;

/// A cluster's authorities, and what they have revoked.
pub(super) struct Authorities {
    pub(super) issuing: Authority,
    beside: Option<(Place, Authority)>,
    /// All roots and lists, the issuing one's first.
    trust: String,
}

/// Why they do not become what they should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    #[error("making the cluster's next certificate authority")]
    Authority(#[source] AuthorityError),
    #[error("writing the list of revoked certificates")]
    List(#[source] AuthorityError),
    #[error(
        "{MAX_REVOKED} certificates are revoked already: rotate the authority (clustermesh cert rotate --ca), which ends all \
         that the old one has issued"
    )]
    Full,
    #[error("the rotation of the authority is {from}, so that {to} can't be next")]
    Order { from: RotationPhase, to: RotationPhase },
}

impl Authorities {
    /// A cluster's first.
    pub(super) fn first(cluster: &ClusterName, now: UnixTime) -> Result<Self, AuthorityError> {
        let issuing = Authority::new(cluster, now)?;
        let trust = issuing.certificate_pem().into();
        Ok(Self { issuing, beside: None, trust })
    }

    /// As they are stored.
    pub(super) fn of(cluster: &ClusterName, entry: &Entry) -> Result<Self, AuthorityError> {
        let read = |pair: &Issued| Authority::from_pem(cluster, &pair.certificate_pem, &pair.key_pem);
        let issuing = read(&entry.pair)?;
        let beside = match &entry.beside {
            Some(Beside { place, pair }) => Some((*place, read(pair)?)),
            None => None,
        };
        let trust = trust::joined(issuing.certificate_pem(), &entry.trust);
        Ok(Self { issuing, beside, trust })
    }

    /// As they are to be stored.
    pub(super) fn entry(&self) -> Entry {
        let beside = self.beside.as_ref().map(|(place, other)| Beside { place: *place, pair: pair(other) });
        Entry { pair: pair(&self.issuing), trust: self.trust.clone(), beside }
    }

    pub(super) fn phase(&self) -> RotationPhase {
        match self.beside {
            None => RotationPhase::Settled,
            Some((Place::Next, _)) => RotationPhase::Announced,
            Some((Place::Previous, _)) => RotationPhase::Switched,
        }
    }

    /// The one that will issue.
    pub(super) fn next(&self) -> Option<&Authority> {
        self.beside.as_ref().filter(|(place, _)| *place == Place::Next).map(|(_, other)| other)
    }

    /// The other one, whichever it is.
    pub(super) fn other(&self) -> Option<&Authority> {
        self.beside.as_ref().map(|(_, other)| other)
    }

    /// What peers need to know the cluster by.
    pub(super) fn trust(&self) -> &str {
        &self.trust
    }

    /// What a process trusts within the cluster.
    pub(super) fn trust_of(&self, holder: Holder) -> String {
        match holder {
            Holder::Process(Role::Etcd) => trust::roots(&self.trust),
            _ => self.trust.clone(),
        }
    }

    /// The list of the issuing authority.
    pub(super) fn list(&self) -> String {
        trust::lists(&self.trust, |block| is_list_of(&self.issuing, block))
    }

    /// All that is revoked.
    pub(super) fn revoked(&self) -> impl Iterator<Item = (Serial, UnixTime)> {
        let mut all = self.issuing.revoked(&self.trust).revoked;
        all.extend(self.other().map(|other| other.revoked(&self.trust).revoked).unwrap_or_default());
        all.into_iter()
    }

    /// The same in another phase. Those that are in it already stay as they are.
    pub(super) fn advanced(self, to: RotationPhase, now: UnixTime) -> Result<Self, ChangeError> {
        match (self.phase(), self.beside, to) {
            (from, beside, to) if from == to => Ok(Self { beside, ..self }),
            (_, None, RotationPhase::Announced) => {
                let next = Authority::new(self.issuing.cluster(), now).map_err(ChangeError::Authority)?;
                let trust = trust::joined(&self.trust, &format!("{}{}", next.certificate_pem(), self.trust));
                Ok(Self { issuing: self.issuing, beside: Some((Place::Next, next)), trust })
            }
            (_, Some((Place::Next, next)), RotationPhase::Switched) => {
                let trust = trust::joined(next.certificate_pem(), &self.trust);
                Ok(Self { issuing: next, beside: Some((Place::Previous, self.issuing)), trust })
            }
            (_, Some((Place::Previous, previous)), RotationPhase::Settled) => {
                let is_previous = |block: &str| is_root(&previous, block) || is_list_of(&previous, block);
                let trust = trust::without(&self.trust, is_previous);
                Ok(Self { issuing: self.issuing, beside: None, trust })
            }
            (from, _, to) => Err(ChangeError::Order { from, to }),
        }
    }

    /// The same with certificates revoked, whichever of the authorities has issued them; and those that were not before.
    pub(super) fn revoking(
        mut self,
        serials: &[Serial],
        now: UnixTime,
    ) -> Result<(Self, Vec<Serial>), ChangeError> {
        let known: Vec<Serial> = self.revoked().map(|(serial, _)| serial).collect();
        let new: Vec<Serial> = serials.iter().filter(|serial| !known.contains(serial)).cloned().collect();
        if new.is_empty() {
            return Ok((self, new));
        }
        if known.len() + new.len() > MAX_REVOKED {
            return Err(ChangeError::Full);
        }
        let mut all = self.trust.clone();
        for authority in [Some(&self.issuing), self.other()].into_iter().flatten() {
            let mut revocations = authority.revoked(&all);
            revocations.number += 1;
            revocations.revoked.extend(new.iter().map(|serial| (serial.clone(), now)));
            let list = authority.relist(&revocations, now).map_err(ChangeError::List)?;
            let others = trust::without(&all, |block| is_list_of(authority, block));
            all = trust::joined(&others, &format!("{others}{list}"));
        }
        self.trust = all;
        Ok((self, new))
    }
}

fn pair(authority: &Authority) -> Issued {
    Issued { certificate_pem: authority.certificate_pem().into(), key_pem: authority.key_pem().into() }
}

fn is_root(authority: &Authority, block: &str) -> bool {
    CertificateDer::from_pem_slice(block.as_bytes()).is_ok_and(|root| root == *authority.certificate())
}

fn is_list_of(authority: &Authority, block: &str) -> bool {
    // Every list of ours has a number.
    authority.revoked(block).number > 0
}

/// What a PEM certificate says, if it can be read.
pub(super) fn certificate(pem: &str) -> Option<Certificate> {
    Certificate::read(&CertificateDer::from_pem_slice(pem.as_bytes()).ok()?).ok()
}

#[cfg(test)]
#[path = "authorities_tests.rs"]
mod tests;
