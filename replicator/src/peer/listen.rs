//! Accepting: one port for all pairs (and additional ones), routed by the name in the TLS
//! ClientHello to the pair's keys, then to the pair's link.
//!
//! Guarantee: a stream reaches a link only after its certificate was checked against that pair's CA
//! and name. Garbage costs one connection and a counter.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use drqm_rpc::peer::v1 as pb;
use futures::{Stream, StreamExt};
use pb::replication_server::{Replication, ReplicationServer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use super::connect::{HTTP2_FRAME, HTTP2_KEEPALIVE, buffered, prepare};
use super::link::Inbound;
use super::session::{Outbound, Wire, outgoing};
use super::tls::{PairKeys, Shown, carries_name, shown, unknown_pair};
use super::{Security, chain};
use crate::accepted::Accepted;

/// TLS of an accepted connection.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// Connections in their handshake at once; more wait in the kernel's queue.
const HANDSHAKES: usize = 64;

/// Connections on their way to the HTTP/2 server.
const HANDOVER: usize = 16;

/// Where a connection goes.
#[derive(Clone)]
struct Route {
    keys: Option<Arc<PairKeys>>,
    link: mpsc::Sender<Inbound>,
}

/// Pairs by port and server name.
#[derive(Clone, Default)]
pub(crate) struct Routes(Arc<Mutex<HashMap<(u16, String), Route>>>);

/// Another volume of this node is reached by the same name and port.
#[derive(Debug)]
pub(crate) struct NameTaken;

impl Routes {
    /// Routes a pair's connections to its link; replaces the link's earlier route.
    pub(crate) fn set(
        &self,
        port: u16,
        security: &Security,
        link: &mpsc::Sender<Inbound>,
    ) -> Result<(), NameTaken> {
        let mut routes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (name, keys) = match security {
            Security::None => {
                routes.retain(|_, r| !r.link.same_channel(link));
                return Ok(());
            }
            Security::Tls(keys) => (keys.name.to_str().to_ascii_lowercase(), Some(keys.clone())),
            #[cfg(feature = "measure")]
            Security::Plain => (String::new(), None),
        };
        let key = (port, name);
        if routes.get(&key).is_some_and(|r| !r.link.same_channel(link)) {
            return Err(NameTaken);
        }
        routes.retain(|_, r| !r.link.same_channel(link));
        routes.insert(
            key,
            Route {
                keys,
                link: link.clone(),
            },
        );
        Ok(())
    }

    /// Forgets a link.
    pub(crate) fn remove(&self, link: &mpsc::Sender<Inbound>) {
        let mut routes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        routes.retain(|_, r| !r.link.same_channel(link));
    }

    fn find(&self, port: u16, name: &str) -> Option<Route> {
        let routes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        routes.get(&(port, name.to_ascii_lowercase())).cloned()
    }
}

/// The HTTP/2 server behind all listeners.
pub(crate) struct Acceptor {
    routes: Routes,
    ready: mpsc::Sender<io::Result<Accepted<Info>>>,
}

impl Acceptor {
    /// The acceptor and the server's task.
    pub(crate) fn new(routes: Routes) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (ready, connections) = mpsc::channel(HANDOVER);
        let service = ReplicationServer::new(Service)
            .max_decoding_message_size(drqm_rpc::MAX_FRAME_BYTES)
            .max_encoding_message_size(drqm_rpc::MAX_FRAME_BYTES);
        let server = Server::builder()
            .initial_stream_window_size(drqm_rpc::STREAM_WINDOW)
            .initial_connection_window_size(drqm_rpc::CONNECTION_WINDOW)
            .max_frame_size(HTTP2_FRAME)
            .max_concurrent_streams(2)
            .http2_keepalive_interval(Some(HTTP2_KEEPALIVE))
            .http2_keepalive_timeout(Some(HTTP2_KEEPALIVE))
            .add_service(service)
            .serve_with_incoming(tokio_stream::wrappers::ReceiverStream::new(connections));
        let task = async move {
            if let Err(error) = server.await {
                tracing::error!(error = chain(&error), "the peer server ended");
            }
        };
        (Self { routes, ready }, task)
    }

    /// Accepts connections of one listener (in non-blocking mode) until dropped.
    pub(crate) fn listen(
        &self,
        listener: std::net::TcpListener,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (routes, ready) = (self.routes.clone(), self.ready.clone());
        async move {
            let listener = match TcpListener::from_std(listener) {
                Ok(listener) => listener,
                Err(error) => {
                    tracing::error!(%error, "the listener cannot be used");
                    return;
                }
            };
            let port = listener.local_addr().map_or(0, |a| a.port());
            let mut handshakes = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept(), if handshakes.len() < HANDSHAKES => match accepted {
                        Ok((tcp, remote)) => {
                            let (routes, ready) = (routes.clone(), ready.clone());
                            handshakes.spawn(handshake(tcp, remote, port, routes, ready));
                        }
                        Err(error) => {
                            tracing::warn!(%error, "accept failed");
                            pause_after_failure().await;
                        }
                    },
                    Some(_) = handshakes.join_next() => {}
                }
            }
        }
    }
}

