//! Answers to questions about the maps, in the words of the admin API.
//!
//! They are read from the kernel's maps and from what the loop has published, on the asker's thread: no number of
//! readers, however slow, delays a plan.

use std::collections::HashMap;
use std::sync::Arc;

use mesh_admin::api::{Backend, Omission, Service};
use mesh_model::name::{ClusterId, ServiceName};
use mesh_source::Status;
use tokio::sync::watch;

use super::names::{ClusterNames, Names};
use super::reasons::{Evidence, RefusedFrontend};
use super::rows::{Kernel, Known, backends, services};
pub use super::view::View;
use crate::admin::answers::{Answers, Unanswered};
use crate::datapath::actual::Actual;
use crate::datapath::maps::{MapError, Maps};
use crate::datapath::restore::restore;

/// Reads the answers.
#[derive(Debug)]
pub struct Reader {
    /// Not the loop's, but the same in the kernel.
    pub maps: Maps,
    pub names: Names,
    pub view: watch::Receiver<Arc<View>>,
    /// Faults of the own source's objects.
    pub source: watch::Receiver<Arc<Status>>,
}

impl Reader {
    fn view(&self) -> Result<Arc<View>, Unanswered> {
        // The loop ends only when the agent does.
        if self.view.has_changed().is_err() {
            Err(Unanswered::Stopping)
        } else {
            Ok(self.view.borrow().clone())
        }
    }

    /// A mirror restored now.
    fn actual(&self) -> Result<Actual, MapError> {
        Ok(restore(&self.maps.services.contents_in_use()?, self.maps.services.capacity()).actual)
    }

    fn left_out(
        &self,
        name: &ServiceName,
        refused: &[RefusedFrontend],
        clusters: &ClusterNames,
    ) -> Vec<Omission> {
        let local = self.names.local.borrow().clone();
        let (source, peers) = (self.source.borrow().clone(), self.names.peers.borrow().clone());
        let evidence = Evidence::new(self.names.own.0, (local.as_deref(), &source), &peers, refused);
        let all = evidence.omissions(name).into_iter();
        let named = |cluster: ClusterId| clusters.get(&cluster).cloned();
        all.map(|omission| Omission::new(omission, named)).collect()
    }

    fn kernel(&self, actual: &Actual) -> Kernel {
        let groups = actual.frontends().flat_map(|(_, held)| &held.groups);
        let ids: Vec<u32> = groups.map(|group| group.counter).filter(|counter| *counter != 0).collect();
        let counters = self.maps.services.read_counters(&ids).unwrap_or_default();
        let counters: HashMap<_, _> = ids.into_iter().zip(counters).collect();
        Kernel { counters, clusters: self.maps.clusters.read().ok() }
    }
}

impl Answers for Reader {
    fn services(&self, only: Option<&ServiceName>) -> Result<Vec<Service>, Unanswered> {
        let view = self.view()?;
        let actual = self.actual()?;
        let refused = refused(&view, &self.names);
        let known = Known {
            frontends: self.names.frontends(),
            clusters: self.names.clusters(),
            kernel: self.kernel(&actual),
        };
        let mut services = services(&actual, &view, &refused, &known);
        let Some(name) = only else { return Ok(services) };
        services.retain(|service| service.service.as_ref() == Some(name));
        let frontends = services.pop().map(|service| service.frontends).unwrap_or_default();
        let left_out = Some(self.left_out(name, &refused, &known.clusters));
        Ok(vec![Service { service: Some(name.clone()), frontends, left_out }])
    }

    fn backends(&self, only: Option<&ServiceName>) -> Result<Vec<Backend>, Unanswered> {
        let view = self.view()?;
        let names = (&self.names.frontends(), &self.names.clusters());
        Ok(backends(&self.actual()?, &view, names, only))
    }

    fn plan(&self) -> Result<Vec<String>, Unanswered> {
        Ok(self.view()?.last_plan.lines())
    }
}

/// The frontends that are not as desired, whoever finds it out.
fn refused(view: &View, names: &Names) -> Vec<RefusedFrontend> {
    let refused = view.refused.iter().map(|(frontend, refusal)| RefusedFrontend {
        frontend: *frontend,
        service: refusal.service().cloned(),
        cluster: refusal.cluster(),
        reason: refusal.reason(),
        text: refusal.to_string(),
    });
    refused.chain(names.contested()).collect()
}
