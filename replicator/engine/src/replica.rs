//! Applying the peer's ordered stream on a Secondary, and knowing how far behind it is.
//!
//! A write may start when everything up to its `dep_seq` is applied and no earlier write that
//! overlaps it is unfinished, and no question about what it overwrites is open. A flush mark passes
//! when everything before it is applied, then made
//! durable, then recorded in the position ring; only then does `applied` move past it, so that a
//! recorded position never lags behind a later epoch of writes.
//!
//! Does not live here: who may send ([`crate::link`] checks), what a resync is.

mod questions;

use std::collections::{BTreeMap, VecDeque};

use crate::effect::Effect;
use crate::engine::{Engine, Job};
use crate::event::IoError;
use crate::frame::{Frame, Payload, PrimaryClock, WireWrite};
use crate::ids::{Epoch, NodeId, Position, RunId, Seq};
use crate::meta::codec::{Reader, Writer};
use crate::meta::{self, BLOCK, Kind, POSITION_SLOTS, POSITIONS};
use crate::report::RecoveryReport;
use crate::settings::{OWN_FLUSH_BYTES, OWN_FLUSH_INTERVAL};
use crate::superblock::{decode_recovery, encode_recovery};
use crate::time::{Mono, Wall};
use questions::Questions;

/// How far into the stream a start is looked for: bounds the work of a step; far more than a disk
/// takes at once.
const LOOK_AHEAD: usize = 128;

/// Clock readings kept until their writes are applied. When full, every second one is dropped: the
/// recovery point moves in larger steps, never too far.
const READINGS_MAX: usize = 4096;

/// An acknowledgement is sent at the latest after this many bytes while more is arriving.
const ACK_BYTES: u64 = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Progress {
    Waiting,
    Started,
    Done,
}

#[derive(Clone, Hash)]
struct Incoming {
    write: WireWrite,
    progress: Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Durability {
    Idle,
    /// `reached` is what the flush will have made durable, at the primary's clock.
    Flushing {
        upto: Seq,
        reached: PrimaryClock,
    },
    Recording {
        upto: Seq,
    },
}

/// State of the receiving side.
#[derive(Clone, Hash)]
pub(crate) struct Replica {
    incoming: BTreeMap<Seq, Incoming>,
    questions: Questions,
    /// Whether the first write of the session has set the frontier.
    pub(crate) anchored: bool,
    received: Seq,
    pub(crate) applied: Seq,
    pub(crate) durable: Seq,
    durability: Durability,
    unflushed_bytes: u64,
    last_flush: Mono,
    acknowledged: (Seq, Seq),
    unacknowledged_bytes: u64,
    readings: VecDeque<PrimaryClock>,
    newest: PrimaryClock,
    reached: PrimaryClock,
    pub(crate) recovery: Option<RecoveryReport>,
    /// The position of the newest record on disk.
    pub(crate) recorded: Option<Position>,
    recording: Option<Position>,
    ring_seq: u64,
    /// Identifies the stream: the source's head and run.
    pub(crate) epoch: Epoch,
    pub(crate) run: RunId,
    /// The copy is what the stream says: joined in order, or adopted. Until then the recovery point
    /// stays where it was.
    trusted: bool,
    /// Nothing more of this stream is applied: its session is closed.
    abandoned: bool,
    /// A final position must be written although nothing was applied since the last.
    record_due: bool,
}

impl Replica {
    pub(crate) fn load(raw: &[u8], node: NodeId) -> Self {
        let ring = POSITIONS..POSITIONS + POSITION_SLOTS;
        let newest = meta::newest(raw, Kind::Position, node, ring);
        let recovery = newest.and_then(|(_, body)| decode_recovery(&mut Reader(body)));
        Self {
            incoming: BTreeMap::new(),
            questions: Questions::default(),
            anchored: false,
            received: Seq(0),
            applied: Seq(0),
            durable: Seq(0),
            durability: Durability::Idle,
            unflushed_bytes: 0,
            last_flush: Mono(0),
            acknowledged: (Seq(0), Seq(0)),
            unacknowledged_bytes: 0,
            readings: VecDeque::new(),
            newest: PrimaryClock::default(),
            reached: PrimaryClock::default(),
            recovery,
            recorded: recovery.map(|r| r.position),
            recording: None,
            ring_seq: newest.map_or(0, |(seq, _)| seq),
            epoch: Epoch::NONE,
            run: RunId::NONE,
            trusted: false,
            abandoned: false,
            record_due: false,
        }
    }

