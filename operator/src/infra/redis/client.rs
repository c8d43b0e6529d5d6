//! Calls to one Redis server.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, IntoConnectionInfo, RedisConnectionInfo, RedisError,
    ServerErrorKind,
};

use super::seen::{self, Member};

/// Longest time to connect.
const CONNECT: Duration = Duration::from_secs(2);
/// Longest time for an answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Why Redis does not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("it has no address yet")]
    Nowhere,
    #[error("it does not answer")]
    Silent(#[source] RedisError),
    #[error("it loads its data")]
    Loading,
    #[error("it does not take the user and password")]
    Login(#[source] RedisError),
    #[error("it refuses `{call}`")]
    Refused { call: String, source: RedisError },
    #[error(
        "it answers `{0}` in a way the operator does not know; set managed.image to a release it was tested with"
    )]
    Strange(&'static str),
}

/// A connection to one server.
pub struct Client(MultiplexedConnection);

impl Client {
    /// Connects and logs in.
    pub async fn login(
        address: (String, u16),
        username: Option<&str>,
        password: Option<&str>,
    ) -> Result<Self, ClientError> {
        let mut login = RedisConnectionInfo::default().set_skip_set_lib_name();
        if let Some(username) = username {
            login = login.set_username(username);
        }
        if let Some(password) = password {
            login = login.set_password(password);
        }
        let info = address.into_connection_info().map_err(ClientError::Silent)?.set_redis_settings(login);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(ANSWER));
        let client = redis::Client::open(info).map_err(ClientError::Silent)?;
        let connection = client.get_multiplexed_async_connection_with_config(&config).await;
        connection.map(Self).map_err(|error| match error.kind() {
            ErrorKind::AuthenticationFailed => ClientError::Login(error),
            _ => ClientError::Silent(error),
        })
    }

    /// What a member of a cluster says.
    pub async fn member(&mut self) -> Result<Member, ClientError> {
        let nodes: String = self.ask(&["CLUSTER", "NODES"]).await?;
        let cluster: String = self.ask(&["CLUSTER", "INFO"]).await?;
        let keys: u64 = self.ask(&["DBSIZE"]).await?;
        let info: String = self.ask(&["INFO"]).await?;
        let users: Vec<String> = self.ask(&["ACL", "LIST"]).await?;
        Member::read(&nodes, &cluster, keys, &info, &users).ok_or(ClientError::Strange("CLUSTER NODES"))
    }

    /// The version of a server that answers and has loaded its data.
    pub async fn version(&mut self) -> Result<String, ClientError> {
        self.tell(&["PING"]).await?;
        let info: String = self.ask(&["INFO", "server"]).await?;
        let version = seen::fields(&info).get("redis_version").map(|version| (*version).to_owned());
        version.ok_or(ClientError::Strange("INFO"))
    }

    /// Something to be done.
    pub async fn tell(&mut self, call: &[&str]) -> Result<(), ClientError> {
        self.ask::<redis::Value>(call).await.map(drop)
    }

    /// A question.
    pub async fn ask<T: redis::FromRedisValue>(&mut self, call: &[&str]) -> Result<T, ClientError> {
        let mut command = Cmd::new();
        command.arg(call);
        command.query_async(&mut self.0).await.map_err(|error: RedisError| match error.kind() {
            ErrorKind::Server(ServerErrorKind::BusyLoading) => ClientError::Loading,
            ErrorKind::Io => ClientError::Silent(error),
            _ => ClientError::Refused { call: call.join(" "), source: error },
        })
    }
}
