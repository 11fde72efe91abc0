use drqm_engine::command::Refusal;
use drqm_engine::compare::Disk;
use drqm_engine::report::Data;
use drqm_engine::role::Role;
use drqm_engine::settings::Mode;
use proptest::prelude::*;
use prost::Message as _;

use super::*;

const SIZE: u64 = 1 << 30;

fn full_facts() -> Facts {
    let place = |n| Position {
        epoch: Epoch(n),
        run: RunId(n + 1),
        seq: Seq(7),
        wall: Wall(-5),
    };
    Facts {
        capacity: 21 << 20,
        volume: VolumeId(1),
        node: NodeId(u128::MAX),
        size: SIZE,
        chunk_shift: 16,
        mode: Mode::Synchronous,
        queue_manager: "QM1".into(),
        role: Role::Primary,
        disk: Disk::Inconsistent,
        lineage: vec![Epoch(3), Epoch(2)],
        base_index: 1,
        full_dirty: true,
        grant: Some(Grant {
            epoch: Epoch(9),
            to: NodeId(8),
        }),
        crashed_primary: true,
        dirty: 11,
        dirty_after: 12,
        role_epoch: Epoch(2),
        tail: Some(place(3)),
        fork: Some(place(5)),
        completion_sent: Some(SentCompletion {
            id: ResyncId(4),
            epoch: Epoch(3),
        }),
        adopted: ResyncId(6),
        sealed: true,
        run: RunId(13),
        log: Some(LogRange {
            from: Seq(14),
            last: Seq(15),
            is_empty: true,
        }),
        position: Some(place(16)),
        given_up_for: Epoch(17),
        in_doubt: true,
        data: Data::Behind,
    }
}

fn report_of(data: Data) -> PeerReport {
    PeerReport {
        role: Role::Primary,
        data,
        epoch: Epoch(1),
        sealed: true,
        mode: Mode::Synchronous,
    }
}

fn wire_write(seq: u64, payload: Payload) -> WireWrite {
    let (dep_seq, dep_flush) = (Seq(seq - 1), Seq(0));
    WireWrite {
        seq: Seq(seq),
        dep_seq,
        dep_flush,
        fua: true,
        resync: false,
        payload,
    }
}

fn samples() -> Vec<Frame> {
    let clock = PrimaryClock {
        wall: Wall(1),
        last_seq: Seq(2),
        completed_bytes: 3,
    };
    let data = Bytes::from(vec![5; 4096]);
    let mut all = vec![
        Frame::State(Box::default()),
        Frame::State(Box::new(full_facts())),
        Frame::Bitmap {
            runs: vec![(0, 1), (5, 2), (7, 1), (16_383, 1)],
            union: true,
        },
        Frame::BitmapStored,
        Frame::LeftBehind,
        Frame::Capacity(7 << 30),
        Frame::Grow(6 << 30),
        Frame::Grown(5 << 30),
        Frame::Compared,
        Frame::Hashes {
            after: Seq(8),
            offset: SIZE - 8192,
            len: 8192,
            key: ResyncId(4),
            hashes: Bytes::from(vec![9; 32]),
        },
        Frame::Differs {
            key: ResyncId(4),
            offset: 65_536,
            blocks: vec![(0, 2), (47, 1)],
        },
        Frame::Writes {
            writes: vec![
                wire_write(
                    1,
                    Payload::Data {
                        offset: SIZE - 4096,
                        data,
                    },
                ),
                wire_write(
                    2,
                    Payload::Zero {
                        offset: 0,
                        len: SIZE,
                    },
                ),
                wire_write(3, Payload::FlushMark),
            ],
            clock,
        },
        Frame::ResyncBegin {
            id: ResyncId(1),
            total_chunks: 2,
        },
        Frame::ResyncReady { id: ResyncId(1) },
        Frame::ResyncComplete {
            id: ResyncId(1),
            lineage: vec![Epoch(4), Epoch(2)],
            seq: Seq(3),
            volume: VolumeId(1),
        },
        Frame::ResyncAdopted { id: ResyncId(1) },
        Frame::Ack {
            applied: Seq(2),
            durable: Seq(1),
        },
        Frame::Pong {
            nonce: 4,
            report: report_of(Data::Empty),
        },
        Frame::PromoteRequest { epoch: Epoch(1) },
        Frame::PromoteAnswer {
            epoch: Epoch(1),
            refusal: None,
        },
        Frame::PromoteConfirm {
            epoch: Epoch(1),
            run: RunId(2),
        },
        Frame::PromoteAdopted { epoch: Epoch(1) },
        Frame::PromoteCancel { epoch: Epoch(1) },
        Frame::Bye {
            text: "stopping".into(),
        },
    ];
    all.extend(
        words::data::all()
            .into_iter()
            .map(|d| Frame::Report(report_of(d))),
    );
    all.extend(words::decision::all().into_iter().map(Frame::Decision));
    let ping = |r| Frame::Ping {
        nonce: 4,
        clock,
        report: r,
        sync_done_chunks: 5,
    };
    all.push(ping(report_of(Data::Syncing)));
    let refused = [
        Refusal::PeerIsPrimary,
        Refusal::Busy,
        Refusal::SyncInProgress,
    ];
    let answer = |r| Frame::PromoteAnswer {
        epoch: Epoch(1),
        refusal: Some(r),
    };
    all.extend(refused.map(answer));
    all
}

