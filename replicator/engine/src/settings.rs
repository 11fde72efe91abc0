//! Configuration of a volume as the engine needs it, and the limits with their reasons.

use std::time::Duration;

use crate::event::FsKind;

/// When a write is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    /// Locally done and queued for the peer.
    #[default]
    Asynchronous,
    /// Locally done and applied by the peer; FLUSH and FUA durable on both sides.
    Synchronous,
    /// Locally done and queued for the peer; FLUSH and FUA durable on both sides.
    FlushSynchronous,
}

impl Mode {
    /// Whether a completed FLUSH or FUA write is durable on both sides.
    #[must_use]
    pub const fn flushes_both(self) -> bool {
        matches!(self, Self::Synchronous | Self::FlushSynchronous)
    }
}

/// What a restarted Primary does when the peer does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum WhenPeerUnknown {
    /// Start after the time limit.
    #[default]
    Start,
    /// Keep the device closed.
    Hold,
}

/// What the Primary does when the peer is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum OnPeerLoss {
    /// Goes on alone; its own epoch tells so afterwards.
    #[default]
    Continue,
    /// Holds writes until the peer is back: nothing is ever acknowledged that the peer may lack. Takes
    /// effect once the peer has held everything.
    SuspendIo,
}

/// What the Primary does when the peer takes less than is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum OnCongestion {
    /// Writers wait for it.
    #[default]
    Block,
    /// It is left behind, consistent, and caught up with later. Only while asynchronous.
    PullAhead,
}

/// What a copy keeps of itself before a resync makes it inconsistent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum SnapshotPolicy {
    /// No snapshot, no resync.
    #[default]
    Required,
    /// A resync goes on without, if there is no room.
    BestEffort,
    /// None is taken.
    Never,
}

/// A person wants the two copies compared, block by block, while they are in use.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VerifyOrder {
    /// Names the order: another name is another verification.
    pub request: String,
    /// Whether what differs is copied to the peer when the verification has ended. Otherwise it is
    /// marked, and copied when the two meet the next time.
    pub repair: bool,
}

/// Configuration of one volume.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// Replication mode; the Primary's rules a session.
    pub mode: Mode,
    /// Whether a peer is configured at all.
    pub has_peer: bool,
    /// Name of the queue manager; both sides must agree.
    pub queue_manager: String,
    /// File system made on the first Primary.
    pub fs: FsKind,
    /// How long a restarted Primary waits for its peer's word.
    pub peer_check_timeout: Duration,
    /// What it does then.
    pub when_peer_unknown: WhenPeerUnknown,
    /// When the peer is gone.
    pub on_peer_loss: OnPeerLoss,
    /// When the peer is slow.
    pub on_congestion: OnCongestion,
    /// Bytes per second that a resync, or a verification, may read and send; none: as fast as it goes. At least
    /// [`RESYNC_RATE_MIN`] is taken, so that it always gets on.
    pub resync_rate: Option<u64>,
    /// Before a resync changes the copy.
    pub snapshots: SnapshotPolicy,
    /// A verification that is wanted.
    pub verify: Option<VerifyOrder>,
    /// Bytes that the local storage has room for. What lies beyond the size that the two sides have agreed on
    /// reads as zeros. Never less than before.
    pub capacity: u64,
    /// Bytes of writes on their way to the peer; [`WINDOW_BYTES`] at most.
    pub window_bytes: u64,
    /// Bytes of writes kept for a peer that is away; at most the window. More becomes dirty bits.
    pub log_bytes: u64,
}

/// Writes in flight to the peer, bytes: the window that memory is bounded by. When it is full, the
/// writer waits. 64 MiB covers 500 ms at 1 Gbit/s.
pub const WINDOW_BYTES: u64 = 64 << 20;

/// Writes in flight to the peer, count: bounds the bookkeeping of small writes.
pub const WINDOW_COUNT: usize = 16 << 10;

/// Resync data on the way and not yet applied, bytes: enough for the link, small enough that a live
/// write does not wait long behind it.
pub const RESYNC_WINDOW_BYTES: u64 = 8 << 20;

/// Bytes that one hash stands for.
pub const HASHED_BLOCK: u64 = 4096;

/// Bytes of one read of a resync, and that one frame of hashes stands for at most: a live 4 KiB write
/// waits behind at most one such frame per place in the queue. A frame of so much data, with what is around it, fits
/// 256 KiB: receivers double their buffers, and keep them.
pub const HASHED_MAX: u64 = 192 << 10;

/// The least rate of a resync, bytes per second.
pub const RESYNC_RATE_MIN: u64 = 1 << 20;

/// A window so full, for [`AHEAD_AFTER`], means that the peer is slow.
pub const CONGESTED_PERCENT: u64 = 98;

/// How long a full window is waited for before the peer is left behind.
pub const AHEAD_AFTER: Duration = Duration::from_secs(2);

/// The peer stays behind at least so long, twice as long each time that it falls behind again soon...
pub const BEHIND_FOR: Duration = Duration::from_secs(10);

/// ...but never longer than this.
pub const BEHIND_MAX: Duration = Duration::from_secs(300);

/// No volume is larger: 100 TiB.
pub const SIZE_MAX: u64 = 100 << 40;

/// Bytes of one dirty bit. 64 KiB costs 2 MiB of bits per TiB.
pub const CHUNK_SHIFT: u32 = 16;

/// Bytes of one activity-log extent: 4 MiB; 1,000 of them are a hot set of 4 GiB.
pub const EXTENT_SHIFT: u32 = 22;

/// Between two heartbeats of who asks.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

/// The same while two are in step and nothing is written.
pub const IDLE_HEARTBEAT: Duration = Duration::from_secs(2);

/// Silence of a Primary in step after which its peer asks by itself.
pub const ASK_AFTER: Duration = Duration::from_millis(2500);

/// Silence after which a session is lost, if a question has been without an answer for [`ANSWER_LIMIT`].
pub const HEARTBEAT_LOST: Duration = Duration::from_secs(5);

/// See [`HEARTBEAT_LOST`]: a peer that pauses for less is not lost, however seldom it is asked.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// Data outstanding without any progress of the acknowledgements: the peer's disk hangs, or the
/// path swallows data.
pub const PROGRESS_LOST: Duration = Duration::from_secs(10);

/// A handshake that takes longer is given up; guest writes wait meanwhile.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// How long a promotion waits for the peer's grant.
pub const GRANT_LIMIT: Duration = Duration::from_secs(5);

/// How long a demotion waits for the peer to take what is in flight.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(15);

/// A start with the device still open across a restart waits at most this long for the peer.
pub const RECOVERY_PEER_CHECK: Duration = Duration::from_secs(2);

/// The secondary makes applied data durable at least this often while data arrive...
pub const OWN_FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// ...or after this many bytes, so that durable acknowledgements advance without guest flushes.
pub const OWN_FLUSH_BYTES: u64 = 16 << 20;