    /// What has not been begun is left; what has been ends.
    pub(crate) fn abandon(&mut self) {
        self.abandoned = true;
        self.incoming.retain(|_, e| e.progress == Progress::Started);
    }

    /// The session is gone: nobody waits for an answer any more.
    pub(crate) fn forget_questions(&mut self) {
        self.questions.forget();
    }

    /// Whether nothing of the stream is being written, or waits for that.
    pub(crate) fn is_drained(&self) -> bool {
        self.incoming.is_empty()
    }

    /// Whether everything received is applied, durable and recorded.
    pub(crate) fn is_settled(&self) -> bool {
        self.incoming.is_empty()
            && self.durability == Durability::Idle
            && self.durable == self.applied
            && !self.record_due
    }

    /// A new stream begins; `trusted` says whether the copy is equal to its source already.
    pub(crate) fn begin(&mut self, epoch: Epoch, run: RunId, trusted: bool) {
        self.epoch = epoch;
        self.run = run;
        self.trusted = trusted;
        self.abandoned = false;
        // What is on its way to disk speaks of the stream before: it moves no frontier of this one.
        if let Durability::Flushing { upto, .. } | Durability::Recording { upto } =
            &mut self.durability
        {
            *upto = Seq(0);
        }
        self.anchored = false;
        self.received = Seq(0);
        self.applied = Seq(0);
        self.durable = Seq(0);
        self.acknowledged = (Seq(0), Seq(0));
        self.readings.clear();
        self.newest = PrimaryClock::default();
        self.reached = PrimaryClock::default();
    }

    /// The position that is applied now.
    pub(crate) fn position(&self) -> Position {
        Position {
            epoch: self.epoch,
            run: self.run,
            seq: self.applied,
            wall: self.reached.wall,
        }
    }

    /// The stream goes on where the copy stands.
    pub(crate) fn anchor_at_record(&mut self) {
        self.anchor(self.recorded.unwrap_or_default().seq);
    }

    /// Everything up to `seq` is here, if no write has said where the stream is.
    pub(crate) fn anchor(&mut self, seq: Seq) {
        if !self.anchored {
            self.anchored = true;
            self.received = seq;
            self.applied = seq;
            self.durable = seq;
        }
    }

    /// The source's lineage is adopted: the copy is what the stream says from now on.
    pub(crate) fn trust(&mut self, now: Wall) {
        self.trusted = true;
        self.pass_readings(now);
    }

    /// A record of the position is due, whatever was applied.
    pub(crate) fn record_now(&mut self) {
        self.record_due = self.trusted && (self.anchored || self.newest.wall != Wall(0));
    }

    fn behind_bytes(&self) -> u64 {
        self.newest
            .completed_bytes
            .saturating_sub(self.reached.completed_bytes)
    }

    fn take_reading(&mut self, clock: PrimaryClock, now: Wall) {
        self.newest = clock;
        match self.readings.back_mut() {
            Some(last) if last.last_seq == clock.last_seq => *last = clock,
            Some(_) | None => self.readings.push_back(clock),
        }
        if self.readings.len() > READINGS_MAX {
            let mut n = 0;
            self.readings.retain(|_| {
                n += 1;
                n % 2 == 0
            });
        }
        self.pass_readings(now);
    }

    fn pass_readings(&mut self, now: Wall) {
        while let Some(first) = self.readings.front()
            && first.last_seq < Seq::NEVER
            && (!self.anchored || first.last_seq <= self.applied)
        {
            self.reached = *first;
            self.readings.pop_front();
        }
        if self.reached.wall == Wall(0) || !self.trusted {
            return;
        }
        // Without a write on this session, everything up to the reading was here before it.
        self.anchor(self.reached.last_seq);
        let in_sync = self.readings.is_empty();
        let last = self.recovery.map(|r| r.last_in_sync).unwrap_or_default();
        self.recovery = Some(RecoveryReport {
            position: self.position(),
            behind_bytes: self.behind_bytes(),
            last_in_sync: if in_sync { now } else { last },
        });
    }
}

impl Engine {
    /// The primary said how far it is.
    pub(crate) fn clock_heard(&mut self, clock: PrimaryClock) {
        if clock.wall == Wall(0) {
            return;
        }
        self.replica.take_reading(clock, self.now.wall);
    }

