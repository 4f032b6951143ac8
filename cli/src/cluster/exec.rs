//! Runs `clustermesh api` in a pod, and reads what it prints.
//!
//! The length of the body is told beforehand: older API servers can't close a command's stdin.

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::Api;
use kube::api::{AttachParams, AttachedProcess};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Answer, DEADLINE, Request};

/// As much of an answer as is taken.
const MAX_ANSWER: u64 = 64 << 20;
const MAX_COMPLAINT: u64 = 16 << 10;
/// Room between the connection and whoever reads it.
const BUFFER: usize = 256 << 10;
/// What a container's runtime ends with where the program does not exist, as a shell does.
const NO_PROGRAM: &str = "127";

/// A container that has the command line, and a process to ask.
pub(super) struct Container {
    pub component: &'static str,
    pub name: &'static str,
    /// What makes `api` ask this container's process.
    pub flag: Option<&'static str>,
}

/// Asks the process of a pod.
pub(super) async fn ask(
    pods: &Api<Pod>,
    pod: &str,
    container: &Container,
    request: &Request,
) -> Result<Answer> {
    let answer = tokio::time::timeout(DEADLINE, run(pods, pod, container, request)).await;
    answer.with_context(|| format!("pod {pod} did not answer within {} s", DEADLINE.as_secs()))?
}

async fn run(pods: &Api<Pod>, pod: &str, container: &Container, request: &Request) -> Result<Answer> {
    let body = request.body.as_deref().unwrap_or_default();
    let params = AttachParams::default()
        .container(container.name)
        .stdin(!body.is_empty())
        .stdout(true)
        .stderr(true)
        .max_stdout_buf_size(BUFFER);
    let process = pods.exec(pod, command(container, request), &params).await;
    let mut process = process.map_err(|error| refused(pod, error))?;
    let (stdout, stderr) = (process.stdout(), process.stderr());
    let status = process.take_status().context("nobody else takes a command's status")?;
    let write = write(&mut process, body);
    let (written, answer, complaint, status) =
        tokio::join!(write, read(stdout, MAX_ANSWER), read(stderr, MAX_COMPLAINT), status);
    let complaint = String::from_utf8_lossy(&complaint?).trim().to_owned();
    judge(pod, status.as_ref(), &complaint)?;
    let _open = written.with_context(|| format!("writing to pod {pod}"))?;
    serde_json::from_slice(&answer?).with_context(|| {
        format!("reading what clustermesh in pod {pod} printed ({complaint:?}); is it of this command line's version?")
    })
}

fn command(container: &Container, request: &Request) -> Vec<String> {
    let mut command: Vec<String> = ["/clustermesh", "api"].map(Into::into).into();
    command.extend(container.flag.map(str::to_owned));
    if let Some(body) = &request.body {
        command.push(format!("--body-bytes={}", body.len()));
    }
    command.extend([request.method.to_owned(), request.path.clone()]);
    command
}

/// Returns the open end: closing it could end the whole connection before the answer is there.
async fn write(process: &mut AttachedProcess, body: &[u8]) -> std::io::Result<Option<impl AsyncWrite>> {
    let mut stdin = process.stdin();
    if let Some(stdin) = &mut stdin {
        stdin.write_all(body).await?;
        stdin.flush().await?;
    }
    Ok(stdin)
}

async fn read(from: Option<impl AsyncRead + Unpin>, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        from.take(limit).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

fn refused(pod: &str, error: kube::Error) -> anyhow::Error {
    let text = error.to_string();
    let remedy = match text.contains("403") || text.contains("orbidden") {
        true => "; your user needs the right to get and create pods/exec in that namespace",
        false => "",
    };
    anyhow::Error::new(error).context(format!("running clustermesh in pod {pod}{remedy}"))
}

/// What the end of the command says.
fn judge(pod: &str, status: Option<&Status>, complaint: &str) -> Result<()> {
    let Some(status) = status else {
        bail!("the connection to pod {pod} ended before clustermesh there did; try again");
    };
    if status.status.as_deref() == Some("Success") {
        return Ok(());
    }
    let causes = status.details.iter().flat_map(|details| details.causes.iter().flatten());
    let code = causes.filter(|it| it.reason.as_deref() == Some("ExitCode")).find_map(|it| it.message.clone());
    let message = status.message.as_deref().unwrap_or("no reason is given");
    let said = message.to_lowercase();
    let is_missing =
        code.as_deref() == Some(NO_PROGRAM) || said.contains("not found") || said.contains("no such file");
    if is_missing && complaint.is_empty() {
        bail!(
            "pod {pod} has no clustermesh in its image ({message}); upgrade the release to this command line's version"
        );
    }
    match complaint.is_empty() {
        true => bail!("clustermesh in pod {pod} failed: {message}"),
        false => bail!("pod {pod} says: {complaint}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ended(status: serde_json::Value, complaint: &str) -> String {
        let status: Status = serde_json::from_value(status).unwrap();
        judge("apiserver-1", Some(&status), complaint)
            .map_or_else(|error| error.to_string(), |()| "well".into())
    }

    #[test]
    fn the_end_of_a_command_is_told_with_its_reason() {
        assert_eq!(ended(json!({"status": "Success"}), "a word"), "well");
        let failed = |code: &str, message: &str| {
            json!({"status": "Failure", "message": message, "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code}]}})
        };
        let complaint = "clustermesh: connecting to the clustermesh-apiserver";
        assert_eq!(
            ended(failed("1", "exit code 1"), complaint),
            format!("pod apiserver-1 says: {complaint}")
        );
        let missing = ended(failed("127", "exec: \"/clustermesh\": no such file or directory"), "");
        assert!(missing.contains("no clustermesh in its image") && missing.contains("upgrade"), "{missing}");
        let cut = judge("apiserver-1", None, "").unwrap_err().to_string();
        assert!(cut.contains("connection to pod apiserver-1 ended"), "{cut}");
    }

    #[test]
    fn a_body_is_announced_with_its_length() {
        let agent = Container { component: "node-agent", name: "node-agent", flag: Some("--agent") };
        assert_eq!(
            command(&agent, &Request::get("/v1/peers")),
            ["/clustermesh", "api", "--agent", "GET", "/v1/peers"]
        );
        let put = Request::put("/v1/peers/hoth", &json!({"id": 1}));
        assert_eq!(command(&agent, &put)[3..], ["--body-bytes=8", "PUT", "/v1/peers/hoth"]);
    }
}
