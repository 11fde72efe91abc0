//! The replicator's NBD handshake, and what it names.

#[path = "../../../src/frontend/nbd/negotiate.rs"]
mod negotiate;

use tokio::net::UnixStream;

const MAX_WRITE: usize = 1 << 20;

/// As the replicator's.
#[derive(Clone, Debug)]
pub struct Export {
    /// What clients call it.
    pub name: String,
    /// Bytes.
    pub size: u64,
}

/// The replicator's.
///
/// # Errors
/// When the client does not keep to the protocol, or goes away.
pub async fn negotiate(stream: &mut UnixStream, export: &Export) -> std::io::Result<bool> {
    negotiate::negotiate(stream, export).await
}
