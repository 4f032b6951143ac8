//! A question with its answer's type.

use std::fmt;

use mesh_admin::api::List;
use mesh_admin::cluster::Refused;
use serde::de::DeserializeOwned;

use super::{Answer, Cluster, Request};

/// Why a question has no good answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("{place} can't be asked")]
    Unreachable { place: String, source: Failure },
    #[error("{place} refuses: {error}; {remedy}")]
    Refused { place: String, status: u16, error: String, remedy: String },
    #[error(
        "{place} gave an answer to {path} that is not understood; are it and this command line of one version?"
    )]
    Odd { place: String, path: String, source: serde_json::Error },
}

impl CallError {
    /// Whether nobody answered, so that it may be dead.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// Whether what was asked about does not exist.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }
}

/// `anyhow::Error` as a source.
#[derive(Debug)]
pub(crate) struct Failure(anyhow::Error);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// Asks a cluster's apiserver.
pub(crate) async fn call<T: DeserializeOwned>(
    cluster: &impl Cluster,
    request: &Request,
) -> Result<T, CallError> {
    let place = cluster.place();
    match cluster.ask(request).await {
        Ok(answer) => read(place, request, answer),
        Err(error) => Err(CallError::Unreachable { place, source: Failure(error) }),
    }
}

/// Asks the apiserver of a cluster that leads.
pub(crate) async fn call_leader<T: DeserializeOwned>(
    cluster: &impl Cluster,
    request: &Request,
) -> Result<T, CallError> {
    let place = cluster.place();
    match cluster.ask_leader(request).await {
        Ok(answer) => read(place, request, answer),
        Err(error) => Err(CallError::Unreachable { place, source: Failure(error) }),
    }
}

/// The items of a list.
pub(crate) async fn list<T: DeserializeOwned>(
    cluster: &impl Cluster,
    request: &Request,
) -> Result<Vec<T>, CallError> {
    call::<List<T>>(cluster, request).await.map(|list| list.items)
}

fn read<T: DeserializeOwned>(place: String, request: &Request, answer: Answer) -> Result<T, CallError> {
    if (200..300).contains(&answer.status) {
        let odd = |source| CallError::Odd { place, path: request.path.clone(), source };
        return serde_json::from_value(answer.body).map_err(odd);
    }
    let status = answer.status;
    let (error, remedy) = match serde_json::from_value::<Refused>(answer.body.clone()) {
        Ok(refused) => told(refused),
        // Axum's own answers are text, or nothing.
        Err(_) => {
            let said = answer.body.as_str().filter(|text| !text.is_empty()).unwrap_or("nothing else");
            let error = format!("{} {}: status {status}, and it says {said}", request.method, request.path);
            (error, "upgrade it if it is of an older version than this command line".into())
        }
    };
    Err(CallError::Refused { place, status, error, remedy })
}

/// All that is wrong as one text, with the remedy of the first.
fn told(refused: Refused) -> (String, String) {
    let others = refused.problems.iter().filter(|problem| problem.error != refused.error);
    let others: String = others.map(|problem| format!("; {} ({})", problem.error, problem.remedy)).collect();
    (refused.error + &others, refused.remedy)
}

#[cfg(test)]
mod tests {
    use mesh_admin::cluster::Changed;
    use serde_json::json;

    use super::*;

    fn answered(status: u16, body: serde_json::Value) -> Result<Changed, CallError> {
        read("context hoth".into(), &Request::get("/v1/peers"), Answer { status, body })
    }

    #[test]
    fn a_refusal_says_who_what_and_what_to_do() {
        let body = json!({"error": "id 2 is taken", "remedy": "take another", "problems": [
            {"who": "operator", "error": "id 2 is taken", "remedy": "take another"},
            {"who": "operator", "error": "ranges overlap", "remedy": "renumber"},
        ]});
        let error = answered(409, body).unwrap_err();
        assert_eq!(
            error.to_string(),
            "context hoth refuses: id 2 is taken; ranges overlap (renumber); take another"
        );
        assert!(!error.is_unreachable() && !error.is_unknown());
    }

    #[test]
    fn an_answer_of_another_version_says_so() {
        let error = answered(404, json!("")).unwrap_err();
        assert!(
            error.to_string().contains("status 404") && error.to_string().contains("upgrade it"),
            "{error}"
        );
        assert!(error.is_unknown());
        assert!(answered(200, json!({"items": []})).unwrap_err().to_string().contains("of one version"));
        assert_eq!(answered(200, json!({"changed": true})).unwrap(), Changed { changed: true });
    }
}
