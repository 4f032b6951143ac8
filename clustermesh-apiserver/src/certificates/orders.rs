//! What an operator asks for: certificates made anew before they are due, the authority rotated phase by phase, certificates
//! revoked. Each order starts from what is stored, may be given again, and is the leader's alone.

use std::sync::Arc;

use mesh_admin::cluster::{
    AuthorityRotation, Certificate as Shown, Certificates, Obstacle, Revoked, RevokedCertificate,
    RotationPhase,
};
use mesh_model::name::ClusterName;
use mesh_peers::PeerFile;
use mesh_trust::{Bundle, BundleError, Certificate, Fingerprint, HexError, Role, Serial};
use rustls::pki_types::UnixTime;
use tokio::sync::watch;

use super::Holder;
use super::authorities::{Authorities, ChangeError, certificate};
use super::look::{KeepError, Look, Stored};
use super::rotation::{self, HolderSeen, Seen};
use super::secrets::MADE_BY;
use super::store::{Held, StoreError, Written};
use super::trustees::{self, AskError, OwnEtcd};

/// Why an order is not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OrderError {
    #[error("another replica leads, or none does yet, and only the leader changes certificates")]
    StandsBy,
    #[error("no certificate of a holder {0:?} is kept here")]
    Unkept(String),
    /// Whose it is, and what to do.
    #[error("{0}")]
    Foreign(String),
    #[error("the next phase can't begin yet")]
    NotYet(Vec<Obstacle>),
    #[error(transparent)]
    Text(#[from] HexError),
    #[error("no certificate that is in use has the fingerprint {0}")]
    Unknown(Fingerprint),
    #[error("{0} is the authority itself, which can't revoke itself")]
    OfAuthority(String),
    #[error("somebody else has changed it at the same time")]
    Raced,
    #[error(transparent)]
    Change(#[from] ChangeError),
    #[error(transparent)]
    Keep(#[from] KeepError),
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("what peers are to trust can't be read")]
    Trust(#[from] BundleError),
}

impl From<StoreError> for OrderError {
    fn from(error: StoreError) -> Self {
        Self::Keep(error.into())
    }
}

/// The peers, as their files say.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    pub(crate) files: Vec<PeerFile>,
    /// Those whose files are refused, and why.
    pub(crate) refused: Vec<(ClusterName, String)>,
}

/// Carries them out.
pub(crate) struct Orders {
    look: Arc<Look>,
    leading: watch::Receiver<bool>,
    etcd: OwnEtcd,
}

impl Orders {
    pub(crate) fn new(look: Arc<Look>, leading: watch::Receiver<bool>, etcd: OwnEtcd) -> Self {
        Self { look, leading, etcd }
    }

    /// All certificates as they are stored.
    pub(crate) async fn show(&self) -> Result<Certificates, OrderError> {
        let _turn = self.look.turn().await;
        let Stored { held, authorities } = self.look.authorities(UnixTime::now()).await?;
        let foreign = self.foreign(&held, authorities.as_ref());
        let mut certificates = Vec::new();
        certificates.extend(shown("ca", &held.entry.pair.certificate_pem, false));
        if let Some((authorities, other)) = authorities.as_ref().and_then(|all| Some((all, all.other()?))) {
            let holder = if authorities.next().is_some() { "ca-next" } else { "ca-previous" };
            certificates.extend(shown(holder, other.certificate_pem(), false));
        }
        for holder in self.processes() {
            if let Some(held) = self.look.store.read(holder).await? {
                let renewed = held.is_own && authorities.is_some();
                certificates.extend(shown(holder.as_str(), &held.entry.pair.certificate_pem, renewed));
            }
        }
        Ok(Certificates {
            cluster: self.look.cluster.clone(),
            certificates,
            phase: authorities.as_ref().map(Authorities::phase).unwrap_or_default(),
            foreign,
            revoked: authorities
                .as_ref()
                .map(|all| all.revoked().map(revocation).collect())
                .unwrap_or_default(),
            trust: authorities.map(|all| all.trust().to_owned()),
        })
    }

    /// Makes the certificate of one holder anew.
    pub(crate) async fn rotate(&self, holder: &str) -> Result<Shown, OrderError> {
        self.check_leads()?;
        let _turn = self.look.turn().await;
        let now = UnixTime::now();
        let is_it = |wanted: &&mesh_trust::Wanted| wanted.role.as_str() == holder;
        let wanted = self.look.wanted.iter().find(is_it).ok_or_else(|| OrderError::Unkept(holder.into()))?;
        let Stored { held, authorities } = self.look.authorities(now).await?;
        let authorities = authorities.ok_or_else(|| OrderError::Foreign(self.without_key(&held)))?;
        let before = self.look.store.read(Holder::Process(wanted.role)).await?;
        match self.look.make(&authorities, wanted, before.as_ref(), now).await? {
            Written::Yes => {}
            Written::Raced => return Err(OrderError::Raced),
            Written::Foreign => {
                return Err(OrderError::Foreign(self.foreign_at(Holder::Process(wanted.role))));
            }
        }
        tracing::info!(role = holder, "a certificate was made anew, as asked");
        let made = self.look.store.read(Holder::Process(wanted.role)).await?;
        made.and_then(|made| shown(holder, &made.entry.pair.certificate_pem, true)).ok_or(OrderError::Raced)
    }

    /// How far the rotation of the authority is, and what stands against its next phase.
    pub(crate) async fn rotation(&self, peers: &Peers) -> Result<AuthorityRotation, OrderError> {
        let _turn = self.look.turn().await;
        let now = UnixTime::now();
        let (_, authorities) = self.own_authorities(now).await?;
        let obstacles = self.obstacles(&authorities, peers, now).await?;
        described(&authorities, obstacles)
    }

    /// Begins the next phase of the rotation, where nothing but the peers of `without` stands against it.
    pub(crate) async fn advance(
        &self,
        to: RotationPhase,
        without: &[ClusterName],
        peers: &Peers,
    ) -> Result<AuthorityRotation, OrderError> {
        self.check_leads()?;
        self.begin(to, without, peers).await?;
        self.follow().await;
        self.rotation(peers).await
    }

    async fn begin(
        &self,
        to: RotationPhase,
        without: &[ClusterName],
        peers: &Peers,
    ) -> Result<(), OrderError> {
        let _turn = self.look.turn().await;
        let now = UnixTime::now();
        let (held, authorities) = self.own_authorities(now).await?;
        if authorities.phase() == to {
            return Ok(());
        }
        let mut obstacles = self.obstacles(&authorities, peers, now).await?;
        obstacles.retain(|it| it.peer.as_ref().is_none_or(|peer| !without.contains(peer)));
        let advanced = authorities.advanced(to, now)?;
        if !obstacles.is_empty() {
            return Err(OrderError::NotYet(obstacles));
        }
        self.put(&held, &advanced).await?;
        tracing::info!(phase = %to, "the rotation of the authority goes on, as asked");
        Ok(())
    }

    /// Revokes certificates, given by serial numbers or fingerprints. Holders of them have others afterwards.
    pub(crate) async fn revoke(&self, certificates: &[String]) -> Result<Revoked, OrderError> {
        self.check_leads()?;
        let before = self.held_by_processes().await?;
        let (revoked, trust) = self.list(certificates, &before).await?;
        self.follow().await;
        let after = self.held_by_processes().await?;
        let renewed = before.iter().zip(&after).filter(|((_, before), (_, after))| before != after);
        let renewed = renewed.map(|((holder, _), _)| holder.as_str().to_owned()).collect();
        Ok(Revoked { revoked: revoked.into_iter().map(revocation).collect(), renewed, trust })
    }

    async fn list(
        &self,
        certificates: &[String],
        processes: &[(Holder, Option<Certificate>)],
    ) -> Result<(Vec<(Serial, UnixTime)>, String), OrderError> {
        let _turn = self.look.turn().await;
        let now = UnixTime::now();
        let (held, authorities) = self.own_authorities(now).await?;
        let known: Vec<&Certificate> = processes.iter().filter_map(|(_, read)| read.as_ref()).collect();
        let roots: Vec<Certificate> = [Some(&authorities.issuing), authorities.other()]
            .into_iter()
            .flatten()
            .filter_map(|authority| certificate(authority.certificate_pem()))
            .collect();
        let serials: Vec<Serial> =
            certificates.iter().map(|text| serial(text, &known, &roots)).collect::<Result<_, _>>()?;
        let (changed, new) = authorities.revoking(&serials, now)?;
        if !new.is_empty() {
            self.put(&held, &changed).await?;
            let serials: Vec<String> = new.iter().map(ToString::to_string).collect();
            tracing::info!(serials = serials.join(", "), "certificates were revoked, as asked");
        }
        Ok((new.into_iter().map(|serial| (serial, now)).collect(), changed.trust().to_owned()))
    }

    /// Has what follows from changed authorities follow at once. What fails is tried again by whoever keeps them, and told there.
    async fn follow(&self) {
        if let Err(error) = self.look.pass(UnixTime::now(), true).await {
            let error = mesh_failure::chain(&error);
            tracing::warn!(error, "certificates do not follow the authority yet");
        }
    }

    async fn held_by_processes(&self) -> Result<Vec<(Holder, Option<Certificate>)>, OrderError> {
        let mut held = Vec::new();
        for holder in self.processes() {
            let stored = self.look.store.read(holder).await?;
            held.push((holder, stored.and_then(|held| certificate(&held.entry.pair.certificate_pem))));
        }
        Ok(held)
    }

    fn processes(&self) -> impl Iterator<Item = Holder> {
        self.look.store.holders().into_iter().filter(|holder| *holder != Holder::Authority)
    }

    fn check_leads(&self) -> Result<(), OrderError> {
        if *self.leading.borrow() { Ok(()) } else { Err(OrderError::StandsBy) }
    }

    /// The authorities, where they may be changed here.
    async fn own_authorities(&self, now: UnixTime) -> Result<(Held, Authorities), OrderError> {
        let Stored { held, authorities } = self.look.authorities(now).await?;
        match (self.foreign(&held, authorities.as_ref()), authorities) {
            (None, Some(authorities)) => Ok((held, authorities)),
            (why, _) => Err(OrderError::Foreign(why.unwrap_or_default())),
        }
    }

    async fn put(&self, held: &Held, authorities: &Authorities) -> Result<(), OrderError> {
        match self.look.store.put((Holder::Authority, Some(held)), &authorities.entry()).await? {
            Written::Yes => Ok(()),
            Written::Raced => Err(OrderError::Raced),
            Written::Foreign => Err(OrderError::Foreign(self.foreign_at(Holder::Authority))),
        }
    }

    async fn obstacles(
        &self,
        authorities: &Authorities,
        peers: &Peers,
        now: UnixTime,
    ) -> Result<Vec<Obstacle>, OrderError> {
        let mut holders = Vec::new();
        for holder in self.processes() {
            if let Some(held) = self.look.store.read(holder).await? {
                let place = self.look.store.place(holder);
                holders.push(HolderSeen::new((holder, place), &held, authorities));
            }
        }
        let mut seen = Seen { now, spread: self.look.store.spread(), holders, asked: Vec::new() };
        let mut refused = Vec::new();
        if let Some(next) = authorities.next() {
            let wanted = self.look.wanted.iter().find(|wanted| wanted.role == Role::Apiserver);
            let trust = authorities.trust();
            let (etcd, others) = tokio::try_join!(
                trustees::of_etcd(&self.etcd, (next, trust), wanted, now),
                trustees::of_peers(&peers.files, next, now),
            )?;
            seen.asked = etcd.into_iter().chain(others).collect();
            refused.extend(peers.refused.iter().map(|(name, reason)| rotation::of_refused(name, reason)));
        }
        let mut obstacles = rotation::obstacles(authorities, &seen);
        obstacles.extend(refused);
        Ok(obstacles)
    }

    /// Whose the authority is, and what to do, where it is not changed here.
    fn foreign(&self, held: &Held, authorities: Option<&Authorities>) -> Option<String> {
        match authorities {
            None => Some(self.without_key(held)),
            Some(_) if !held.is_own => Some(self.foreign_at(Holder::Authority)),
            Some(_) => None,
        }
    }

    fn without_key(&self, held: &Held) -> String {
        let issuer = certificate(&held.entry.pair.certificate_pem).map(|read| read.issuer);
        format!(
            "the key of the authority in {} is kept elsewhere (its certificate was issued by {}): whoever has it renews and \
             revokes certificates, and replaces it",
            self.look.store.place(Holder::Authority),
            issuer.as_deref().unwrap_or("somebody")
        )
    }

    fn foreign_at(&self, holder: Holder) -> String {
        let place = self.look.store.place(holder);
        let sign = match self.look.is_shared() {
            true => format!("it has no annotation {}={}", MADE_BY.0, MADE_BY.1),
            false => "it is no link that clustermesh-apiserver made".into(),
        };
        format!(
            "{place} is somebody else's ({sign}): change it where it comes from, cert-manager or your company's authority; while \
             an authority is replaced, its ca.crt has the old and the new one, and lists of revoked certificates belong there, too"
        )
    }
}

/// What a text names: a certificate that is in use, or any that one of the authorities has issued.
fn serial(text: &str, known: &[&Certificate], roots: &[Certificate]) -> Result<Serial, OrderError> {
    let fingerprint = text.parse::<Fingerprint>().ok();
    let serial = match fingerprint {
        Some(fingerprint) => {
            let of = known.iter().copied().chain(roots).find(|read| read.fingerprint == fingerprint);
            of.ok_or(OrderError::Unknown(fingerprint))?.serial.clone()
        }
        None => text.parse()?,
    };
    match roots.iter().any(|root| root.serial == serial) {
        true => Err(OrderError::OfAuthority(text.into())),
        false => Ok(serial),
    }
}

fn described(authorities: &Authorities, obstacles: Vec<Obstacle>) -> Result<AuthorityRotation, OrderError> {
    let trust = authorities.trust().to_owned();
    let fingerprints = Bundle::from_pem(&trust)?.fingerprints().iter().map(ToString::to_string).collect();
    Ok(AuthorityRotation { phase: authorities.phase(), obstacles, trust, fingerprints })
}

fn revocation((serial, since): (Serial, UnixTime)) -> RevokedCertificate {
    RevokedCertificate { serial: serial.to_string(), since_unix_s: since.as_secs() }
}

/// A certificate as it is shown; none for what is none. Never holds a key.
pub(crate) fn shown(holder: &str, pem: &str, is_renewed: bool) -> Option<Shown> {
    let read = certificate(pem)?;
    Some(Shown {
        holder: holder.into(),
        identity: read.identity.as_ref().map(ToString::to_string),
        serial: read.serial.to_string(),
        fingerprint: read.fingerprint.to_string(),
        names: read.names.iter().cloned().collect(),
        not_after_unix_s: read.not_after.as_secs(),
        renewal_unix_s: is_renewed.then(|| read.renewal().as_secs()),
    })
}

impl OrderError {
    /// What to do about it.
    pub(crate) fn remedy(&self) -> String {
        match self {
            Self::StandsBy => "ask the replica whose GET /v1/cluster says `leading`, as `clustermesh --context` does by itself; \
                               on hosts name the --socket there"
                .into(),
            Self::Unkept(_) => "`clustermesh cert show` has the holders; clustermesh-apiserver makes what \
                                --certificates-dir and --certificates-secrets name"
                .into(),
            Self::Foreign(_) => "docs/certificates.md says what belongs to whom".into(),
            Self::NotYet(_) => "`clustermesh cert rotate --ca` waits, and goes on by itself".into(),
            Self::Text(_) | Self::Unknown(_) => {
                "`clustermesh cert show -o wide` has both; of a certificate that is not in use any more name the serial number"
                    .into()
            }
            Self::OfAuthority(_) => "rotate it: clustermesh cert rotate --ca".into(),
            Self::Raced => "ask again".into(),
            Self::Change(_) => "GET /v1/certificates/ca/rotate says how far the rotation is".into(),
            Self::Keep(_) | Self::Ask(_) | Self::Trust(_) => {
                "the log of clustermesh-apiserver says what it could not do; then ask again".into()
            }
        }
    }
}

#[cfg(test)]
#[path = "orders_tests.rs"]
mod tests;
