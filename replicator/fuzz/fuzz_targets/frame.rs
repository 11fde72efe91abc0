//! Any bytes as a frame: refused, or a frame that stays the same on the way out and in again.
#![no_main]

use drqm_replicator_fuzz::{decode, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(frame) = decode(bytes) {
        assert_eq!(decode(&encode(frame.clone())), Some(frame));
    }
});
