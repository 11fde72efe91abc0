//! Any sequence of frames, true, spoiled and made up, with role changes, restarts, requests and time between them:
//! neither engine panics, spins, or leaves anything over.
#![no_main]

use drqm_replicator_fuzz::{Input, Pair};
use libfuzzer_sys::fuzz_target;

/// Things that happen in one life.
const LIFE: usize = 200;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let mut pair = Pair::new();
    if !input.byte().is_multiple_of(4) {
        pair.begin();
    }
    for _ in 0..LIFE {
        if input.is_empty() {
            break;
        }
        pair.obey(&mut input);
    }
});
