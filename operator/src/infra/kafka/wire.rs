//! One authenticated connection to a Kafka node: requests in Kafka's own protocol, one after another.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::{
    ApiVersionsRequest, RequestHeader, ResponseHeader, SaslAuthenticateRequest, SaslHandshakeRequest,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest time to connect, and to wait for one answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Larger answers are refused, because no answer to what the operator asks is as large.
const MAX_ANSWER: usize = 64 << 20;
const CLIENT: StrBytes = StrBytes::from_static_str("soma-operator");

/// An answer that is not what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum KafkaError {
    #[error("no answer from {address}")]
    Unreachable {
        address: String,
        #[source]
        source: std::io::Error,
    },
    #[error("no answer from {address} to {what} within {} s", TIMEOUT.as_secs())]
    TimedOut { address: String, what: &'static str },
    #[error("{address} does not speak Kafka's protocol as expected: {problem}")]
    Unreadable { address: String, problem: String },
    #[error("Kafka refused to {what}: {error}{}", in_brackets(said))]
    Refused { what: String, error: ResponseError, said: String },
    /// It works, but is not complete yet.
    #[error("{0}")]
    Incomplete(String),
}

fn in_brackets(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}

impl KafkaError {
    /// Why a node refused.
    pub fn refusal(&self) -> Option<ResponseError> {
        match self {
            Self::Refused { error, .. } => Some(*error),
            _ => None,
        }
    }
}

/// An error unless `code` is none.
pub fn accepted(what: &str, code: i16, message: Option<&StrBytes>) -> Result<(), KafkaError> {
    ResponseError::try_from_code(code).map_or(Ok(()), |error| {
        let said = message.map(ToString::to_string).unwrap_or_default();
        Err(KafkaError::Refused { what: what.to_owned(), error, said })
    })
}

/// An answer that says it was done before is success.
pub fn done_before(result: Result<(), KafkaError>, said: ResponseError) -> Result<(), KafkaError> {
    match result {
        Err(error) if error.refusal() == Some(said) => Ok(()),
        other => other,
    }
}

/// A connection. Requests are never in flight together.
pub struct Connection {
    stream: TcpStream,
    address: String,
    correlation: i32,
    /// Versions the node takes, by API key.
    versions: BTreeMap<i16, (i16, i16)>,
}

impl Connection {
    /// Connects without a user: enough to see that Kafka answers there.
    pub async fn open(address: &str) -> Result<Self, KafkaError> {
        let io = |source| KafkaError::Unreachable { address: address.to_owned(), source };
        let stream = connect(address).await?;
        stream.set_nodelay(true).map_err(io)?;
        // Version 0 is understood by every node, whatever it is.
        let asking = BTreeMap::from([(ApiVersionsRequest::KEY, (0, 0))]);
        let mut connection = Self { stream, address: address.to_owned(), correlation: 0, versions: asking };
        let answer = connection.call(ApiVersionsRequest::default()).await?;
        accepted("name its versions", answer.error_code, None)?;
        connection.versions =
            answer.api_keys.iter().map(|api| (api.api_key, (api.min_version, api.max_version))).collect();
        Ok(connection)
    }

    /// Connects and logs in by SASL PLAIN.
    pub async fn login(address: &str, user: &str, password: &str) -> Result<Self, KafkaError> {
        let mut connection = Self::open(address).await?;
        let mechanism = StrBytes::from_static_str("PLAIN");
        let answer = connection.call(SaslHandshakeRequest::default().with_mechanism(mechanism)).await?;
        accepted("offer SASL PLAIN", answer.error_code, None)?;
        let credentials = Bytes::from(format!("\0{user}\0{password}"));
        let answer = connection.call(SaslAuthenticateRequest::default().with_auth_bytes(credentials)).await?;
        accepted("let the operator in", answer.error_code, answer.error_message.as_ref())?;
        Ok(connection)
    }

    /// One request and its answer, in the newest version both sides know.
    pub async fn call<R: Request>(&mut self, request: R) -> Result<R::Response, KafkaError> {
        let version = self.version::<R>()?;
        self.correlation = self.correlation.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(CLIENT));
        let mut body = BytesMut::new();
        header
            .encode(&mut body, R::header_version(version))
            .and_then(|()| request.encode(&mut body, version))
            .map_err(|error| self.unreadable(format!("the request cannot be written: {error}")))?;
        let exchange = timeout(TIMEOUT, exchange(&mut self.stream, &body)).await;
        let mut answer = match exchange {
            Err(_) => {
                let what = std::any::type_name::<R>().rsplit("::").next().unwrap_or_default();
                return Err(KafkaError::TimedOut { address: self.address.clone(), what });
            }
            Ok(Err(source)) => {
                return Err(KafkaError::Unreachable { address: self.address.clone(), source });
            }
            Ok(Ok(answer)) => answer,
        };
        let header = ResponseHeader::decode(&mut answer, R::Response::header_version(version));
        let header = header.map_err(|error| self.unreadable(error.to_string()))?;
        if header.correlation_id != self.correlation {
            return Err(self.unreadable("it answered another request".into()));
        }
        R::Response::decode(&mut answer, version).map_err(|error| self.unreadable(error.to_string()))
    }

    fn version<R: Request>(&self) -> Result<i16, KafkaError> {
        let known = R::VERSIONS;
        let both = self.versions.get(&R::KEY).map(|(min, max)| (*min.max(&known.min), *max.min(&known.max)));
        both.filter(|(min, max)| min <= max)
            .map(|(_, max)| max)
            .ok_or_else(|| self.unreadable(format!("it takes no version of API {} in common", R::KEY)))
    }

    fn unreadable(&self, problem: String) -> KafkaError {
        KafkaError::Unreadable { address: self.address.clone(), problem }
    }
}

/// Connects, which shows that something listens.
pub async fn connect(address: &str) -> Result<TcpStream, KafkaError> {
    let late = |_| KafkaError::TimedOut { address: address.to_owned(), what: "a connection" };
    let connected = timeout(TIMEOUT, TcpStream::connect(address)).await.map_err(late)?;
    connected.map_err(|source| KafkaError::Unreachable { address: address.to_owned(), source })
}

/// Writes one frame, reads one.
async fn exchange(stream: &mut TcpStream, body: &[u8]) -> std::io::Result<Bytes> {
    let invalid = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_owned());
    let length = u32::try_from(body.len()).map_err(|_| invalid("the request is too large"))?;
    let mut frame = BytesMut::with_capacity(body.len() + 4);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(body);
    stream.write_all(&frame).await?;
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let length = (&length[..]).get_u32() as usize;
    if length > MAX_ANSWER {
        return Err(invalid("the answer is too large"));
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await?;
    Ok(answer.into())
}
