//! `clustermesh api`: one request to a process of this host, for whoever runs it in a pod.

use std::io::Read;

use anyhow::{Context, Result};

use crate::args::{AgentArgs, ApiArgs};
use crate::cluster::{self, Request};
use crate::render;

pub(crate) fn run(agent: &AgentArgs, args: &ApiArgs) -> Result<()> {
    let body = args.body_bytes.map(body).transpose()?;
    let request = Request { method: args.method.as_str(), path: args.path.clone(), body };
    let (who, socket) = match args.agent {
        true => ("agent", agent.socket()?),
        false => ("clustermesh-apiserver", cluster::local_apiserver(agent)),
    };
    let answer = mesh_runtime::process::block_on(cluster::request_socket(&socket, who, &request))??;
    render::print(&(serde_json::to_string(&answer)? + "\n"))
}

fn body(bytes: usize) -> Result<Vec<u8>> {
    let mut body = vec![0; bytes];
    let read = std::io::stdin().lock().read_exact(&mut body);
    read.with_context(|| format!("reading {bytes} bytes of body from standard input"))?;
    Ok(body)
}
