//! The shared replication port and the additional ones of single pairs.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Mutex, PoisonError};

use tokio_util::sync::{CancellationToken, DropGuard};

use crate::peer::listen::Acceptor;
use crate::runtime::Shard;

/// Why a pair cannot have its port.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PortError {
    #[error(
        "spec.replication.port: {0} is the replicator's own control or metrics port; choose another"
    )]
    Reserved(u16),
    #[error("spec.replication.port: {port} cannot be listened on: {source}; choose another")]
    Taken { port: u16, source: std::io::Error },
    #[error(
        "spec.replication.port: {other} on this node is reached by the same name and port; give one of them another port"
    )]
    NameTaken { other: String },
}

/// Listeners by port.
pub(crate) struct Ports {
    shared: SocketAddr,
    reserved: [u16; 2],
    acceptor: Acceptor,
    listening: Mutex<HashMap<u16, DropGuard>>,
}

impl Ports {
    pub(crate) fn new(shared: SocketAddr, reserved: [u16; 2], acceptor: Acceptor) -> Self {
        Self {
            shared,
            reserved,
            acceptor,
            listening: Mutex::default(),
        }
    }

    pub(crate) async fn listen_shared(&self, shard: &Shard) -> Result<(), PortError> {
        self.listen(self.shared, shard).await
    }

    /// Makes sure that somebody listens on the port.
    pub(crate) async fn need(
        &self,
        port: u16,
        local: Option<IpAddr>,
        shard: &Shard,
    ) -> Result<(), PortError> {
        if self.reserved.contains(&port) {
            return Err(PortError::Reserved(port));
        }
        if self.lock().contains_key(&port) {
            return Ok(());
        }
        self.listen(
            SocketAddr::new(local.unwrap_or(self.shared.ip()), port),
            shard,
        )
        .await
    }

    /// Ends listeners that no pair needs any more; the shared one stays.
    pub(crate) fn keep_only(&self, used: &BTreeSet<u16>) {
        let shared = self.shared.port();
        self.lock()
            .retain(|port, _| *port == shared || used.contains(port));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u16, DropGuard>> {
        self.listening
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn listen(&self, address: SocketAddr, shard: &Shard) -> Result<(), PortError> {
        let taken = |source| PortError::Taken {
            port: address.port(),
            source,
        };
        let listener = TcpListener::bind(address).map_err(taken)?;
        listener.set_nonblocking(true).map_err(taken)?;
        let stop = CancellationToken::new();
        self.lock()
            .insert(address.port(), stop.clone().drop_guard());
        let listening = self.acceptor.listen(listener);
        shard
            .run(async move {
                stop.run_until_cancelled_owned(listening).await;
            })
            .await;
        Ok(())
    }
}
