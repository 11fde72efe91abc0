//! The wire of drqm: generated types and services of the control and peer protocols.
//!
//! Lives here: generated code (checked in; `cargo gen` writes it), limits and keepalive constants
//! that both ends of a connection must agree on. Does not live here: sockets, conversion to the
//! engine's types, decisions.

#![expect(
    missing_docs,
    reason = "generated code takes its documentation from the .proto comments"
)]

use std::time::Duration;

/// Control protocol, operator to replicator.
pub mod control {
    /// First version.
    pub mod v1 {
        #![allow(
            clippy::all,
            clippy::wildcard_enum_match_arm,
            unreachable_pub,
            reason = "generated"
        )]
        include!("generated/drqm.control.v1.rs");
    }
}

/// Peer protocol, replicator to replicator.
pub mod peer {
    /// First version.
    pub mod v1 {
        #![allow(
            clippy::all,
            clippy::wildcard_enum_match_arm,
            unreachable_pub,
            reason = "generated"
        )]
        include!("generated/drqm.peer.v1.rs");
    }
}

pub mod refusal;

/// Oldest peer protocol this build speaks.
pub const PEER_PROTOCOL_MIN: u32 = 1;

/// Newest peer protocol this build speaks.
pub const PEER_PROTOCOL_MAX: u32 = 1;

/// Largest peer frame, bytes: one 1 MiB write, or a batch, plus its headers.
pub const MAX_FRAME_BYTES: usize = (1 << 20) + (64 << 10);

/// HTTP/2 stream window of the peer stream, bytes: wider than what the engine lets be on its way (64 MiB of writes, 8 MiB of
/// a copy, what frames add), so that the engine's windows alone decide, at any distance. They bound the memory too.
pub const STREAM_WINDOW: u32 = 80 << 20;

/// HTTP/2 connection window of the peer connection, bytes: more than its one stream may hold.
pub const CONNECTION_WINDOW: u32 = STREAM_WINDOW + (1 << 20);

/// HTTP/2 keepalive of control connections: a dead node is noticed without a call under way.
pub const CONTROL_KEEPALIVE: Duration = Duration::from_secs(10);
