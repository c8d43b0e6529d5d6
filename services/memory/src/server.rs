//! The engine behind its two ports.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use soma_platform::auth::ApiToken;
use soma_platform::http;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;

use crate::api::{self, Api};
use crate::{Memory, grpc};

/// How a pod that leaves a Service gets no new requests: it says "not ready" for this long before it stops accepting.
const LEAVE: Duration = Duration::from_millis(500);
/// A gRPC call must be answered within this time.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Where to listen, and for whom.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// HTTP; port 0 picks a free one.
    pub http: SocketAddr,
    /// gRPC; port 0 picks a free one.
    pub grpc: SocketAddr,
    /// What every request must carry.
    pub token: ApiToken,
}

/// Why the service cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken or not allowed.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The reason.
        source: io::Error,
    },
    /// The gRPC descriptors are not valid.
    #[error("cannot describe the gRPC services")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The gRPC listener failed.
    #[error("the gRPC server failed")]
    Grpc(#[from] tonic::transport::Error),
}

/// Both ports, open; requests wait until [`Server::run`].
pub struct Server {
    memory: Memory,
    token: ApiToken,
    http: TcpListener,
    grpc: TcpListener,
    /// The HTTP address in use.
    pub http_address: SocketAddr,
    /// The gRPC address in use.
    pub grpc_address: SocketAddr,
}

impl Server {
    /// Opens both ports.
    pub async fn bind(memory: Memory, options: ServeOptions) -> Result<Self, Error> {
        let (http, http_address) = listen(options.http).await?;
        let (grpc, grpc_address) = listen(options.grpc).await?;
        Ok(Self { memory, token: options.token, http, grpc, http_address, grpc_address })
    }

    /// Serves until `shutdown`; then `/readyz` says so, requests in flight end, and the engine is closed.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let Self { memory, token, http, grpc, http_address, grpc_address } = self;
        tracing::info!(http = %http_address, grpc = %grpc_address, "serving");
        let services = grpc::routes(&memory, &token).await?;
        let api = Api { memory: memory.clone(), draining: shutdown.clone() };
        let stop = CancellationToken::new();
        let leave = async {
            shutdown.cancelled().await;
            tracing::info!("stopping");
            tokio::time::sleep(LEAVE).await;
            stop.cancel();
        };
        // A call that never ends, such as a health watch, must not hold up the stop.
        let drained = async {
            stop.cancelled().await;
            tokio::time::sleep(http::DRAIN_TIMEOUT).await;
        };
        let calls = tonic::transport::Server::builder()
            .timeout(CALL_TIMEOUT)
            .http2_keepalive_interval(Some(Duration::from_secs(30)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .max_concurrent_streams(256)
            .add_routes(services)
            .serve_with_incoming_shutdown(TcpListenerStream::new(grpc), stop.clone().cancelled_owned());
        let requests = http::serve(http, api::router(api, token), stop.clone());
        // If gRPC ends early, say so instead of serving half; otherwise this ends with the shutdown.
        let (served, (), ()) = tokio::join!(
            async {
                let served = tokio::select! {
                    served = calls => served,
                    () = drained => Ok(()),
                };
                shutdown.cancel();
                served
            },
            requests,
            leave
        );
        memory.close().await;
        served?;
        Ok(())
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let refuse = |source| Error::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(refuse)?;
    let actual = listener.local_addr().map_err(refuse)?;
    Ok((listener, actual))
}
