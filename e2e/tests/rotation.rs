//! Every certificate and both authorities are replaced again and again while a client dials: by somebody else's tools, and by
//! the command line.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_e2e::lab::manifest::ServiceSpec;
use mesh_e2e::lab::{Lab, LabSpec};
use mesh_e2e::wait;
use mesh_model::name::ClusterName;
use mesh_trust::{Authority, Issued, Lifetime, Role};
use rustls::pki_types::UnixTime;

const PATIENCE: Duration = Duration::from_secs(30);
const SERVICE: &str = "rebel-base";
/// Changes in every round, and nobody dials it: a pod that is removed may fail a connection by itself.
const CHANGING: &str = "hangar";
const ROUNDS: u32 = 10;
const CLUSTERS: [&str; 2] = ["hoth", "yavin"];
const RELOADS: &str = "clustermesh_mesh_api_certificate_reloads_total";

/// A cluster's authorities and certificates, as somebody else's tools keep them.
struct Pki {
    cluster: ClusterName,
    folder: PathBuf,
    authority: Authority,
    written: u64,
}

impl Pki {
    /// Takes over from the apiserver, which made the first ones.
    fn of(cluster: &str, folder: PathBuf) -> Result<Self> {
        let cluster = ClusterName::new(cluster)?;
        let [certificate, key] =
            ["tls.crt", "tls.key"].map(|name| fs::read_to_string(folder.join("ca").join(name)));
        let authority = Authority::from_pem(&cluster, &certificate?, &key?)?;
        Ok(Self { cluster, folder, authority, written: 0 })
    }

    /// Has every process show a new certificate, and trust `trust` within its own cluster. The authority comes without its
    /// key, so that nobody else makes certificates.
    fn issue(&mut self, trust: &str) -> Result<()> {
        let authority = self.authority.certificate_pem().to_owned();
        self.put("ca", &[("tls.crt", &authority)])?;
        let lifetime = Lifetime::starting(UnixTime::now(), Duration::from_secs(3600));
        for role in [Role::Agent, Role::Apiserver] {
            let Issued { certificate_pem, key_pem } = self.authority.issue(role, &[], lifetime)?;
            let files = [("ca.crt", trust), ("tls.crt", &certificate_pem), ("tls.key", &key_pem)];
            self.put(role.as_str(), &files)?;
        }
        Ok(())
    }

    /// In one step, as a mounted Secret changes.
    fn put(&mut self, holder: &str, files: &[(&str, &str)]) -> Result<()> {
        self.written += 1;
        let target = format!("{holder}-of-the-test-{}", self.written);
        let folder = self.folder.join(&target);
        fs::create_dir_all(&folder)?;
        for (name, text) in files {
            fs::write(folder.join(name), text)?;
        }
        let (staged, link) = (self.folder.join("staged"), self.folder.join(holder));
        symlink(&target, &staged)?;
        fs::rename(&staged, &link).with_context(|| format!("replacing {}", link.display()))
    }
}

/// Tells the peers of each cluster whom to trust for it.
fn tell_peers(lab: &mut Lab, trust: &[String; 2]) -> Result<()> {
    for (at, name) in CLUSTERS.into_iter().enumerate() {
        let mut file = lab.cluster(name)?.peer_file()?;
        file["trust"] = trust[at].as_str().into();
        lab.cluster(CLUSTERS[1 - at])?.join(name, &file)?;
    }
    Ok(())
}

/// How often each apiserver has read its files anew.
fn reloads(lab: &mut Lab) -> Result<[f64; 2]> {
    let [hoth, yavin] = CLUSTERS.map(|name| lab.cluster(name)?.apiserver_metric(0, RELOADS));
    Ok([hoth?, yavin?])
}

fn until_reloaded(lab: &mut Lab, before: [f64; 2], times: f64) -> Result<()> {
    wait::until(&format!("{times} reloads"), PATIENCE, || {
        let now = reloads(lab)?;
        ensure!(
            now.iter().zip(before).all(|(now, before)| *now >= before + times),
            "{before:?}, then {now:?}"
        );
        Ok(())
    })
}

/// How often the agents of each cluster have lost their peer.
fn disconnects(lab: &mut Lab) -> Result<[f64; 2]> {
    let mut counts = [0.0; 2];
    for (at, name) in CLUSTERS.into_iter().enumerate() {
        let series = format!("clustermesh_peer_disconnects_total{{peer=\"{}\"}}", CLUSTERS[1 - at]);
        counts[at] = lab.cluster(name)?.nodes()[0].metric(&series)?;
    }
    Ok(counts)
}

