//! What stands against the next phase of a rotation, by what was seen of the cluster and its peers. Pure.

use std::time::Duration;

use mesh_admin::cluster::{Obstacle, Problem, RotationPhase};
use mesh_model::name::ClusterName;
use mesh_model::reason::Actor;
use mesh_trust::Authority;
use rustls::pki_types::UnixTime;

use super::Holder;
use super::authorities::{Authorities, certificate};
use super::store::Held;

/// What there was at one moment.
pub(super) struct Seen {
    pub(super) now: UnixTime,
    /// How long a change takes to reach whoever reads it.
    pub(super) spread: Duration,
    pub(super) holders: Vec<HolderSeen>,
    pub(super) asked: Vec<Asked>,
}

/// A certificate of one of the cluster's processes.
pub(super) struct HolderSeen {
    pub(super) holder: Holder,
    pub(super) place: String,
    pub(super) is_own: bool,
    /// Whether it is to trust the authority that is next.
    trusts_next: bool,
    /// Whether the issuing authority vouches for it.
    is_issued: bool,
    made: Option<UnixTime>,
}

impl HolderSeen {
    pub(super) fn new((holder, place): (Holder, String), held: &Held, authorities: &Authorities) -> Self {
        let trusts = |next: &Authority| held.entry.trust.contains(next.certificate_pem().trim());
        let read = certificate(&held.entry.pair.certificate_pem);
        Self {
            holder,
            place,
            is_own: held.is_own,
            trusts_next: authorities.next().is_none_or(trusts),
            is_issued: authorities.issuing.vouches_for(&held.entry.pair.certificate_pem),
            made: read.map(|read| read.made()),
        }
    }
}

/// Somebody who has to trust the next authority, by what came of showing its certificate.
pub(super) struct Asked {
    pub(super) who: Party,
    pub(super) answer: Answer,
}

pub(super) enum Party {
    /// A member of the cluster's own etcd, by its endpoint.
    Etcd(String),
    Peer(ClusterName),
}

pub(super) enum Answer {
    Trusts,
    Refuses(String),
    /// Nobody knows.
    Silent(String),
}

/// Everything that stands against the phase behind the one that the authorities are in.
pub(super) fn obstacles(authorities: &Authorities, seen: &Seen) -> Vec<Obstacle> {
    match authorities.phase() {
        RotationPhase::Settled => Vec::new(),
        RotationPhase::Announced => before_switch(authorities, seen),
        RotationPhase::Switched => before_settling(seen),
    }
}

/// The new authority may issue once everybody who will meet a certificate of it trusts it.
fn before_switch(authorities: &Authorities, seen: &Seen) -> Vec<Obstacle> {
    let made =
        authorities.next().and_then(|next| certificate(next.certificate_pem())).map(|read| read.made());
    let untold = seen.holders.iter().filter(|holder| !holder.trusts_next).map(untold);
    let spreading = spreading(made, seen).map(|seconds| {
        let error = format!("not every process has read of the new authority yet: {seconds} s more");
        passing(error)
    });
    untold.chain(spreading).chain(seen.asked.iter().filter_map(distrust)).collect()
}

fn untold(seen: &HolderSeen) -> Obstacle {
    let holder = seen.holder.as_str();
    match seen.is_own {
        true => passing(format!("ca.crt of the {holder} does not have the new authority yet")),
        false => own(
            format!("ca.crt of the {holder} is somebody else's, and does not have the new authority"),
            format!("add it there ({}): `clustermesh peer export` has both in `trust`", seen.place),
        ),
    }
}

fn distrust(asked: &Asked) -> Option<Obstacle> {
    let (why, is_silent) = match &asked.answer {
        Answer::Trusts => return None,
        Answer::Refuses(why) => (why, false),
        Answer::Silent(why) => (why, true),
    };
    Some(match (&asked.who, is_silent) {
        (Party::Etcd(endpoint), false) => own(
            format!("the own etcd at {endpoint} does not trust the new authority yet: {why}"),
            "restart etcd, member by member: it reads its ca.crt at its start only (kubectl rollout restart \
             statefulset/clustermesh-etcd)",
        ),
        (Party::Etcd(endpoint), true) => own(
            format!("the own etcd at {endpoint} can't be asked whether it trusts the new authority: {why}"),
            "see that it runs; every member has to trust both authorities before certificates change",
        ),
        (Party::Peer(peer), false) => of_peer(
            peer,
            format!("{peer} does not trust the new authority yet: {why}"),
            "write this cluster's peer file there anew (clustermesh peer export here, clustermesh peer import there)".into(),
        ),
        (Party::Peer(peer), true) => of_peer(
            peer,
            format!("{peer} can't be asked whether it trusts the new authority: {why}"),
            format!("see that it runs and has this cluster's new peer file; --without {peer} goes on without it"),
        ),
    })
}

/// The old authority may go once nothing that is shown was issued by it.
fn before_settling(seen: &Seen) -> Vec<Obstacle> {
    let old = seen.holders.iter().filter(|holder| !holder.is_issued).map(outdated);
    let latest = seen.holders.iter().filter(|holder| holder.is_own).filter_map(|holder| holder.made);
    let spreading = spreading(latest.max_by_key(UnixTime::as_secs), seen)
        .map(|seconds| passing(format!("not every process shows its new certificate yet: {seconds} s more")));
    old.chain(spreading).collect()
}

fn outdated(seen: &HolderSeen) -> Obstacle {
    let holder = seen.holder.as_str();
    match seen.is_own {
        true => passing(format!("the certificate of the {holder} is not made anew yet")),
        false => own(
            format!("the certificate of the {holder} is somebody else's, and not of the new authority"),
            format!("renew it where it comes from, or remove {}, so that one is made", seen.place),
        ),
    }
}

/// The seconds until what was made at a time has reached everybody.
fn spreading(made: Option<UnixTime>, seen: &Seen) -> Option<u64> {
    let until = made?.as_secs() + seen.spread.as_secs();
    until.checked_sub(seen.now.as_secs()).filter(|seconds| *seconds > 0)
}

fn passing(error: String) -> Obstacle {
    Obstacle { peer: None, problem: Problem { who: Actor::Nobody, error, remedy: "wait".into() } }
}

fn own(error: String, remedy: impl Into<String>) -> Obstacle {
    Obstacle { peer: None, problem: Problem { who: Actor::Operator, error, remedy: remedy.into() } }
}

/// A peer whose file is refused can't be asked.
pub(super) fn of_refused(peer: &ClusterName, reason: &str) -> Obstacle {
    let error = format!(
        "the peer file of {peer} is refused, so that nobody knows whether it trusts the new authority: {reason}"
    );
    of_peer(peer, error, format!("correct it; --without {peer} goes on without it"))
}

fn of_peer(peer: &ClusterName, error: String, remedy: String) -> Obstacle {
    Obstacle { peer: Some(peer.clone()), problem: Problem { who: Actor::Peer, error, remedy } }
}

#[cfg(test)]
#[path = "rotation_tests.rs"]
mod tests;
