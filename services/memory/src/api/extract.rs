//! Reading requests: every refusal is a problem that names the field.

use axum::body::{Body, to_bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::{HeaderMap, header, request::Parts};
use serde::de::DeserializeOwned;
use soma_platform::problem::{Code, Problem};

use super::Api;
use crate::{Coordinate, Error, Scope};

/// A JSON body, read only up to the limit of the settings.
pub(crate) struct Json<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Api> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        let megabytes = api.memory.settings.max_request_body_mb;
        let limit = megabytes as usize * 1024 * 1024;
        let (parts, body) = request.into_parts();
        let length =
            parts.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > limit as u64) {
            return Err(too_large(megabytes));
        }
        parse_json(&read(body, limit, megabytes).await?).map(Self)
    }
}

async fn read(body: Body, limit: usize, megabytes: u32) -> Result<axum::body::Bytes, Problem> {
    to_bytes(body, limit).await.map_err(|error| {
        // The limit is an error inside axum's; anything else is a client that went away.
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        if source.contains("length limit") {
            too_large(megabytes)
        } else {
            Problem::new(Code::Malformed, "the body ended early").remedy("send the request again")
        }
    })
}

fn too_large(megabytes: u32) -> Problem {
    Problem::new(Code::TooLarge, format!("the body is larger than {megabytes} MiB"))
        .remedy("send less at a time, or raise the setting maxRequestBodyMb")
}

/// Reads JSON; the problem names the field that is wrong.
pub(crate) fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        if error.is_data() {
            return wrong_field(&path, &error.to_string());
        }
        let problem = Problem::new(Code::Malformed, format!("the body is not valid JSON: {error}"))
            .remedy("send one JSON object, UTF-8, nested at most 64 levels deep");
        match path.split('.').next() {
            Some(field) if field != path && !field.is_empty() => problem.field(field),
            _ => problem,
        }
    })?;
    reader.end().map_err(|error| {
        Problem::new(Code::Malformed, format!("something follows the JSON: {error}"))
            .remedy("send one JSON object")
    })?;
    Ok(value)
}

/// A value that can be read but does not fit. For a field that is missing or unknown, the message tells its name.
fn wrong_field(path: &str, message: &str) -> Problem {
    let message = message.split(" at line ").next().unwrap_or(message);
    let named = ["missing field `", "unknown field `"].iter().find_map(|start| {
        message.split_once(start).and_then(|(_, rest)| rest.split('`').next()).map(str::to_owned)
    });
    let inside = path != "." && !path.is_empty();
    // The path ends with a field that is unknown, and before one that is missing.
    let field = match named {
        Some(name) if !inside => name,
        Some(name) if path != name && !path.ends_with(&format!(".{name}")) => format!("{path}.{name}"),
        _ => path.to_owned(),
    };
    Problem::new(Code::Invalid, message)
        .field(if field == "." { "body".to_owned() } else { field })
        .remedy("GET /openapi.json describes the request")
}

/// A query string.
pub(crate) struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match Query::<T>::try_from_uri(&parts.uri) {
            Ok(Query(value)) => Ok(Self(value)),
            Err(rejection) => {
                let text = std::error::Error::source(&rejection)
                    .map_or_else(|| rejection.to_string(), ToString::to_string);
                let (path, message) = text.split_once(": ").unwrap_or((".", &text));
                Err(wrong_field(path, message))
            }
        }
    }
}

/// A coordinate in the path.
pub(crate) struct At(pub Coordinate);

impl<S: Send + Sync> FromRequestParts<S> for At {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = name(parts, state).await?;
        Coordinate::parse(&text, "coord").map(Self).map_err(|error| {
            Problem::new(Code::Malformed, error.to_string()).field("coord").remedy("send 0.1,2,-3")
        })
    }
}

/// A namespace's name in the path.
pub(crate) struct Name(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        name(parts, state).await.map(Self)
    }
}

async fn name<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<String, Problem> {
    let Path(text) =
        Path::<String>::from_request_parts(parts, state).await.map_err(|rejection: PathRejection| {
            Problem::new(Code::Malformed, rejection.to_string()).remedy("send UTF-8 in the path")
        })?;
    Ok(text)
}

impl<S: Sync> FromRequestParts<S> for Scope {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let namespace = text(&parts.headers, "x-soma-namespace")?.unwrap_or(Self::DEFAULT);
        Ok(Self::new(namespace, text(&parts.headers, "x-soma-tenant")?)?)
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, Error> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    match value.to_str() {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(Error::invalid(name, "the header is not ASCII", "send visible ASCII characters")),
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only refusals are looked at")]
    struct Outer {
        items: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only refusals are looked at")]
    struct Inner {
        n: u32,
    }

    async fn refusal(body: &str) -> (u16, String) {
        let response = parse_json::<Outer>(body.as_bytes()).unwrap_err().into_response();
        let status = response.status().as_u16();
        let bytes = to_bytes(response.into_body(), 65536).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        (status, body["field"].as_str().unwrap_or_default().to_owned())
    }

    #[tokio::test]
    async fn a_refusal_names_the_field() {
        let cases = [
            ("", 400, ""),
            ("{", 400, ""),
            ("\u{0}", 400, ""),
            (r#"{"items":[{"n":1}]} x"#, 400, ""),
            ("{}", 422, "items"),
            ("[]", 422, "items"),
            (r#"{"items":[{"n":-1}]}"#, 422, "items[0].n"),
            (r#"{"items":[{"n":1},{"n":"x"}]}"#, 422, "items[1].n"),
            (r#"{"items":[{"n":1,"m":2}]}"#, 422, "items[0].m"),
            (r#"{"items":[{}]}"#, 422, "items[0].n"),
            (r#"{"items":[],"vector":[1]}"#, 422, "vector"),
            (r#"{"items":7}"#, 422, "items"),
        ];
        for (body, status, field) in cases {
            if body == "[]" {
                // Serde reads a struct from a list as well; an empty one misses its first field.
                assert_eq!(refusal(body).await.0, status);
            } else {
                assert_eq!(refusal(body).await, (status, field.to_owned()), "{body}");
            }
        }
    }
}
