//! A peer that lies: frames are changed, repeated, left out or made up on their way, within what the
//! decoder lets through. Nobody can keep promises with such a peer; but no lie may end the process, or
//! make it spin, and every session that breaks the protocol ends.
//!
//! Does not live here: what the decoder refuses (the shell's tests).

use bytes::Bytes;
use drqm_engine::command::Refusal;
use drqm_engine::compare::{Decision, Disk, Extent, LogRange, Mismatch, Parted};
use drqm_engine::frame::{Frame, Payload, PeerReport, PrimaryClock, WireWrite};
use drqm_engine::ids::{Epoch, NodeId, Position, ResyncId, RunId, Seq, VolumeId};
use drqm_engine::report::Data;
use drqm_engine::role::Role;
use drqm_engine::settings::{CHUNK_SHIFT, Mode};
use drqm_engine::time::Wall;

use crate::campaign::quietly;
use crate::random::{Script, suffer};
use crate::rng::Rng;
use crate::world::{Config, World};

/// What comes instead of a frame.
pub(crate) fn lie(rng: &mut Rng, frame: Frame, size: u64) -> Vec<Frame> {
    match rng.below(10) {
        0 => vec![],
        1 => vec![frame.clone(), frame],
        2..=3 => vec![made_up(rng, size)],
        4 => vec![frame, made_up(rng, size)],
        _ => vec![changed(rng, frame, size)],
    }
}

fn number(rng: &mut Rng) -> u64 {
    let bases = [
        0,
        1,
        2,
        1 << 16,
        (1 << 63) - 1,
        1 << 63,
        u64::MAX - 1,
        u64::MAX,
    ];
    match rng.below(3) {
        0 => bases[rng.below(8) as usize],
        1 => rng.below(400),
        _ => rng.next(),
    }
}

fn near(rng: &mut Rng, seq: Seq) -> Seq {
    match rng.below(3) {
        0 => Seq(seq.0.wrapping_add(rng.below(5)).wrapping_sub(2)),
        1 => Seq(number(rng)),
        _ => seq,
    }
}

fn pick<T: Copy>(rng: &mut Rng, all: &[T]) -> T {
    all[rng.below(all.len() as u64) as usize]
}

fn lineage(rng: &mut Rng) -> Vec<Epoch> {
    (0..rng.below(18))
        .map(|_| Epoch(u128::from(rng.below(6))))
        .collect()
}

fn position(rng: &mut Rng) -> Position {
    Position {
        epoch: Epoch(u128::from(rng.below(6))),
        run: RunId(u128::from(rng.below(4))),
        seq: Seq(number(rng)),
        wall: Wall(number(rng) as i64),
    }
}

fn clock(rng: &mut Rng) -> PrimaryClock {
    PrimaryClock {
        wall: Wall(number(rng) as i64),
        last_seq: Seq(number(rng)),
        completed_bytes: number(rng),
    }
}

fn report(rng: &mut Rng) -> PeerReport {
    PeerReport {
        role: pick(rng, &[Role::Primary, Role::Secondary]),
        data: pick(
            rng,
            &[Data::UpToDate, Data::Behind, Data::Failed, Data::Diverged],
        ),
        epoch: Epoch(u128::from(rng.below(6))),
        sealed: rng.chance(50),
        mode: pick(
            rng,
            &[
                Mode::Asynchronous,
                Mode::Synchronous,
                Mode::FlushSynchronous,
            ],
        ),
    }
}

fn write(rng: &mut Rng, size: u64) -> WireWrite {
    let seq = number(rng).max(1);
    let sectors = size / 512;
    let first = rng.below(sectors);
    let len = rng.between(1, (sectors - first).min(200)) * 512;
    let offset = first * 512;
    let payload = match rng.below(3) {
        0 => Payload::FlushMark,
        1 => Payload::Zero { offset, len },
        _ => Payload::Data {
            offset,
            data: Bytes::from(vec![7; len as usize]),
        },
    };
    WireWrite {
        seq: Seq(seq),
        dep_seq: Seq(rng.below(seq)),
        dep_flush: Seq(rng.below(seq)),
        fua: rng.chance(20),
        resync: rng.chance(20),
        payload,
    }
}

