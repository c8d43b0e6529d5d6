//! One list of error codes, and how each looks over HTTP (RFC 9457) and gRPC.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// Seconds a client is asked to wait before it tries again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("2");

/// Why a request was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The request cannot be read.
    Malformed,
    /// No usable credentials.
    Unauthenticated,
    /// The credentials do not allow this.
    Forbidden,
    /// A quota would be exceeded.
    QuotaExceeded,
    /// Nothing here by this name.
    NotFound,
    /// The route exists, but not for this method.
    MethodNotAllowed,
    /// The request took too long to arrive or to answer.
    Timeout,
    /// Contradicts what is already bound.
    Conflict,
    /// The body is larger than the limit.
    TooLarge,
    /// The request can be read, but a value is not allowed.
    Invalid,
    /// A defect of the service.
    Internal,
    /// A dependency is down; the same request may work later.
    Unavailable,
    /// The storage is full.
    StorageFull,
}

impl Code {
    /// The HTTP status.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::Forbidden | Self::QuotaExceeded => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::Conflict => StatusCode::CONFLICT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
        }
    }

    /// The gRPC code.
    pub fn grpc(self) -> tonic::Code {
        match self {
            Self::Malformed | Self::Invalid => tonic::Code::InvalidArgument,
            Self::Unauthenticated => tonic::Code::Unauthenticated,
            Self::Forbidden => tonic::Code::PermissionDenied,
            Self::QuotaExceeded | Self::TooLarge | Self::StorageFull => tonic::Code::ResourceExhausted,
            Self::NotFound => tonic::Code::NotFound,
            Self::MethodNotAllowed => tonic::Code::Unimplemented,
            Self::Timeout => tonic::Code::DeadlineExceeded,
            Self::Conflict => tonic::Code::FailedPrecondition,
            Self::Internal => tonic::Code::Internal,
            Self::Unavailable => tonic::Code::Unavailable,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Malformed => "malformed request",
            Self::Unauthenticated => "not authenticated",
            Self::Forbidden => "forbidden",
            Self::QuotaExceeded => "quota exceeded",
            Self::NotFound => "not found",
            Self::MethodNotAllowed => "method not allowed",
            Self::Timeout => "timeout",
            Self::Conflict => "conflict",
            Self::TooLarge => "request too large",
            Self::Invalid => "invalid value",
            Self::Internal => "internal error",
            Self::Unavailable => "unavailable",
            Self::StorageFull => "storage full",
        }
    }
}

/// An error as a client reads it: `application/problem+json`, RFC 9457.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    code: Code,
    detail: String,
    field: Option<String>,
    remedy: Option<String>,
}

/// The body of a [`Problem`].
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// Identifies the kind of problem.
    r#type: String,
    /// The kind of problem in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What is wrong with this request.
    detail: String,
    /// The field at fault, as a dotted path.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Problem {
    /// A problem with its detail; add field and remedy with the methods below.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), field: None, remedy: None }
    }

    /// Names the field at fault.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// The code.
    pub fn code(&self) -> Code {
        self.code
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.code.status();
        let body = ProblemBody {
            r#type: format!("https://somastack.dev/problems/{}", self.code.title().replace(' ', "-")),
            title: self.code.title(),
            status: status.as_u16(),
            detail: self.detail,
            field: self.field,
            remedy: self.remedy,
        };
        let mut response = (status, axum::Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match self.code {
            Code::Unavailable => headers.insert(header::RETRY_AFTER, RETRY_AFTER),
            Code::Unauthenticated => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
            }
            // The rest of an oversized or late body is not read: the connection cannot be used again.
            Code::TooLarge | Code::Timeout => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"))
            }
            _ => None,
        };
        response
    }
}

impl From<Problem> for tonic::Status {
    fn from(problem: Problem) -> Self {
        let field = problem.field.map(|f| format!("{f}: ")).unwrap_or_default();
        let remedy = problem.remedy.map(|r| format!("; {r}")).unwrap_or_default();
        Self::new(problem.code.grpc(), format!("{field}{}{remedy}", problem.detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_body_is_rfc_9457() {
        let response =
            Problem::new(Code::Unavailable, "postgres is down").remedy("try again").into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        let bytes = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(
            body,
            serde_json::json!({
                "type": "https://somastack.dev/problems/unavailable", "title": "unavailable", "status": 503,
                "detail": "postgres is down", "remedy": "try again",
            })
        );
    }

    #[test]
    fn only_an_unavailable_problem_asks_for_a_retry() {
        let response = Problem::new(Code::Invalid, "no").into_response();
        assert!(!response.headers().contains_key(header::RETRY_AFTER));
    }
}
