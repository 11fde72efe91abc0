//! The engine's state in plain values, for control, status and metrics.
//!
//! Does not live here: wire types, texts for people.

use crate::command::JudgedRequest;
use crate::event::LinkFault;
use crate::frame::PeerReport;
use crate::ids::{Epoch, NodeId, Position, VolumeId};
use crate::role::Role;
use crate::settings::Mode;
use crate::time::{Mono, Wall};

/// What a copy is worth, in the words of the decision table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Data {
    /// Never held anything.
    #[default]
    Empty,
    /// As good as it gets.
    UpToDate,
    /// Feeding the peer's resync.
    SyncSource,
    /// Consistent, and probably older than what the other side holds.
    Behind,
    /// Target of a running resync.
    Syncing,
    /// Target of an interrupted resync, with a snapshot to go back to.
    InconsistentSnap,
    /// Target of an interrupted resync.
    InconsistentNoSnap,
    /// Both sides changed their data.
    Diverged,
    /// The disk or its metadata failed.
    Failed,
}

/// Where the connection stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LinkReport {
    /// No peer configured.
    Unconfigured,
    /// Not connected, not yet declared down.
    Connecting,
    /// Frames flow.
    Connected,
    /// Connected, and one side refuses; the text says why.
    Refused(String),
    /// Declared down.
    Down(LinkFault),
}

/// Why the device is, or is not, there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gate {
    /// Secondary.
    Closed,
    /// Primary that waits for its peer's word.
    WaitingForPeer,
    /// Primary, peer unknown, told to hold.
    Held,
    /// The peer holds a descendant of our data.
    Superseded,
    /// Being opened, formatted or published.
    Opening,
    /// There.
    Open,
    /// Died under its users.
    Dead,
    /// Could not be opened.
    Failed,
}

/// Progress of a resync.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SyncReport {
    /// Whether we are the source.
    pub source: bool,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
    /// When it began.
    pub started: Mono,
}

/// The state of a copy from before its resync.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SnapshotReport {
    /// When it was taken, by the local clock.
    pub taken: Wall,
    /// Bytes that it takes.
    pub used: u64,
    /// While the copy goes back to it: bytes done, of `used`.
    pub reverted: Option<u64>,
}

/// A verification: both copies compared while they are in use.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VerificationReport {
    /// Names the order.
    pub request: String,
    /// When it began, by the local clock.
    pub started: Wall,
    /// When it ended.
    pub finished: Option<Wall>,
    /// Bytes that are still to be compared.
    pub left: u64,
    /// Bytes in which the peer's copy differed.
    pub differing: u64,
}

/// How a role change went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransitionKind {
    /// First Primary of the pair.
    Creation,
    /// Promotion with the peer's grant.
    Planned,
    /// Promotion without the peer.
    Unplanned,
    /// To Secondary.
    Demotion,
}

/// The last role change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Transition {
    /// How.
    pub kind: TransitionKind,
    /// When it began.
    pub started: Wall,
    /// When it was durable.
    pub finished: Wall,
    /// What the copy was worth at an unplanned promotion.
    pub recovery: Option<RecoveryReport>,
}

/// Recovery point of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct RecoveryReport {
    /// Everything the primary completed before `position.wall` is here.
    pub position: Position,
    /// Lower bound of what it had completed beyond that when last heard, bytes.
    pub behind_bytes: u64,
    /// When the copy was last known to be in sync, by the local clock.
    pub last_in_sync: Wall,
}

/// Everything about one volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// This half.
    pub node: NodeId,
    /// The volume; none until data exist.
    pub volume: VolumeId,
    /// Bytes that both sides have agreed on.
    pub size: u64,
    /// Role, durable.
    pub role: Role,
    /// What the copy is worth.
    pub data: Data,
    /// Configured mode.
    pub mode: Mode,
    /// What holds now.
    pub effective_mode: Mode,
    /// Lineage, newest first; empty until data exist.
    pub lineage: Vec<Epoch>,
    /// Demoted with everything delivered.
    pub sealed: bool,
    /// Connection.
    pub link: LinkReport,
    /// Address in use.
    pub remote: String,
    /// The peer's last words.
    pub peer: Option<PeerReport>,
    /// Who said them.
    pub peer_hello: Option<crate::frame::PeerHello>,
    /// Bytes that the peer's storage has room for, when last heard.
    pub peer_capacity: u64,
    /// The peer's queue manager, from its last handshake.
    pub peer_queue_manager: String,
    /// When, by both clocks.
    pub peer_heard: Option<(Mono, Wall)>,
    /// Round trip of the last heartbeat that this side asked for, microseconds; 0: none yet.
    pub rtt_micros: u64,
    /// Bytes that the peer may lack: dirty chunks and writes in flight.
    pub out_of_sync_bytes: u64,
    /// Running resync.
    pub sync: Option<SyncReport>,
    /// What the copy would go back to at a promotion now.
    pub snapshot: Option<SnapshotReport>,
    /// Why there is none, or why it is of no use.
    pub snapshot_error: String,
    /// A verification, if this process was told to make one.
    pub verification: Option<VerificationReport>,
    /// A person has given this side's history up for the peer's.
    pub given_up: bool,
    /// Recovery point, of a copy that has received something.
    pub recovery: Option<RecoveryReport>,
    /// Device.
    pub gate: Gate,
    /// What went wrong with it.
    pub device_error: String,
    /// Writes refused because they would have destroyed the file system's signature.
    pub format_blocked: u64,
    /// Writes wait for the peer: it is away, and the policy is to hold them.
    pub suspended: bool,
    /// Last judged request.
    pub judged: Option<JudgedRequest>,
    /// Last role change.
    pub transition: Option<Transition>,
    /// The epoch that superseded ours.
    pub superseded_by: Option<Epoch>,
    /// Upper bound of a crashed run's tail that nobody else has, bytes.
    pub crashed_tail_bytes: u64,
    /// What failed, if `data` is `Failed`.
    pub error: String,
}
