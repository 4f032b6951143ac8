//! The file `names` beside the socket: what the numbers in the maps stand for, for readers without the agent.
//!
//! The next agent reads it once, for what it can't know before its source is synced. A task of its own: however many names there are, writing them delays no plan.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_admin::api;
use mesh_model::name::{ClusterId, ClusterName};
use tokio_util::sync::CancellationToken;

use super::names::{Earlier, Names, Seen};

/// At least so long between two writes.
const PAUSE: Duration = Duration::from_secs(1);

/// Keeps the file as the sources say, from the moment on at which the own source is synced: until then the file of an
/// earlier agent says more.
pub async fn run(path: PathBuf, mut names: Names, token: CancellationToken) {
    let mut file = NamesFile { path, seen: None, written: None, refused: false };
    loop {
        file.keep(&names);
        // The first write is not delayed: an agent may be killed at once, and the next knows no names but these.
        let pause = if file.written.is_none() && !file.refused { Duration::ZERO } else { PAUSE };
        let changed = async {
            tokio::time::sleep(pause).await;
            if !file.refused {
                names.changed().await;
            }
        };
        tokio::select! {
            () = token.cancelled() => {
                file.keep(&names);
                return;
            }
            () = changed => {}
        }
    }
}

/// The file, and what is known to be in it.
struct NamesFile {
    path: PathBuf,
    /// What was looked at last.
    seen: Option<Seen>,
    written: Option<api::Names>,
    /// Whether the last write failed.
    refused: bool,
}

impl NamesFile {
    /// Writes what the sources say, where that is new.
    fn keep(&mut self, names: &Names) {
        // A peer says something every second, and it is seldom about names: there may be many of these.
        let seen = names.seen();
        if !self.refused && self.seen == seen {
            return;
        }
        self.seen = seen;
        let Some(current) = names.current().filter(|current| self.written.as_ref() != Some(current)) else {
            return;
        };
        match write(&self.path, &current) {
            Ok(()) => (self.written, self.refused) = (Some(current), false),
            // Tried again after every pause, told of once.
            Err(error) if !std::mem::replace(&mut self.refused, true) => {
                tracing::warn!(path = %self.path.display(), %error, "the names file could not be written");
            }
            Err(_) => {}
        }
    }
}

/// Why an earlier agent's file says nothing.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("it can't be read")]
    File(#[from] std::io::Error),
    #[error("it is no file of names")]
    Json(#[from] serde_json::Error),
    #[error("it does not name this cluster")]
    OtherCluster,
}

/// The file of an earlier agent; nothing where there is none, or none of this cluster. To be read before [`run`]
/// writes another.
pub fn load(path: &Path, own: &(ClusterId, ClusterName)) -> Earlier {
    read(path, own).unwrap_or_else(|error| {
        let error = mesh_failure::chain(&error);
        tracing::warn!(
            path = %path.display(),
            error,
            "an earlier agent's names are ignored; services are nameless until the own source is synced"
        );
        Earlier::default()
    })
}

fn read(path: &Path, own: &(ClusterId, ClusterName)) -> Result<Earlier, ReadError> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Earlier::default()),
        read => read?,
    };
    Earlier::of(own, serde_json::from_slice(&bytes)?).ok_or(ReadError::OtherCluster)
}

