//! Where the Service `clustermesh-apiserver` leads to the mesh API from outside.

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Node, Service, ServicePort};
use kube::api::ListParams;
use kube::{Api, Client};

const SERVICE: &str = "clustermesh-apiserver";
/// Nodes that stand in a peer file: a reader tries the next where one fails, and a file for each of a thousand is no help.
const NODES: usize = 8;

/// The endpoints for a peer file.
pub(super) async fn endpoints(client: &Client, namespace: &str) -> Result<Vec<String>> {
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    let service = services.get(SERVICE).await;
    let service = service.with_context(|| format!("reading Service {SERVICE} in namespace {namespace}"))?;
    match type_of(&service) {
        "LoadBalancer" => balanced(&service),
        "NodePort" => {
            let nodes: Api<Node> = Api::all(client.clone());
            let nodes =
                nodes.list(&ListParams::default()).await.context("listing nodes for their addresses")?;
            on_nodes(&service, &nodes.items)
        }
        // The plan says what to do about a cluster that does not say where it is.
        _ => Ok(Vec::new()),
    }
}

fn type_of(service: &Service) -> &str {
    service.spec.as_ref().and_then(|spec| spec.type_.as_deref()).unwrap_or("ClusterIP")
}

/// The port of the mesh API: by its name, or in a Service of somebody's own the only one.
fn port(service: &Service) -> Option<&ServicePort> {
    let ports = service.spec.as_ref()?.ports.as_deref()?;
    ports.iter().find(|port| port.name.as_deref() == Some("mesh")).or(ports.first())
}

fn balanced(service: &Service) -> Result<Vec<String>> {
    let port = port(service).context("the Service has no port")?.port;
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.iter().flat_map(|status| status.ingress.iter().flatten());
    let hosts = ingress.filter_map(|ingress| ingress.ip.clone().or_else(|| ingress.hostname.clone()));
    let endpoints: Vec<_> = hosts.map(|host| url(&host, port)).collect();
    if endpoints.is_empty() {
        bail!(
            "Service {SERVICE} is of type LoadBalancer, and nobody has given it an address (yet); wait for it, or name an \
             endpoint with --endpoint CLUSTER=https://HOST:PORT"
        );
    }
    Ok(endpoints)
}

fn on_nodes(service: &Service, nodes: &[Node]) -> Result<Vec<String>> {
    let port = port(service).and_then(|port| port.node_port).context("the Service has no node port (yet)")?;
    let mut ready: Vec<&Node> = nodes.iter().filter(|node| is_ready(node)).collect();
    ready.sort_by_key(|node| node.metadata.creation_timestamp.clone());
    let endpoints: Vec<_> =
        ready.into_iter().filter_map(address).take(NODES).map(|host| url(&host, port)).collect();
    if endpoints.is_empty() {
        bail!(
            "no node is Ready and has an InternalIP; name an endpoint with --endpoint CLUSTER=https://HOST:PORT"
        );
    }
    Ok(endpoints)
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.filter(|it| it.type_ == "Ready" && it.status == "True").count() > 0
}

fn address(node: &Node) -> Option<String> {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    addresses.filter(|address| address.type_ == "InternalIP").map(|address| address.address.clone()).next()
}

fn url(host: &str, port: i32) -> String {
    if host.contains(':') { format!("https://[{host}]:{port}") } else { format!("https://{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(value: serde_json::Value) -> Service {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_load_balancer_is_named_by_what_it_was_given() {
        let with = |ingress: serde_json::Value| {
            service(
                json!({"spec": {"ports": [{"port": 2379}]}, "status": {"loadBalancer": {"ingress": ingress}}}),
            )
        };
        let found =
            balanced(&with(json!([{"ip": "192.0.2.7"}, {"hostname": "a.example"}, {"ip": "fd00::1"}])));
        assert_eq!(
            found.unwrap(),
            ["https://192.0.2.7:2379", "https://a.example:2379", "https://[fd00::1]:2379"]
        );
        assert!(balanced(&with(json!([]))).unwrap_err().to_string().contains("--endpoint"));
    }

    #[test]
    fn a_node_port_is_reached_at_ready_nodes() {
        let node = |name: &str, address: &str, ready: &str| -> Node {
            serde_json::from_value(json!({
                "metadata": {"name": name},
                "status": {"addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": address}],
                    "conditions": [{"type": "Ready", "status": ready}]},
            }))
            .unwrap()
        };
        let ports = json!([
            {"name": "join", "port": 2380, "nodePort": 32380},
            {"name": "mesh", "port": 2379, "nodePort": 32379},
        ]);
        let service = service(json!({"spec": {"type": "NodePort", "ports": ports}}));
        let nodes =
            [node("a", "10.0.0.1", "True"), node("b", "10.0.0.2", "False"), node("c", "10.0.0.3", "True")];
        assert_eq!(on_nodes(&service, &nodes).unwrap(), ["https://10.0.0.1:32379", "https://10.0.0.3:32379"]);
        assert!(on_nodes(&service, &nodes[1..2]).unwrap_err().to_string().contains("--endpoint"));
    }
}
