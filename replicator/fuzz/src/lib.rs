//! What the fuzz targets share: the replicator's own decoder and NBD handshake (the same source files, not
//! copies), and a pair of engines whose wires the fuzzer holds.

#[allow(dead_code, reason = "the replicator uses the rest")]
#[path = "../../src/peer/codec.rs"]
mod codec;
mod convert;
pub mod frontend;
mod input;
mod pair;

use drqm_engine::frame::Frame;
use prost::Message as _;

pub use input::Input;
pub use pair::{Pair, open, settings};

/// A frame, if the bytes are one that a session would take.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<Frame> {
    let frame = drqm_rpc::peer::v1::Frame::decode(bytes).ok()?;
    codec::decode(frame).ok()
}

/// A frame's bytes.
#[must_use]
pub fn encode(frame: Frame) -> Vec<u8> {
    codec::encode(frame).encode_to_vec()
}
