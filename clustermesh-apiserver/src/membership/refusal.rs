//! What is not done, as an answer: a status, what is wrong, and what to do.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use mesh_admin::cluster::{Problem, Refused};

/// A refused request.
#[derive(Debug, thiserror::Error)]
#[error("{}", refused.error)]
pub(crate) struct Refusal {
    status: StatusCode,
    refused: Refused,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, error: impl Into<String>, remedy: impl Into<String>) -> Self {
        let refused = Refused { error: error.into(), remedy: remedy.into(), problems: Vec::new() };
        Self { status, refused }
    }

    /// Of everything that is wrong with it.
    pub(crate) fn of_problems(status: StatusCode, problems: Vec<Problem>) -> Self {
        let first = problems.first();
        let (error, remedy) = first.map_or_else(Default::default, |it| (it.error.clone(), it.remedy.clone()));
        Self { status, refused: Refused { error, remedy, problems } }
    }

    /// What can't be done now.
    pub(crate) fn unavailable(error: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error, remedy)
    }

    pub(crate) fn into_parts(self) -> (StatusCode, Refused) {
        (self.status, self.refused)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(self.refused)).into_response()
    }
}