#[test]
fn every_frame_comes_back_as_it_went() {
    for frame in samples() {
        let bytes = encode(frame.clone()).encode_to_vec();
        let decoded = decode(pb::Frame::decode(bytes.as_slice()).unwrap());
        assert_eq!(decoded, Ok(frame));
    }
}

#[test]
fn a_flipped_bit_of_the_payload_is_a_violation() {
    let data = Bytes::from(vec![5; 4096]);
    let writes = vec![wire_write(1, Payload::Data { offset: 0, data })];
    let mut frame = encode(Frame::Writes {
        writes,
        clock: PrimaryClock::default(),
    });
    let Some(Body::Writes(batch)) = &mut frame.body else {
        panic!()
    };
    let mut changed = batch.writes[0].data.to_vec();
    changed[17] ^= 1;
    batch.writes[0].data = changed.into();
    assert!(decode(frame).is_err());
}

#[test]
fn writes_outside_any_volume_or_off_the_sector_grid_are_violations() {
    let at = |offset, len| wire_write(1, Payload::Zero { offset, len });
    for write in [
        at(SIZE_MAX, 512),
        at(SIZE_MAX - 512, 1024),
        at(0, 100),
        at(100, 512),
        at(u64::MAX - 511, 512),
    ] {
        let frame = encode(Frame::Writes {
            writes: vec![write],
            clock: PrimaryClock::default(),
        });
        assert!(decode(frame).is_err());
    }
}

#[test]
fn hashes_and_answers_of_a_wrong_size_are_violations() {
    let hashes = |len: u64, bytes: usize| Frame::Hashes {
        after: Seq(1),
        offset: 0,
        len,
        key: ResyncId(1),
        hashes: vec![0; bytes].into(),
    };
    let differs = |blocks: &[(u64, u64)]| Frame::Differs {
        key: ResyncId(1),
        offset: 0,
        blocks: blocks.to_vec(),
    };
    for frame in [
        hashes(0, 0),
        hashes(4096, 15),
        hashes(4096, 32),
        hashes(4096 + 100, 32),
        hashes(HASHED_MAX + 4096, 16 * (HASHED_MAX as usize / 4096 + 1)),
        differs(&[(HASHED_MAX / HASHED_BLOCK, 1)]),
        differs(&[(0, HASHED_MAX / HASHED_BLOCK + 1)]),
        differs(&[(3, 0)]),
    ] {
        assert!(decode(encode(frame.clone())).is_err(), "{frame:?}");
    }
}

#[test]
fn bitmap_runs_beyond_the_end_are_violations() {
    let bitmap = |runs: &[u64]| pb::Frame {
        body: Some(Body::Bitmap(pb::Bitmap {
            runs: runs.to_vec(),
            union: false,
        })),
    };
    for runs in [
        &[0][..],
        &[0, 0],
        &[SIZE_MAX >> CHUNK_SHIFT, 1],
        &[u64::MAX, 2],
        &[1, u64::MAX],
    ] {
        assert!(decode(bitmap(runs)).is_err(), "{runs:?}");
    }
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        if let Ok(frame) = pb::Frame::decode(bytes.as_slice()) {
            let _ = decode(frame);
        }
    }

    #[test]
    fn a_damaged_frame_never_panics(
        which in any::<prop::sample::Index>(),
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let all = samples();
        let mut bytes = encode(which.get(&all).clone()).encode_to_vec();
        for (at, value) in &hits {
            if !bytes.is_empty() {
                let place = at.index(bytes.len());
                bytes[place] = *value;
            }
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        if let Ok(frame) = pb::Frame::decode(bytes.as_slice()) {
            let _ = decode(frame);
        }
    }
}
