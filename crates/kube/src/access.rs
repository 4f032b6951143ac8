//! How the API server is reached: from within the cluster by the pod's service account, from elsewhere by a kubeconfig.
//!
//! Configuration, certificates and tokens are read anew at every connection, so that rotated ones need no restart.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::util::option_layer;
use tower::{Layer, ServiceExt};

type BoxError = Box<dyn Error + Send + Sync>;

/// For a TCP connection to come about.
const CONNECT: Duration = Duration::from_secs(5);
/// A connection over which nothing comes is asked after so long, so that a dead server's is noticed.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Whom to ask, and as whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Its current context counts; none: this pod's service account.
    pub kubeconfig: Option<PathBuf>,
}

/// Why there is no way to the API server.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error("reading kubeconfig {}", path.display())]
    Kubeconfig { path: PathBuf, source: BoxError },
    #[error(
        "finding the API server from within a pod; outside of one, name a kubeconfig with --kubeconfig; within, mount a \
         service account's token"
    )]
    InCluster(#[source] BoxError),
    #[error("preparing the connection to the API server; correct certificates, key or token")]
    Prepare(#[source] BoxError),
}

impl Access {
    /// A client by what the files say now. Connects only when asked something.
    pub async fn client(&self) -> Result<Client, AccessError> {
        let config = self.config().await?;
        client(&config).map_err(|error| AccessError::Prepare(error.into()))
    }

    async fn config(&self) -> Result<Config, AccessError> {
        let Some(path) = &self.kubeconfig else {
            return Config::incluster_env().map_err(|error| AccessError::InCluster(error.into()));
        };
        let unreadable = |source: BoxError| AccessError::Kubeconfig { path: path.clone(), source };
        let kubeconfig = Kubeconfig::read_from(path).map_err(|error| unreadable(error.into()))?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
        config.map_err(|error| unreadable(error.into()))
    }
}

/// Kube's own stack without its retries and logs: both are the follower's business.
fn client(config: &Config) -> Result<Client, kube::Error> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT));
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_keepalive_interval(Some(KEEPALIVE / 3));
    connector.set_keepalive_retries(Some(3));
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let http: legacy::Client<_, Body> = legacy::Client::builder(TokioExecutor::new()).build(connector);
    let http = http.map_err(BoxError::from);
    let stack = config.extra_headers_layer()?.layer(http);
    let stack = option_layer(config.auth_layer()?).layer(stack);
    let stack = config.base_uri_layer().layer(stack);
    Ok(Client::new(stack, config.default_namespace.clone()))
}
