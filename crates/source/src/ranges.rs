//! This cluster's own address ranges: from flags alone, or completed by what the cluster tells.

use std::sync::Arc;

use mesh_model::address_policy::OwnRanges;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::identity::{Identity, IdentityArgs, IdentityError};

/// What the cluster tells of its ranges; `None` until it has told everything once.
pub type Found = watch::Receiver<Option<Arc<OwnRanges>>>;

/// The ranges that count; `None` until they are known.
pub type Known = watch::Receiver<Option<Arc<OwnRanges>>>;

/// Ranges that stay as they are.
pub fn fixed(ranges: OwnRanges) -> Known {
    watch::channel(Some(Arc::new(ranges))).1
}

/// Completes the ranges that no flag names.
#[derive(Debug)]
pub struct RangesTask {
    args: IdentityArgs,
    found: Option<Found>,
    /// What was found so far is what an earlier process was told.
    reminded: bool,
    known: watch::Sender<Option<Arc<OwnRanges>>>,
}

impl RangesTask {
    /// `found`: what the cluster tells; where it tells nothing, the flags' ranges are all there is.
    pub fn new(args: &IdentityArgs, identity: &Identity, found: Option<Found>) -> (Self, Known) {
        let flags = found.is_none().then(|| Arc::new(OwnRanges::from(identity)));
        let (known, receiver) = watch::channel(flags);
        (Self { args: args.clone(), found, reminded: false, known }, receiver)
    }

    /// Goes by what an earlier process was told until the cluster tells it anew: without own ranges no peer is followed. Where
    /// a flag is needed beside it the cluster has to say so itself.
    pub fn remind(&mut self) {
        let Some(told) = self.found.as_mut().and_then(|found| found.borrow_and_update().clone()) else {
            return;
        };
        self.reminded = true;
        if let Ok(identity) = self.args.identity_within(&told) {
            self.known.send_replace(Some(Arc::new(OwnRanges::from(&identity))));
        }
    }

    /// Follows what the cluster tells until the token is cancelled.
    ///
    /// # Errors
    /// A flag is needed, because the cluster does not tell. Only the first time: later the last good ranges stay.
    pub async fn run(self, token: CancellationToken) -> Result<(), IdentityError> {
        let Some(mut found) = self.found else {
            token.cancelled().await;
            return Ok(());
        };
        let mut begun = !self.reminded;
        loop {
            let told = if begun { found.borrow_and_update().clone() } else { None };
            begun = true;
            match told.map(|told| self.args.identity_within(&told)) {
                Some(Ok(identity)) => {
                    let ranges = Arc::new(OwnRanges::from(&identity));
                    self.known.send_if_modified(|known| {
                        let other = known.as_ref() != Some(&ranges);
                        *known = Some(ranges);
                        other
                    });
                }
                Some(Err(error)) if self.known.borrow().is_none() => return Err(error),
                Some(Err(error)) => tracing::warn!(%error, "the cluster's ranges stay as they were"),
                None => {}
            }
            tokio::select! {
                () = token.cancelled() => return Ok(()),
                changed = found.changed() => if changed.is_err() {
                    // The source has ended, which is its supervisor's business.
                    token.cancelled().await;
                    return Ok(());
                }
            }
        }
    }
}

impl From<&Identity> for OwnRanges {
    fn from(identity: &Identity) -> Self {
        let Identity { pod_cidrs, service_cidrs, node_cidrs, .. } = identity;
        Self { pods: pod_cidrs.clone(), services: service_cidrs.clone(), nodes: node_cidrs.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> IdentityArgs {
        IdentityArgs {
            cluster_name: "hoth".parse().unwrap(),
            cluster_id: "2".parse().unwrap(),
            pod_cidrs: Vec::new(),
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
            node_cidrs: vec!["192.168.1.0/24".parse().unwrap()],
        }
    }

    fn pods(range: &str) -> Option<Arc<OwnRanges>> {
        Some(Arc::new(OwnRanges { pods: vec![range.parse().unwrap()], ..OwnRanges::default() }))
    }

    #[tokio::test]
    async fn without_a_cluster_that_tells_the_flags_are_known_at_once() {
        let (_task, known) = RangesTask::new(&args(), &args().identity().unwrap(), None);
        assert_eq!(known.borrow().as_ref().unwrap().nodes.len(), 1);
    }

    #[tokio::test]
    async fn what_the_cluster_tells_is_followed_and_survives_nonsense() {
        let (tell, found) = watch::channel(None);
        let (task, mut known) = RangesTask::new(&args(), &args().identity().unwrap(), Some(found));
        assert!(known.borrow().is_none());
        let token = CancellationToken::new();
        let running = tokio::spawn(task.run(token.clone()));
        for range in ["10.244.0.0/24", "10.244.0.0/23"] {
            tell.send(pods(range)).unwrap();
            let ranges = |known: &Option<Arc<OwnRanges>>| {
                known.as_ref().is_some_and(|known| known.pods == [range.parse().unwrap()])
            };
            known.wait_for(ranges).await.unwrap();
        }
        tell.send(Some(Arc::default())).unwrap();
        tell.send(pods("10.244.0.0/22")).unwrap();
        known.wait_for(|known| known.as_ref().unwrap().pods[0].prefix_len() == 22).await.unwrap();
        token.cancel();
        assert_eq!(running.await.unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn what_an_earlier_process_was_told_counts_until_the_cluster_tells() {
        let (tell, found) = watch::channel(pods("10.244.0.0/24"));
        let (mut task, mut known) = RangesTask::new(&args(), &args().identity().unwrap(), Some(found));
        task.remind();
        let first = |known: &Option<Arc<OwnRanges>>| known.as_ref().unwrap().pods[0].to_string();
        assert_eq!(first(&known.borrow()), "10.244.0.0/24");
        let token = CancellationToken::new();
        let running = tokio::spawn(task.run(token.clone()));
        tell.send(pods("10.245.0.0/24")).unwrap();
        known.wait_for(|known| first(known) == "10.245.0.0/24").await.unwrap();
        token.cancel();
        assert_eq!(running.await.unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn memory_alone_ends_no_process() {
        let (tell, found) = watch::channel(Some(Arc::default()));
        let (mut task, known) = RangesTask::new(&args(), &args().identity().unwrap(), Some(found));
        task.remind();
        assert!(known.borrow().is_none());
        // Said by the cluster itself the same does.
        tell.send(Some(Arc::default())).unwrap();
        assert!(task.run(CancellationToken::new()).await.is_err());
    }

    #[tokio::test]
    async fn a_flag_that_is_needed_is_named() {
        let (_tell, found) = watch::channel(Some(Arc::default()));
        let (task, _known) = RangesTask::new(&args(), &args().identity().unwrap(), Some(found));
        let error = task.run(CancellationToken::new()).await.unwrap_err();
        assert!(error.to_string().contains("--pod-cidr is needed: no Node has spec.podCIDRs"), "{error}");
    }
}
