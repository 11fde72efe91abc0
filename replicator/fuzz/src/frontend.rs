//! As much of the replicator's module as the handshake needs.

pub mod nbd;

const SECTOR: u64 = 512;
