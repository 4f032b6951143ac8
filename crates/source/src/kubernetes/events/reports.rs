//! Tells the owners of Services what the own source could not make use of. Only the leader does.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_kube::Access;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::TOLD_AGAIN;
use super::notice::{Notice, Subject, upper_camel};
use super::writer::EventWriter;
use crate::kubernetes::mirror::Report;
use crate::metrics::SourceMetrics;

const CONTROLLER: &str = "clustermesh.io/clustermesh-apiserver";

/// Writes Events about reports, each once while it stands, and again and again after so long.
#[derive(Debug)]
pub struct Events {
    writer: EventWriter,
    reports: watch::Receiver<Arc<Vec<Report>>>,
    leading: watch::Receiver<bool>,
    told: BTreeMap<Report, Instant>,
}

impl Events {
    /// Tells `reports` while `leading`. `instance`: who writes, this pod.
    pub fn new(
        access: Access,
        instance: &str,
        reports: watch::Receiver<Arc<Vec<Report>>>,
        leading: watch::Receiver<bool>,
        metrics: SourceMetrics,
    ) -> Self {
        let writer = EventWriter::new(access, CONTROLLER, instance, metrics);
        Self { writer, reports, leading, told: BTreeMap::new() }
    }

    /// Runs until `token` is cancelled.
    pub async fn run(mut self, token: CancellationToken) {
        tokio::select! {
            () = token.cancelled() => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&mut self) {
        loop {
            let reports = self.reports.borrow_and_update().clone();
            self.told.retain(|report, _| reports.binary_search(report).is_ok());
            if !*self.leading.borrow_and_update() {
                self.told.clear();
            } else if let Some(report) = self.due(&reports) {
                if self.writer.write(&notice(report)).await.is_final() {
                    self.told.insert(report.clone(), Instant::now());
                }
                continue;
            }
            tokio::select! {
                Ok(()) = self.reports.changed() => {}
                Ok(()) = self.leading.changed() => {}
                () = sleep(TOLD_AGAIN / 60) => {}
            }
        }
    }

    fn due<'r>(&self, reports: &'r [Report]) -> Option<&'r Report> {
        reports.iter().find(|report| self.told.get(*report).is_none_or(|told| told.elapsed() >= TOLD_AGAIN))
    }
}

fn notice(report: &Report) -> Notice {
    Notice {
        subject: Subject::Service { name: report.service.clone(), uid: Some(report.uid.clone()) },
        reason: upper_camel(report.reason.as_str()),
        key: report.message.clone(),
        action: "Export",
        warning: report.reason.is_fault(),
        message: report.message.clone(),
    }
}
