//! Metadata with any blocks changed, sealed again or not: refused, or an engine that can begin.
#![no_main]

use drqm_engine::Engine;
use drqm_engine::command::Identity;
use drqm_engine::ids::{NodeId, VolumeId};
use drqm_replicator_fuzz::{Input, open};
use libfuzzer_sys::fuzz_target;

const SIZE: u64 = 40 << 16;
const BLOCK: usize = 4096;

/// Blocks of every kind: label, superblocks, positions, activity log, bitmap.
const BLOCKS: [usize; 12] = [0, 1, 2, 8, 9, 16, 32, 95, 128, 132, 380, 512];

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let identity = Identity {
        node: NodeId(1),
        volume: VolumeId(2),
        size: SIZE,
    };
    let mut meta = vec![0; Engine::metadata_len(SIZE) as usize];
    for (offset, block) in Engine::format(&identity) {
        meta[offset as usize..][..block.len()].copy_from_slice(&block);
    }
    let template = meta[BLOCK..2 * BLOCK].to_vec();
    while !input.is_empty() {
        let choice = input.byte();
        let number = BLOCKS[usize::from(choice) % BLOCKS.len()];
        let block = &mut meta[number * BLOCK..][..BLOCK];
        if block[0] == 0 {
            block[..64].copy_from_slice(&template[..64]);
            block[32..40].copy_from_slice(&(number as u64).to_le_bytes());
            block[8] = match number {
                ..=16 => 2,
                17..=95 => 3,
                96..=511 => 4,
                _ => 5,
            };
        }
        let (at, len) = (usize::from(input.word()) % BLOCK, input.byte() % 32);
        let content = input.bytes(len.into());
        let end = (at + content.len()).min(BLOCK);
        block[at..end].copy_from_slice(&content[..end - at]);
        if choice < 224 {
            block[12..16].fill(0);
            let sum = crc32c::crc32c(block);
            block[12..16].copy_from_slice(&sum.to_le_bytes());
        }
    }
    if let Some(engine) = open(&meta) {
        let _ = engine.report();
    }
});