    /// Ordered data arrived. `Err` names what is wrong with it.
    pub(crate) fn writes_arrived(
        &mut self,
        writes: Vec<WireWrite>,
        clock: PrimaryClock,
    ) -> Result<(), String> {
        for write in writes {
            let (offset, len) = match &write.payload {
                Payload::Data { offset, data } => (*offset, data.len() as u64),
                Payload::Zero { offset, len } => (*offset, *len),
                Payload::FlushMark => (0, 0),
            };
            if offset
                .checked_add(len)
                .is_none_or(|end| end > self.identity.size)
            {
                return Err(format!(
                    "a write of {len} bytes at {offset} is outside the volume"
                ));
            }
            if write.seq >= Seq::NEVER {
                return Err("a write at no place of a stream".to_owned());
            }
            let r = &mut self.replica;
            if !r.anchored && write.seq > Seq(0) {
                r.anchored = true;
                r.received = Seq(write.seq.0 - 1);
                r.applied = r.received;
                r.durable = r.received;
            }
            if write.seq != r.received.next() || write.dep_seq >= write.seq {
                return Err(format!("sequence {} after {}", write.seq.0, r.received.0));
            }
            r.received = write.seq;
            r.unacknowledged_bytes += len;
            r.incoming.insert(
                write.seq,
                Incoming {
                    write,
                    progress: Progress::Waiting,
                },
            );
        }
        self.clock_heard(clock);
        Ok(())
    }

    /// Starts writes, flushes, records and acknowledgements that have become possible.
    pub(crate) fn advance_replica(&mut self, out: &mut Vec<Effect>) {
        if self.fault.is_some() {
            return;
        }
        self.start_comparing(out);
        self.start_applies(out);
        self.start_flush(out);
        self.acknowledge(out);
    }

    fn start_applies(&mut self, out: &mut Vec<Effect>) {
        let applied = self.replica.applied;
        let mut unfinished: Vec<(u64, u64)> = Vec::new();
        let mut ready = Vec::new();
        for (seq, entry) in self.replica.incoming.iter_mut().take(LOOK_AHEAD) {
            let Some((offset, len)) = range(&entry.write.payload) else {
                continue;
            };
            // What a live write waits for never goes back in the stream, so the live ones behind it
            // wait too; the copies among them have time.
            if entry.write.dep_seq > applied {
                break;
            }
            if entry.progress == Progress::Waiting
                && !unfinished
                    .iter()
                    .any(|(o, l)| *o < offset + len && offset < o + l)
                && !self.replica.questions.hold(*seq, offset, len)
                && self.snapshots.allow(offset, len)
            {
                entry.progress = Progress::Started;
                ready.push((*seq, entry.write.payload.clone(), entry.write.fua));
            }
            if entry.progress != Progress::Done {
                unfinished.push((offset, len));
            }
        }
        for (seq, payload, fua) in ready {
            let job = self.job(Job::Apply(seq));
            match payload {
                Payload::Data { offset, data } => {
                    self.replica.unflushed_bytes += data.len() as u64;
                    out.push(Effect::WriteData {
                        job,
                        offset,
                        data,
                        fua,
                    });
                }
                Payload::Zero { offset, len } => {
                    self.replica.unflushed_bytes += len.min(OWN_FLUSH_BYTES);
                    out.push(Effect::ZeroData { job, offset, len });
                }
                Payload::FlushMark => {}
            }
        }
    }

    /// A write of the stream is on the local disk.
    pub(crate) fn applied(&mut self, seq: Seq, result: Result<(), IoError>, out: &mut Vec<Effect>) {
        if let Err(e) = result {
            return self.fail(&format!("write of the data: {e}"), out);
        }
        if self.replica.abandoned {
            self.replica.incoming.remove(&seq);
        } else if let Some(entry) = self.replica.incoming.get_mut(&seq) {
            entry.progress = Progress::Done;
        }
        self.move_frontier();
    }

    fn move_frontier(&mut self) {
        let r = &mut self.replica;
        while let Some(entry) = r.incoming.get(&r.applied.next())
            && entry.progress == Progress::Done
        {
            r.applied = r.applied.next();
            r.incoming.remove(&r.applied);
        }
        r.pass_readings(self.now.wall);
    }

    /// Flush marks that everything before has reached; neighbours share one flush.
    fn marks_at_frontier(&self) -> Option<Seq> {
        let r = &self.replica;
        let mut at = r.applied;
        while let Some(entry) = r.incoming.get(&at.next())
            && entry.write.payload == Payload::FlushMark
        {
            at = at.next();
        }
        (at > r.applied).then_some(at)
    }