fn write(path: &Path, names: &api::Names) -> std::io::Result<()> {
    let temporary = path.with_extension("tmp");
    let text = serde_json::to_vec(names).expect("names are plain data");
    std::fs::write(&temporary, text)?;
    std::fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use mesh_model::snapshot::{ClusterSnapshot, Unread};
    use tokio::sync::watch;

    use super::*;
    use crate::peers::PeerSet;

    const FILE: &str = r#"{"clusters":[{"id":1,"name":"hoth"},{"id":2,"name":"endor"}],"frontends":[
        {"address":"10.96.0.1","port":80,"protocol":"TCP","service":"ns/svc","port_name":"http"}]}"#;

    fn own() -> (ClusterId, ClusterName) {
        (ClusterId::new(1).expect("valid"), ClusterName::new("hoth").expect("valid"))
    }

    struct Agent {
        names: Names,
        local: watch::Sender<Option<Arc<ClusterSnapshot>>>,
        peers: watch::Sender<Arc<PeerSet>>,
    }

    impl Agent {
        fn after(path: &Path) -> Self {
            let (local, peers) = (watch::channel(None).0, watch::channel(Arc::default()).0);
            let earlier = Arc::new(load(path, &own()));
            let names = Names { own: own(), local: local.subscribe(), peers: peers.subscribe(), earlier };
            Self { names, local, peers }
        }

        fn hear(&self, unread: Unread) {
            self.local.send_replace(Some(Arc::new(ClusterSnapshot { unread, ..ClusterSnapshot::default() })));
        }

        /// The folder has been read, and there are no peers.
        fn read_folder(&self) {
            self.peers.send_replace(Arc::new(PeerSet { claimed: Some([].into()), ..PeerSet::default() }));
        }

        /// How many clusters and frontends have names.
        fn named(&self) -> (usize, usize) {
            (self.names.clusters().len(), self.names.frontends().len())
        }

        /// How many the next file would name.
        fn written(&self) -> Option<(usize, usize)> {
            self.names.current().map(|names| (names.clusters.len(), names.frontends.len()))
        }
    }

    fn file(text: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a place for files");
        std::fs::write(file.path(), text).expect("room");
        file
    }

    #[test]
    fn an_earlier_agents_names_count_until_source_and_folder_are_synced() {
        let agent = Agent::after(file(FILE.as_bytes()).path());
        assert_eq!((agent.named(), agent.written()), ((2, 1), None));
        let (service, port_name) = agent.names.frontends().into_values().next().expect("one");
        assert_eq!((service.as_str(), port_name.expect("named").as_str()), ("ns/svc", "http"));
        agent.hear(Unread::default());
        assert_eq!((agent.named(), agent.written()), ((2, 0), Some((2, 0))));
        agent.read_folder();
        assert_eq!((agent.named(), agent.written()), ((1, 0), Some((1, 0))));
    }

    #[test]
    fn what_the_source_cannot_read_keeps_its_name() {
        let agent = Agent::after(file(FILE.as_bytes()).path());
        agent.hear(Unread { anything: true, ..Unread::default() });
        assert_eq!((agent.named(), agent.written()), ((2, 1), Some((2, 1))));
        let unread = |name: &str| {
            let services = [(name.parse().expect("valid"), BTreeMap::new())];
            Unread { services: services.into_iter().collect(), ..Unread::default() }
        };
        agent.hear(unread("ns/svc"));
        assert_eq!(agent.written(), Some((2, 1)));
        agent.hear(unread("ns/other"));
        assert_eq!(agent.written(), Some((2, 0)));
    }

    #[test]
    fn names_are_looked_at_again_only_where_they_may_be_others() {
        let agent = Agent::after(file(FILE.as_bytes()).path());
        assert_eq!(agent.names.seen(), None);
        agent.hear(Unread::default());
        let before = agent.names.seen().expect("the own source is synced");
        agent.peers.send_modify(|peers| {
            Arc::make_mut(peers).problem = Some("a peer said something".into());
        });
        assert_eq!(agent.names.seen().as_ref(), Some(&before));
        agent.read_folder();
        assert_ne!(agent.names.seen().as_ref(), Some(&before), "a cluster is no peer any more");
        agent.hear(Unread::default());
        assert_ne!(agent.names.seen().as_ref(), Some(&before), "another snapshot");
    }

    #[test]
    fn a_file_that_is_torn_or_of_another_cluster_says_nothing() {
        let valid = FILE.as_bytes();
        let changed = |from: &str, to: &str| FILE.replacen(from, to, 1).into_bytes();
        let torn = (0..valid.len()).map(|end| valid[..end].to_vec());
        let bad = [
            changed("hoth", "tatooine"),
            changed("\"id\":1", "\"id\":3"),
            changed("\"id\":1", "\"id\":5000"),
            changed("ns/svc", "Not A Name"),
            changed("\"port\":80", "\"port\":65536"),
            vec![0; 100],
            vec![0xff; 100],
        ];
        for text in torn.chain(bad) {
            let names = load(file(&text).path(), &own());
            assert_eq!(names, Earlier::default(), "{}", String::from_utf8_lossy(&text));
        }
        let scratch = tempfile::tempdir().expect("a place for files");
        assert_eq!(load(scratch.path(), &own()), Earlier::default(), "a folder");
        assert_eq!(load(&scratch.path().join("names"), &own()), Earlier::default(), "no file");
        assert_ne!(load(file(valid).path(), &own()), Earlier::default());
    }
}