fn runs(rng: &mut Rng, size: u64) -> Vec<(u64, u64)> {
    let chunks = size.div_ceil(1 << CHUNK_SHIFT);
    let first = rng.below(chunks);
    vec![(first, rng.between(1, chunks - first))]
}

fn decision(rng: &mut Rng) -> Decision {
    let extent = pick(rng, &[Extent::Log, Extent::Bitmap, Extent::Full]);
    pick(
        rng,
        &[
            Decision::InSync,
            Decision::AwaitFirstPrimary,
            Decision::Source(extent),
            Decision::Target(extent),
            Decision::Superseded,
            Decision::Superseding,
            Decision::Partitioned(Parted::Tail),
            Decision::Refused(Mismatch::Size),
        ],
    )
}

fn made_up(rng: &mut Rng, size: u64) -> Frame {
    let epoch = Epoch(u128::from(rng.below(6)));
    let id = ResyncId(u128::from(rng.below(4)));
    match rng.below(23) {
        0 => Frame::Decision(decision(rng)),
        1 => Frame::Bitmap {
            runs: runs(rng, size),
            union: rng.chance(50),
        },
        2 => Frame::BitmapStored,
        3 => Frame::LeftBehind,
        4 => Frame::Writes {
            writes: (0..rng.below(4)).map(|_| write(rng, size)).collect(),
            clock: clock(rng),
        },
        5 => Frame::ResyncBegin {
            id,
            total_chunks: number(rng),
        },
        6 => Frame::ResyncReady { id },
        7 => Frame::ResyncComplete {
            id,
            lineage: lineage(rng),
            seq: Seq(number(rng)),
            volume: VolumeId(u128::from(rng.below(3))),
        },
        8 => Frame::ResyncAdopted { id },
        9 => Frame::Ack {
            applied: Seq(number(rng)),
            durable: Seq(number(rng)),
        },
        10 => Frame::Ping {
            nonce: number(rng),
            clock: clock(rng),
            report: report(rng),
            sync_done_chunks: number(rng),
        },
        11 => Frame::Pong {
            nonce: number(rng),
            report: report(rng),
        },
        12 => Frame::PromoteRequest { epoch },
        13 => Frame::PromoteAnswer {
            epoch,
            refusal: rng.chance(50).then_some(Refusal::Busy),
        },
        14 => Frame::PromoteConfirm {
            epoch,
            run: RunId(u128::from(rng.below(4))),
        },
        15 => Frame::PromoteAdopted { epoch },
        19 => Frame::Capacity(number(rng)),
        20 => Frame::Grow(number(rng)),
        21 => Frame::Grown(number(rng)),
        22 => Frame::Compared,
        16 => Frame::Hashes {
            after: Seq(number(rng)),
            offset: number(rng),
            len: number(rng),
            key: id,
            hashes: vec![0; 16 * rng.below(5) as usize].into(),
        },
        17 => Frame::Differs {
            key: id,
            offset: rng.below(size) & !0xffff,
            blocks: runs(rng, size),
        },
        _ => Frame::Report(report(rng)),
    }
}

