//! A cluster behind a context of the kubeconfig: its pods are asked through its API server, so that nothing more is exposed.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::StreamExt as _;
use futures::stream;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use tokio::sync::OnceCell;

use super::exec::{self, Container};
use super::{AgentAnswer, Answer, Cluster, Request, exposure};
use crate::args::ClusterArgs;

/// An API server that takes longer to be connected to is not there.
const CONNECT: Duration = Duration::from_secs(10);
/// Agents that are asked at the same time.
const AT_ONCE: usize = 8;

const APISERVER: Container = Container { component: "apiserver", name: "apiserver", flag: None };
const AGENT: Container = Container { component: "node-agent", name: "node-agent", flag: Some("--agent") };

/// A cluster by a context of the kubeconfig.
pub(crate) struct Context {
    name: String,
    namespace: String,
    client: Client,
    /// The pod that answers for the cluster.
    apiserver: OnceCell<String>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("name", &self.name)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

impl Context {
    pub(super) async fn new(name: &str, clusters: &ClusterArgs) -> Result<Self> {
        let kubeconfig = read(clusters.kubeconfig.as_deref())?;
        if !kubeconfig.contexts.iter().any(|context| context.name == name) {
            let known: Vec<_> = kubeconfig.contexts.iter().map(|context| context.name.as_str()).collect();
            let known = if known.is_empty() { "none".into() } else { known.join(", ") };
            bail!(
                "the kubeconfig has no context {name} (it has: {known}); correct --context, or name another --kubeconfig"
            );
        }
        let options = KubeConfigOptions { context: Some(name.into()), ..KubeConfigOptions::default() };
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
        let mut config = config.with_context(|| format!("reading context {name} of the kubeconfig"))?;
        config.connect_timeout = Some(CONNECT);
        let client = Client::try_from(config).with_context(|| format!("preparing to ask context {name}"))?;
        Ok(Self {
            name: name.into(),
            namespace: clusters.namespace.clone(),
            client,
            apiserver: OnceCell::new(),
        })
    }

    /// Ready pods of a component, the newest first.
    async fn pods(&self, component: &str) -> Result<Vec<Pod>> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let labels = format!("app.kubernetes.io/name=clustermesh,app.kubernetes.io/component={component}");
        let listed = tokio::time::timeout(CONNECT, api.list(&ListParams::default().labels(&labels))).await;
        let listed = listed
            .with_context(|| format!("its API server did not answer within {} s", CONNECT.as_secs()))?;
        let mut pods = listed.with_context(|| format!("listing pods in namespace {}", self.namespace))?.items;
        pods.retain(is_ready);
        if pods.is_empty() {
            bail!(
                "no ready pod has the labels {labels} in namespace {}; is the chart installed there (helm list -A), and \
                 is --namespace right?",
                self.namespace
            );
        }
        pods.sort_by_key(|pod| std::cmp::Reverse(pod.metadata.creation_timestamp.clone()));
        Ok(pods)
    }

    async fn apiserver(&self) -> Result<&str> {
        let newest = async || {
            let pods = self.pods(APISERVER.component).await?;
            pods.into_iter().find_map(|pod| pod.metadata.name).context("a pod without a name")
        };
        self.apiserver.get_or_try_init(newest).await.map(String::as_str)
    }

    /// The pod that leads now, if any says so.
    async fn leader(&self) -> Result<Option<String>> {
        let ask = Request::get("/v1/cluster");
        for pod in self.pods(APISERVER.component).await? {
            let Some(name) = pod.metadata.name else { continue };
            let answer = self.exec(&name, &APISERVER, &ask).await?;
            if answer.body["leading"] == true {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    async fn exec(&self, pod: &str, container: &Container, request: &Request) -> Result<Answer> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        exec::ask(&api, pod, container, request).await
    }
}

/// The file that was named, or those where kubectl looks.
fn read(path: Option<&Path>) -> Result<Kubeconfig> {
    match path {
        Some(path) => {
            Kubeconfig::read_from(path).with_context(|| format!("reading the kubeconfig {}", path.display()))
        }
        None => Kubeconfig::read()
            .context("reading the kubeconfig (KUBECONFIG, else ~/.kube/config); name one with --kubeconfig"),
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.filter(|it| it.type_ == "Ready" && it.status == "True").count() > 0;
    ready && pod.metadata.deletion_timestamp.is_none()
}

impl Cluster for Context {
    fn place(&self) -> String {
        format!("context {}", self.name)
    }

    async fn ask(&self, request: &Request) -> Result<Answer> {
        self.exec(self.apiserver().await?, &APISERVER, request).await
    }

    async fn ask_leader(&self, request: &Request) -> Result<Answer> {
        let leader = self.leader().await?;
        match leader {
            Some(pod) => self.exec(&pod, &APISERVER, request).await,
            None => self.ask(request).await,
        }
    }

    async fn ask_agents(&self, request: &Request) -> Result<Vec<AgentAnswer>> {
        let asked = self.pods(AGENT.component).await?.into_iter().map(async |pod| {
            let node = pod.spec.and_then(|spec| spec.node_name);
            let name = pod.metadata.name.unwrap_or_default();
            AgentAnswer {
                answer: self.exec(&name, &AGENT, request).await,
                agent: node.map_or(name, |node| format!("node {node}")),
            }
        });
        Ok(stream::iter(asked).buffered(AT_ONCE).collect().await)
    }

    async fn exposed(&self) -> Result<Vec<String>> {
        exposure::endpoints(&self.client, &self.namespace).await
    }
}
