//! Commands of the operator, refusals, and the judged request that outlives the API objects.

use crate::ids::{Epoch, NodeId, VolumeId};
use crate::role::Role;
use crate::time::Wall;

/// An order of the operator.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Become Primary or Secondary.
    SetRole {
        /// Which.
        role: Role,
        /// The lineage that the order was given for; none only with `initialize`.
        expected_epoch: Epoch,
        /// First Primary of a pair.
        initialize: Option<Initialize>,
        /// The request behind the order; stored with the role.
        request: JudgedRequest,
    },
    /// Store how a request was judged.
    RecordVerdict(JudgedRequest),
    /// Answer once the peer has said something newer than this command, or the link is down.
    Refresh,
    /// Take an inconsistent copy back to its snapshot. Answered once that is sure to happen; the report
    /// tells how far it is.
    Revert {
        /// The lineage that the order was given for.
        expected_epoch: Epoch,
    },
    /// End a partition, as far as this side is concerned.
    Resolve {
        /// The lineage that the order was given for.
        expected_epoch: Epoch,
        /// Whose history stays.
        keep: Keep,
    },
    /// Replace a dead device.
    HealDevice,
    /// Give up role and device, so that the files can be removed. The data stay as they are.
    Retire,
}

/// Whose history stays after a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Keep {
    /// This side's; the other has to give its own up.
    Local,
    /// The peer's. What is here is copied to a safe place before it is overwritten.
    Remote,
}

/// How a first Primary is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Initialize {
    /// The connected peer has said that it is empty.
    WithPeer,
    /// Nobody is asked: `bootstrap: New`, or no peer configured.
    WithoutPeer,
}

/// A role request as the operator judged it (rulings 8 to 10).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct JudgedRequest {
    /// uid of the custom resource.
    pub uid: String,
    /// Its `metadata.generation`.
    pub generation: i64,
    /// Role asked for.
    pub role: Role,
    /// `spec.promotion.requestId`.
    pub request_id: String,
    /// Verdict in the words of the decision table.
    pub verdict: String,
    /// Reason constant.
    pub reason: String,
    /// Sentence for people.
    pub message: String,
    /// `None` or `Possible`.
    pub max_loss: String,
    /// When it was first seen.
    pub requested_at: Wall,
}

/// Why a command was not carried out. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// The peer is Primary, or asked first.
    #[error("the peer is Primary")]
    PeerIsPrimary,
    /// The order was given for another lineage.
    #[error("the order was given for epoch {expected}, the data are at {current}")]
    StaleEpoch {
        /// Named in the order.
        expected: Epoch,
        /// Ours.
        current: Epoch,
    },
    /// The request is older than one that was already judged.
    #[error("a newer request was already judged")]
    StaleRequest,
    /// Nothing was ever synchronized to this side.
    #[error("this copy has never been synchronized")]
    NeverSynchronized,
    /// The copy is the target of an unfinished synchronization.
    #[error("this copy is inconsistent: its synchronization did not finish")]
    NoConsistentData,
    /// The copy is going back to its snapshot.
    #[error("this copy is going back to its snapshot")]
    Reverting,
    /// Both sides wrote; a person must choose.
    #[error("both sides have changed their data; a survivor must be chosen first")]
    SplitBrainUnresolved,
    /// This side is Primary; its history cannot be given up under its users.
    #[error("this side is Primary")]
    IsPrimary,
    /// The better copy is arriving.
    #[error("synchronization is in progress")]
    SyncInProgress,
    /// Somebody has the device open.
    #[error("the device is held by {0}")]
    DeviceHeld(String),
    /// The peer is not empty.
    #[error("the peer has data")]
    PeerHasData,
    /// The peer has not answered.
    #[error("the peer has not answered")]
    PeerUnknown,
    /// The volume already has data.
    #[error("the volume already has data")]
    AlreadyInitialized,
    /// The peer, or the disk, did not answer in time; nothing was changed.
    #[error("timed out: {0}")]
    TimedOut(&'static str),
    /// Another command is being carried out.
    #[error("another command is being carried out")]
    Busy,
    /// The local disk or its metadata failed.
    #[error("the local disk failed: {0}")]
    DiskFailed(String),
}

/// Who this half is and what it protects; written at creation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// This half.
    pub node: NodeId,
    /// The volume; none until data exist.
    pub volume: VolumeId,
    /// Bytes; a multiple of 4096.
    pub size: u64,
}