fn until_synced_anew(lab: &mut Lab, before: [f64; 2]) -> Result<()> {
    wait::until("every agent to have connected anew", PATIENCE, || {
        let now = disconnects(lab)?;
        ensure!(now.iter().zip(before).all(|(now, before)| *now > before), "{before:?}, then {now:?}");
        for (at, name) in CLUSTERS.into_iter().enumerate() {
            let peer = lab.cluster(name)?.nodes()[0].peer(CLUSTERS[1 - at])?;
            ensure!(peer["state"] == "synced", "{peer}");
        }
        Ok(())
    })
}

fn ensure_no_storm(lab: &mut Lab) -> Result<()> {
    let lost = disconnects(lab)?;
    println!("connections lost over {ROUNDS} rotations: {lost:?}");
    // A server and an agent learn of a change at different moments.
    let most = 2.0 * f64::from(ROUNDS);
    ensure!(lost.iter().all(|lost| *lost <= most), "{lost:?} connections lost");
    Ok(())
}

fn certificates(lab: &Lab, cluster: &str) -> PathBuf {
    Path::new(lab.lab_dir().path()).join(cluster).join("certificates")
}

/// Old and new authority are trusted while everything else is replaced; then the new one alone.
fn rotate(lab: &mut Lab, pkis: &mut [Pki; 2], round: u32) -> Result<()> {
    let (read, before) = (reloads(lab)?, disconnects(lab)?);
    let mut next = Vec::new();
    for pki in pkis.iter() {
        next.push(Authority::new(&pki.cluster, UnixTime::now())?);
    }
    let pems = |of: &dyn Fn(usize) -> String| [of(0), of(1)];
    let both = pems(&|at| format!("{}{}", pkis[at].authority.certificate_pem(), next[at].certificate_pem()));
    tell_peers(lab, &both)?;
    until_reloaded(lab, read, 1.0)?;
    for (at, (pki, authority)) in pkis.iter_mut().zip(next).enumerate() {
        pki.authority = authority;
        pki.issue(&both[at])?;
    }
    until_reloaded(lab, read, 2.0)?;
    ensure!(disconnects(lab)? == before, "round {round}: what still counts was closed");
    let new = pems(&|at| pkis[at].authority.certificate_pem().to_owned());
    tell_peers(lab, &new)?;
    for (at, pki) in pkis.iter_mut().enumerate() {
        pki.issue(&new[at])?;
    }
    until_reloaded(lab, read, 4.0)?;
    until_synced_anew(lab, before)
}

/// By the command line, as an operator does: both authorities, then every certificate once more.
fn rotate_by_command(lab: &mut Lab) -> Result<()> {
    let before = disconnects(lab)?;
    let words = |more: &[&str], sockets: Vec<String>| {
        ["cert", "rotate"].iter().chain(more).map(ToString::to_string).chain(sockets).collect::<Vec<String>>()
    };
    lab.clustermesh(&words(&["--ca", "--yes"], lab.sockets()))?;
    until_synced_anew(lab, before)?;
    let apiservers = lab.join_command().split_off(2);
    lab.clustermesh(&words(&["--yes"], apiservers))?;
    Ok(())
}

/// Replaces everything again and again while a client dials: no call fails, and nobody connects more often than there is a
/// reason for. `begin` is done once the client is answered, and gives what replaces everything once.
fn under_load<F>(begin: impl FnOnce(&mut Lab) -> Result<F>) -> Result<()>
where
    F: FnMut(&mut Lab, u32) -> Result<()>,
{
    let odd = ["peer", "mesh API"];
    Lab::test(&LabSpec { mesh_api: true, ..LabSpec::small() }, &odd, |lab| {
        lab.apply(&ServiceSpec::global(SERVICE, 2))?;
        lab.apply(&ServiceSpec::global(CHANGING, 2))?;
        let records = lab.dial("hoth", 0, "x-wing", SERVICE)?;
        records.wait_answers(&CLUSTERS)?;
        let mut replace = begin(lab)?;
        for round in 0..ROUNDS {
            replace(lab, round).with_context(|| format!("round {round}"))?;
            let replicas = if round % 2 == 0 { 3 } else { 2 };
            lab.scale(CHANGING, replicas)?;
            lab.wait_backends(CHANGING, replicas)?;
        }
        ensure_no_storm(lab)?;
        records.ensure_no_failure()
    })
}

#[test]
fn rotating_everything_ten_times_fails_no_connection_and_reconnects_once_a_round() -> Result<()> {
    under_load(|lab| {
        let [hoth, yavin] = CLUSTERS.map(|name| Pki::of(name, certificates(lab, name)));
        let mut pkis = [hoth?, yavin?];
        Ok(move |lab: &mut Lab, round| rotate(lab, &mut pkis, round))
    })
}

#[test]
fn replacing_both_authorities_by_the_command_line_ten_times_fails_no_connection() -> Result<()> {
    under_load(|_| Ok(|lab: &mut Lab, _| rotate_by_command(lab)))
}
