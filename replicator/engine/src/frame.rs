//! What two engines say to each other. The wire format is the shell's business.

use bytes::Bytes;

use crate::command::Refusal;
use crate::compare::{Decision, Facts};
use crate::ids::{Epoch, NodeId, ResyncId, RunId, Seq, VolumeId};
use crate::report::Data;
use crate::role::Role;
use crate::settings::Mode;
use crate::time::Wall;

/// What the peer's process said before the first frame.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct PeerHello {
    /// The peer's half.
    pub node: NodeId,
    /// Its software.
    pub version: String,
    /// Its name for people.
    pub site: String,
}

/// The content of one write.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Payload {
    /// Bytes at an offset.
    Data {
        /// Bytes from the start of the volume.
        offset: u64,
        /// Payload.
        data: Bytes,
    },
    /// Zeros at an offset.
    Zero {
        /// Bytes from the start of the volume.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// A flush of the primary's user: everything before it durable before anything after it counts.
    FlushMark,
}

/// One place in the ordered stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WireWrite {
    /// Its place; contiguous within a session.
    pub seq: Seq,
    /// May start when everything up to here is applied.
    pub dep_seq: Seq,
    /// Highest flush completed when it was accepted.
    pub dep_flush: Seq,
    /// Durable when applied.
    pub fua: bool,
    /// Copy of a chunk, not a write of the user.
    pub resync: bool,
    /// What to write.
    pub payload: Payload,
}

/// How far the primary is, by its own clock; rides on data and heartbeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct PrimaryClock {
    /// The primary's clock.
    pub wall: Wall,
    /// Everything completed before `wall` has at most this sequence number.
    pub last_seq: Seq,
    /// Bytes completed in this run so far.
    pub completed_bytes: u64,
}

/// A side's own summary, sent with heartbeats and on every change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct PeerReport {
    /// Role.
    pub role: Role,
    /// What its copy is worth.
    pub data: Data,
    /// Its lineage's head.
    pub epoch: Epoch,
    /// Demoted with everything delivered.
    pub sealed: bool,
    /// Its configured mode.
    pub mode: Mode,
}

/// One frame. Who sends it is in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Frame {
    /// (both) Durable facts that the decision is made from.
    State(Box<Facts>),
    /// (both) What the sender made of both states; must mirror the receiver's.
    Decision(Decision),
    /// (target: its own bits; source: the union, `union` set) Dirty chunk runs `(first, length)`, ascending.
    Bitmap {
        /// Runs.
        runs: Vec<(u64, u64)>,
        /// Whether this is the union that the target must store.
        union: bool,
    },
    /// (target) The union is durable here.
    BitmapStored,
    /// (primary, or source) Ordered data.
    Writes {
        /// In order.
        writes: Vec<WireWrite>,
        /// How far the sender is.
        clock: PrimaryClock,
    },
    /// (primary) The receiver is too slow: after what is on its way, nothing more comes in this session.
    LeftBehind,
    /// (source) A copy follows that makes the target inconsistent until it completes.
    ResyncBegin {
        /// Names the resync.
        id: ResyncId,
        /// For progress.
        total_chunks: u64,
    },
    /// (target) Marked inconsistent, durably.
    ResyncReady {
        /// Repeated.
        id: ResyncId,
    },
    /// (primary, or source) What a range holds at this place of the stream, in hashes.
    Hashes {
        /// Everything up to here comes before.
        after: Seq,
        /// Bytes from the start of the volume.
        offset: u64,
        /// Bytes; whole blocks of [`crate::settings::HASHED_BLOCK`].
        len: u64,
        /// Of the hashes.
        key: ResyncId,
        /// One for each block.
        hashes: Bytes,
    },
    /// (secondary, or target) The answer: what is different here.
    Differs {
        /// Repeated.
        key: ResyncId,
        /// Repeated.
        offset: u64,
        /// Runs of blocks `(first, length)` counted from the offset, ascending.
        blocks: Vec<(u64, u64)>,
    },
    /// (source) Everything is on the way; whoever has applied up to `seq` holds the sender's lineage.
    ResyncComplete {
        /// Names the resync (also for an empty one).
        id: ResyncId,
        /// The lineage to adopt.
        lineage: Vec<Epoch>,
        /// The place in the stream.
        seq: Seq,
        /// The volume's identity, for a side that had none.
        volume: VolumeId,
    },
    /// (target) Adopted, durably.
    ResyncAdopted {
        /// Repeated.
        id: ResyncId,
    },
    /// (secondary, or target) Cumulative.
    Ack {
        /// Everything up to here is applied.
        applied: Seq,
        /// Everything up to here is durable.
        durable: Seq,
    },
    /// (both) Heartbeat.
    Ping {
        /// Repeated in the answer.
        nonce: u64,
        /// How far the sender is, if it is Primary or source.
        clock: PrimaryClock,
        /// The sender's summary.
        report: PeerReport,
        /// Chunks of the running resync that are done, by the source's count.
        sync_done_chunks: u64,
    },
    /// (both) Answer to a heartbeat.
    Pong {
        /// Repeated.
        nonce: u64,
        /// The sender's summary.
        report: PeerReport,
    },
    /// (secondary) Asks to become Primary with this new lineage head.
    PromoteRequest {
        /// Proposed.
        epoch: Epoch,
    },
    /// (secondary) Answer.
    PromoteAnswer {
        /// Repeated.
        epoch: Epoch,
        /// Granted, durably, or why not.
        refusal: Option<Refusal>,
    },
    /// (the new Primary) The grant is used, durably.
    PromoteConfirm {
        /// Repeated.
        epoch: Epoch,
        /// The new run.
        run: RunId,
    },
    /// (secondary) The new head is in this lineage too, durably.
    PromoteAdopted {
        /// Repeated.
        epoch: Epoch,
    },
    /// (secondary) The request is withdrawn; the grant is void.
    PromoteCancel {
        /// Repeated.
        epoch: Epoch,
    },
    /// (both) The sender's summary changed.
    Report(PeerReport),
    /// (both) Bytes that the sender's storage has room for.
    Capacity(u64),
    /// (primary) The volume shall have so many bytes.
    Grow(u64),
    /// (secondary) It has, durably.
    Grown(u64),
    /// (primary) Both copies have been compared, and what differs is marked: the receiver's is no longer in doubt.
    Compared,
    /// (both) The sender ends the session on purpose.
    Bye {
        /// For the log.
        text: String,
    },
}