    fn start_flush(&mut self, out: &mut Vec<Effect>) {
        if self.replica.durability != Durability::Idle {
            return;
        }
        let mark = self.marks_at_frontier();
        let r = &self.replica;
        let idle = r.incoming.is_empty();
        let due = self.now.mono >= r.last_flush.after(OWN_FLUSH_INTERVAL);
        let ending = idle && !self.link.is_present();
        let wanted = ending || r.record_due && idle || self.wants_durable();
        let own = r.durable < r.applied && (r.unflushed_bytes >= OWN_FLUSH_BYTES || due || wanted);
        let reached = r.reached;
        if let Some(upto) = mark.or_else(|| own.then_some(r.applied)) {
            self.replica.durability = Durability::Flushing { upto, reached };
            self.replica.unflushed_bytes = 0;
            let job = self.job(Job::ReplicaFlush);
            out.push(Effect::FlushData { job });
        } else if r.record_due && idle {
            let upto = r.durable;
            self.record_position(upto, reached, out);
        }
    }

    /// The local data are durable up to where they were when the flush began.
    pub(crate) fn replica_flushed(&mut self, out: &mut Vec<Effect>) {
        if let Durability::Flushing { upto, reached } = self.replica.durability {
            self.record_position(upto, reached, out);
        }
    }

    fn record_position(&mut self, upto: Seq, reached: PrimaryClock, out: &mut Vec<Effect>) {
        let r = &mut self.replica;
        r.durability = Durability::Recording { upto };
        r.record_due = false;
        r.last_flush = self.now.mono;
        r.ring_seq += 1;
        let mut recovery = r.recovery.unwrap_or_default();
        if r.trusted {
            let unread = reached.wall == Wall(0);
            let wall = if unread {
                recovery.position.wall
            } else {
                reached.wall
            };
            recovery.position = Position {
                epoch: r.epoch,
                run: r.run,
                seq: upto,
                wall,
            };
            recovery.behind_bytes = r
                .newest
                .completed_bytes
                .saturating_sub(reached.completed_bytes);
        }
        r.recording = Some(recovery.position);
        let mut w = Writer::default();
        encode_recovery(&mut w, &recovery);
        let block = POSITIONS + r.ring_seq % POSITION_SLOTS;
        let data = meta::seal(Kind::Position, self.identity.node, block, r.ring_seq, &w.0);
        let job = self.job(Job::ReplicaPosition);
        out.push(Effect::WriteMeta {
            job,
            offset: block * BLOCK as u64,
            data,
        });
    }

    pub(crate) fn position_written(&mut self) {
        let Durability::Recording { upto } = self.replica.durability else {
            return;
        };
        let r = &mut self.replica;
        r.durability = Durability::Idle;
        r.recorded = r.recording.take().or(r.recorded);
        r.durable = r.durable.max(upto);
        while r.applied < upto {
            r.applied = r.applied.next();
            r.incoming.remove(&r.applied);
        }
        self.move_frontier();
    }

    /// Tells the primary how far the copy is, when that is due.
    pub(crate) fn acknowledge(&mut self, out: &mut Vec<Effect>) {
        let receives = self.may_receive();
        let r = &mut self.replica;
        let state = (r.applied, r.durable);
        if state == r.acknowledged || !r.anchored || !receives {
            return;
        }
        let (at_once, idle) = (self.link.peer_waits_for_acks(), r.incoming.is_empty());
        let durable_moved = state.1 != r.acknowledged.1;
        if at_once || idle || durable_moved || r.unacknowledged_bytes >= ACK_BYTES {
            r.acknowledged = state;
            r.unacknowledged_bytes = 0;
            self.send(
                Frame::Ack {
                    applied: state.0,
                    durable: state.1,
                },
                out,
            );
        }
    }

    pub(crate) fn replica_wakeup(&self) -> Option<Mono> {
        let r = &self.replica;
        let waits = r.durable < r.applied && r.durability == Durability::Idle;
        (waits && self.fault.is_none()).then(|| r.last_flush.after(OWN_FLUSH_INTERVAL))
    }
}

fn range(payload: &Payload) -> Option<(u64, u64)> {
    match payload {
        Payload::Data { offset, data } => Some((*offset, data.len() as u64)),
        Payload::Zero { offset, len } => Some((*offset, *len)),
        Payload::FlushMark => None,
    }
}