async fn handshake(
    tcp: TcpStream,
    remote: SocketAddr,
    port: u16,
    routes: Routes,
    ready: mpsc::Sender<io::Result<Accepted<Info>>>,
) {
    match timeout(HANDSHAKE_LIMIT, secure(tcp, remote, port, &routes)).await {
        Ok(Ok(io)) => {
            let _ = ready.send(Ok(io)).await;
        }
        Ok(Err(error)) => {
            crate::metrics::METRICS.rejected_connections.inc();
            tracing::info!(%remote, %error, "connection refused");
        }
        Err(_) => {
            crate::metrics::METRICS.rejected_connections.inc();
            tracing::info!(%remote, "no TLS handshake in time");
        }
    }
}

async fn secure(
    tcp: TcpStream,
    remote: SocketAddr,
    port: u16,
    routes: &Routes,
) -> io::Result<Accepted<Info>> {
    prepare(&tcp)?;
    if let Some(route) = routes.find(port, "").filter(|r| r.keys.is_none()) {
        return Ok(Accepted::new(
            buffered(tcp),
            Info {
                remote,
                link: route.link,
                keys: None,
                shown: Shown::new(),
            },
        ));
    }
    let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), tcp).await?;
    let name = start
        .client_hello()
        .server_name()
        .unwrap_or_default()
        .to_owned();
    let route = routes.find(port, &name);
    let Some((keys, link)) = route.and_then(|r| Some((r.keys?, r.link))) else {
        // Fails by its nature, and tells the dialler why.
        let _ = start.into_stream(Arc::new(unknown_pair())).await;
        return Err(io::Error::other(format!(
            "no pair of this node is called {name:?}"
        )));
    };
    match start.into_stream(keys.server.clone()).await {
        Ok(stream) => {
            let shown = shown(stream.get_ref().1);
            let named = shown.first().ok_or_else(|| "no certificate".to_owned());
            match named.and_then(|leaf| carries_name(leaf, &keys.name)) {
                Ok(()) => {
                    let keys = Some(keys);
                    let info = Info {
                        remote,
                        link,
                        keys,
                        shown,
                    };
                    Ok(Accepted::new(buffered(stream), info))
                }
                Err(text) => Err(reject(&link, &text)),
            }
        }
        Err(error) if super::is_tls(&error) => Err(reject(&link, &chain(&error))),
        Err(error) => Err(error),
    }
}

fn reject(link: &mpsc::Sender<Inbound>, text: &str) -> io::Error {
    // A full queue has told the link enough.
    let _ = link.try_send(Inbound::AuthFailed(text.to_owned()));
    io::Error::other(text.to_owned())
}

/// Where a connection came from and belongs.
#[derive(Clone)]
struct Info {
    remote: SocketAddr,
    link: mpsc::Sender<Inbound>,
    /// What its TLS was checked with.
    keys: Option<Arc<PairKeys>>,
    shown: Shown,
}

struct Service;

#[tonic::async_trait]
impl Replication for Service {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<pb::Frame, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<pb::Frame>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let info = request.extensions().get::<Info>().cloned();
        let Some(info) = info else {
            return Err(Status::internal("connection without a route"));
        };
        let (queue, stream) = outgoing();
        let wire = Wire {
            inbound: request.into_inner(),
            outbound: Outbound::new(queue),
            remote: info.remote.to_string(),
            shown: info.shown,
            _channel: None,
        };
        // A full queue means that the link is flooded with connections; the dialler tries again.
        let (wire, keys) = (Box::new(wire), info.keys);
        let handed = info.link.try_send(Inbound::Stream { wire, keys });
        handed.map_err(|_| Status::unavailable("too many connections of this pair"))?;
        Ok(Response::new(Box::pin(stream.map(Ok))))
    }
}

/// Out of descriptors: the next try must not spin.
async fn pause_after_failure() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}
