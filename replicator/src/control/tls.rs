//! Mutual TLS of the control port: the control CA, and only the operator's name.
//!
//! The files are read anew for every connection (there are few), so that rotated certificates are
//! taken without a restart; when they cannot be read the last good ones stay.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use rustls::ServerConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::accepted::Accepted;
use crate::peer::tls::{carries_name, roots, server_config};

/// Whose certificate is let in.
const OPERATOR: &str = "operator.control.drqm.io";

const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// Connections in their handshake, and on their way to the server.
const PENDING: usize = 8;

/// Reads the control channel's keys.
#[derive(Debug)]
pub(crate) struct Loader {
    dir: PathBuf,
    last_good: Arc<ServerConfig>,
}

/// Reads the keys for the first time.
pub(crate) fn load(dir: &Path) -> anyhow::Result<Loader> {
    Ok(Loader {
        dir: dir.to_owned(),
        last_good: read(dir)?,
    })
}

fn read(dir: &Path) -> anyhow::Result<Arc<ServerConfig>> {
    let file =
        |name: &str| std::fs::read(dir.join(name)).map_err(|e| anyhow::anyhow!("{name}: {e}"));
    let (ca, certificate, key) = (file("ca.crt")?, file("server.crt")?, file("server.key")?);
    Ok(Arc::new(server_config(roots(&ca)?, &certificate, &key)?))
}

impl Loader {
    fn current(&mut self) -> Arc<ServerConfig> {
        match read(&self.dir) {
            Ok(config) => self.last_good = config,
            Err(error) => tracing::warn!(%error, "control keys; the last good ones stay"),
        }
        self.last_good.clone()
    }
}

type Connection = io::Result<Accepted<()>>;

/// Connections that got through the handshake.
pub(crate) fn incoming(listener: TcpListener, loader: Loader) -> impl Stream<Item = Connection> {
    let state = Accepting {
        listener,
        loader,
        handshakes: JoinSet::new(),
    };
    futures::stream::unfold(state, |mut state| async {
        Some((state.next().await, state))
    })
}

struct Accepting {
    listener: TcpListener,
    loader: Loader,
    handshakes: JoinSet<Connection>,
}

impl Accepting {
    /// Cancel safe: handshakes go on in the set.
    async fn next(&mut self) -> Connection {
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if self.handshakes.len() < PENDING => {
                    let (tcp, _) = accepted?;
                    let acceptor = TlsAcceptor::from(self.loader.current());
                    self.handshakes.spawn(handshake(acceptor, tcp));
                }
                Some(ended) = self.handshakes.join_next() => match ended {
                    Ok(Ok(stream)) => return Ok(stream),
                    Ok(Err(error)) => tracing::warn!(%error, "control connection refused"),
                    Err(error) => tracing::error!(%error, "control handshake"),
                }
            }
        }
    }
}

async fn handshake(acceptor: TlsAcceptor, tcp: TcpStream) -> Connection {
    tcp.set_nodelay(true)?;
    let stream = timeout(HANDSHAKE_LIMIT, acceptor.accept(tcp)).await??;
    let name = ServerName::try_from(OPERATOR).map_err(io::Error::other)?;
    let certificates = stream.get_ref().1.peer_certificates();
    let leaf = certificates.and_then(<[_]>::first);
    let leaf = leaf.ok_or_else(|| io::Error::other("no certificate"))?;
    carries_name(leaf, &name).map_err(io::Error::other)?;
    Ok(Accepted::new(stream, ()))
}