/// The same kind of frame, with other content.
fn changed(rng: &mut Rng, frame: Frame, size: u64) -> Frame {
    match frame {
        Frame::State(mut facts) => {
            match rng.below(14) {
                0 => facts.lineage = lineage(rng),
                1 => facts.base_index = number(rng) as u32,
                2 => facts.dirty = number(rng),
                3 => facts.dirty_after = number(rng),
                4 => facts.role = pick(rng, &[Role::Primary, Role::Secondary]),
                5 => facts.disk = pick(rng, &[Disk::Empty, Disk::Consistent, Disk::Inconsistent]),
                6 => facts.full_dirty ^= true,
                7 => facts.crashed_primary ^= true,
                8 => facts.tail = Some(position(rng)),
                9 => facts.fork = Some(position(rng)),
                10 => {
                    facts.position = facts.position.map(|p| Position {
                        seq: near(rng, p.seq),
                        ..p
                    })
                }
                11 => {
                    facts.log = Some(LogRange {
                        from: Seq(number(rng)),
                        last: Seq(number(rng)),
                        is_empty: rng.chance(50),
                    });
                }
                12 => facts.node = NodeId(u128::from(rng.below(3))),
                _ => facts.adopted = ResyncId(u128::from(rng.below(4))),
            }
            Frame::State(facts)
        }
        Frame::Decision(_) => Frame::Decision(decision(rng)),
        Frame::Bitmap { union, .. } => Frame::Bitmap {
            runs: runs(rng, size),
            union,
        },
        Frame::Writes {
            mut writes,
            clock: told,
        } => {
            for w in &mut writes {
                let seq = near(rng, w.seq).max(Seq(1));
                (w.seq, w.dep_seq) = (seq, w.dep_seq.min(Seq(seq.0 - 1)));
            }
            let clock = if rng.chance(50) { clock(rng) } else { told };
            Frame::Writes { writes, clock }
        }
        Frame::ResyncComplete {
            id,
            lineage,
            seq,
            volume,
        } => Frame::ResyncComplete {
            id,
            lineage,
            seq: near(rng, seq),
            volume,
        },
        Frame::Ack { applied, durable } => Frame::Ack {
            applied: near(rng, applied),
            durable: near(rng, durable),
        },
        Frame::Ping {
            nonce,
            report,
            sync_done_chunks,
            ..
        } => Frame::Ping {
            nonce,
            clock: clock(rng),
            report,
            sync_done_chunks,
        },
        Frame::ResyncBegin { id, .. } => Frame::ResyncBegin {
            id,
            total_chunks: number(rng),
        },
        Frame::Hashes {
            after,
            offset,
            len,
            key,
            hashes,
        } => Frame::Hashes {
            after: near(rng, after),
            offset: [offset, number(rng)][rng.below(2) as usize],
            len: [len, number(rng)][rng.below(2) as usize],
            key,
            hashes,
        },
        Frame::Differs { key, offset, .. } => Frame::Differs {
            key,
            offset: [offset, number(rng)][rng.below(2) as usize],
            blocks: runs(rng, size),
        },
        Frame::Capacity(_) => Frame::Capacity(number(rng)),
        Frame::Grow(_) => Frame::Grow(number(rng)),
        Frame::Grown(_) => Frame::Grown(number(rng)),
        frame @ (Frame::BitmapStored
        | Frame::LeftBehind
        | Frame::Compared
        | Frame::ResyncReady { .. }
        | Frame::ResyncAdopted { .. }
        | Frame::Pong { .. }
        | Frame::PromoteRequest { .. }
        | Frame::PromoteAnswer { .. }
        | Frame::PromoteConfirm { .. }
        | Frame::PromoteAdopted { .. }
        | Frame::PromoteCancel { .. }
        | Frame::Report(_)
        | Frame::Bye { .. }) => frame,
    }
}

#[test]
fn no_lie_ends_the_process_or_makes_it_spin() {
    let count = crate::number("DRQM_SIM_LIES", 400);
    let first = crate::number("DRQM_SIM_SEED", 1);
    let mut lies = 0;
    for seed in first..first + count {
        let script = Script::of(seed);
        let lived = quietly(|| {
            let mut rng = Rng::new(seed);
            let config = Config {
                lies: [1, 4, 15][rng.below(3) as usize],
                log_bytes: [0, 64 << 20][rng.below(2) as usize],
                ..Config::plain(Mode::Synchronous)
            };
            let mut world = World::new(config, seed);
            suffer(&mut world, &mut rng, &script.incidents);
            world.lies
        });
        match lived {
            Ok(told) => lies += told,
            Err(why) => panic!("life {seed}: {why}"),
        }
    }
    assert!(lies > count, "{lies} lies in {count} lives");
}
