//! What one look at the world saw, as plain data.
//!
//! Lives here: the types, and trivial questions to them. Does not live here: wire types (the operator
//! converts them), reading anything, deciding anything.

use std::time::Duration;

use drqm_api::v1alpha1::{
    DataWord, DrQueueManager, MaxLoss, Mode, Role, TransitionKind, VerdictWord,
};
use jiff::Timestamp;

/// One look at the world, for one `DrQueueManager`.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// The resource, read live at the beginning of the pass.
    pub object: DrQueueManager,
    /// The node that holds the data, as recorded (status, volume or PersistentVolume). `None`: not chosen yet.
    pub node: Option<NodeFacts>,
    /// Nodes that could be chosen, in any order. Only looked at while `node` is `None`.
    pub candidates: Vec<NodeFacts>,
    /// Why no node can be chosen, if so; for people.
    pub no_node: Option<String>,
    /// The replicator on `node`.
    pub replicator: ReplicatorView,
    /// Child objects in this cluster.
    pub children: Children,
    /// The pair's Secret.
    pub keys: Keys,
    /// Another resource on the same node that uses the same port with another local address or Secret
    /// in a way that cannot be shared; `namespace/name`.
    pub port_taken_by: Option<String>,
    /// First look since the operator started or the node came back, or a later one.
    pub look: Look,
    /// Whether this operator process has sent the present configuration to the replicator.
    pub configuration: Configuration,
    /// The replicator's refusal of a role command, remembered by the operator until the next request.
    pub refused: Option<StepRefusal>,
    /// Time since this operator process last wrote the status. `None`: not yet.
    pub status_age: Option<Duration>,
}

/// First look at this object, or a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The operator has just started, or the node has just come back.
    First,
    /// Anything later.
    Later,
}

/// Whether the replicator has the present configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Configuration {
    /// Not sent by this process, or spec, keys or the replicator's process have changed since.
    Due,
    /// Sent and answered.
    Sent,
}

/// A node of this cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Value of its label `kubernetes.io/hostname`.
    pub hostname: String,
    /// Its InternalIP.
    pub address: Option<String>,
    /// Whether the Node object exists.
    pub exists: bool,
    /// Its Ready condition.
    pub ready: bool,
    /// Whether its replicator's pod is ready.
    pub replicator_ready: bool,
    /// How many volumes its replicator has; used to spread new ones.
    pub volumes: usize,
}

/// What the replicator on the node said.
#[derive(Clone, Debug, PartialEq)]
pub enum ReplicatorView {
    /// No node is chosen yet.
    NoNode,
    /// It did not answer within its deadline.
    Unreachable {
        /// Why, for people; stable text.
        message: String,
    },
    /// It answered. `None`: it knows no such volume.
    Reached(Option<Box<Volume>>),
}

impl ReplicatorView {
    /// The volume, if the replicator answered and has it.
    #[must_use]
    pub fn volume(&self) -> Option<&Volume> {
        match self {
            Self::Reached(volume) => volume.as_deref(),
            Self::NoNode | Self::Unreachable { .. } => None,
        }
    }
}

/// A volume as its replicator reports it.
#[derive(Clone, Debug, PartialEq)]
pub struct Volume {
    /// The answer followed an answer of the peer that is newer than the question, or the link being
    /// declared down.
    pub refreshed: bool,
    /// uid of the resource that configured it last.
    pub cr_uid: String,
    /// Its identifier on the node.
    pub volume_id: String,
    /// Queue manager it belongs to.
    pub queue_manager_name: String,
    /// Its size.
    pub size_bytes: u64,
    /// Bytes that this side is configured for.
    pub capacity_bytes: u64,
    /// Mode asked for.
    pub mode: Mode,
    /// Mode that holds right now.
    pub effective_mode: Mode,
    /// Role in the superblock.
    pub role: Role,
    /// What the copy is worth.
    pub data: DataWord,
    /// Current epoch; empty while the copy is empty.
    pub epoch: String,
    /// Epochs before it.
    pub history: Vec<String>,
    /// The epoch ended by a clean demotion.
    pub sealed: bool,
    /// The link to the peer.
    pub link: Link,
    /// What the peer told last; may be old.
    pub peer: Option<Peer>,
    /// Bytes out of sync.
    pub out_of_sync_bytes: u64,
    /// A synchronization under way.
    pub sync: Option<Sync>,
    /// What the copy was before its synchronization.
    pub snapshot: Option<SnapshotFacts>,
    /// Why there is no snapshot, or why it is of no use.
    pub snapshot_error: Option<String>,
    /// The verification that the replicator was told to make.
    pub verification: Option<VerificationFacts>,
    /// A person has given the data here up for the peer's.
    pub given_up: bool,
    /// Files with what was given up.
    pub kept_copies: Vec<String>,
    /// What this copy is worth in time.
    pub recovery_point: Option<RecoveryPointFacts>,
    /// The device.
    pub device: Device,
    /// Use of the file system, while mounted.
    pub file_system: Option<FileSystem>,
    /// The last judged request, from the superblock.
    pub judged: Option<Judged>,
    /// The last change of role.
    pub last_transition: Option<Transition>,
    /// The peer's epoch that superseded ours.
    pub superseded_by: Option<String>,
    /// Upper bound of a crashed run's tail that nobody else has.
    pub crashed_tail_bytes: u64,
    /// The volume's error, if it has one.
    pub error: Option<String>,
    /// Writes wait for the peer.
    pub suspended: bool,
    /// Whether it has a configuration (`false`: left over from a deleted resource).
    pub configured: bool,
    /// Memory of the processes that hold the device.
    pub holder_memory_bytes: Option<u64>,
    /// Their use of processors in percent of one.
    pub holder_cpu_percent: Option<f64>,
}

impl Volume {
    /// Whether the copy is going back to its snapshot.
    #[must_use]
    pub fn is_reverting(&self) -> bool {
        self.snapshot
            .is_some_and(|snapshot| snapshot.reverted_bytes.is_some())
    }

    /// Whether this is a Primary whose peer is connected and takes, or will take, what it missed.
    #[must_use]
    pub fn peer_is_behind(&self) -> bool {
        let told = self.peer.as_ref().and_then(|peer| peer.data);
        self.role == Role::Primary
            && self.link.state == LinkState::Connected
            && told == Some(DataWord::Behind)
    }
}

/// The link to the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its state.
    pub state: LinkState,
    /// More about it, for people.
    pub detail: String,
    /// The peer's address in use.
    pub current_remote_address: Option<String>,
    /// Our address.
    pub local_address: Option<String>,
    /// Round trip.
    pub rtt_micros: Option<u64>,
}

/// States of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkState {
    /// No peer is configured.
    Unconfigured,
    /// Not connected, not yet declared down.
    Connecting,
    /// Connected.
    Connected,
    /// Declared down.
    Down,
    /// TLS failed.
    AuthFailed,
    /// Another protocol version.
    ProtocolMismatch,
    /// Connected and refused by one side.
    Refused,
}

/// What the peer told last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name for itself.
    pub name: String,
    /// Its role; `None` if it never told.
    pub role: Option<Role>,
    /// What its copy is worth.
    pub data: Option<DataWord>,
    /// Its epoch.
    pub epoch: String,
    /// Its size.
    pub size_bytes: u64,
    /// Its mode.
    pub mode: Option<Mode>,
    /// Its version.
    pub version: String,
    /// Its queue manager.
    pub queue_manager_name: String,
    /// When it was last heard, by our clock.
    pub heard_at: Option<Timestamp>,
    /// It was demoted cleanly.
    pub sealed: bool,
}

/// A synchronization under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sync {
    /// We are the source.
    pub source: bool,
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
    /// Bytes a second.
    pub bytes_per_second: u64,
    /// Expected end.
    pub eta: Option<Timestamp>,
}

/// The state of a copy from before its synchronization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotFacts {
    /// By the node's clock.
    pub taken: Option<Timestamp>,
    /// Bytes that it takes.
    pub used_bytes: u64,
    /// While the copy goes back to it: bytes done, of those.
    pub reverted_bytes: Option<u64>,
}

/// Both copies compared while they are in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerificationFacts {
    /// Names the order.
    pub request: String,
    /// By the node's clock.
    pub started: Option<Timestamp>,
    /// By the node's clock; none while it is under way.
    pub finished: Option<Timestamp>,
    /// Bytes that are still to be compared.
    pub left_bytes: u64,
    /// Bytes in which the peer's copy differed.
    pub differing_bytes: u64,
}

/// Everything that the primary completed before `time` is in this copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryPointFacts {
    /// By the primary's clock.
    pub time: Option<Timestamp>,
    /// Lower bound of what lies beyond it.
    pub behind_bytes: u64,
    /// Last time in sync.
    pub last_in_sync: Option<Timestamp>,
    /// The epoch it belongs to.
    pub epoch: String,
}

/// The device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Why it is, or is not, there.
    pub gate: Gate,
    /// Its link.
    pub path: Option<String>,
    /// What serves it.
    pub front_end: Option<String>,
    /// Who holds it; empty: nobody.
    pub held_by: String,
    /// Why it could not be opened.
    pub error: Option<String>,
    /// Writes that would have destroyed the file system's identity and were refused.
    pub format_blocked_total: u64,
}

/// Why the device is, or is not, on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gate {
    /// Secondary.
    Closed,
    /// Primary that waits for the peer's word.
    WaitingForPeer,
    /// Primary, peer unknown, told to hold.
    Held,
    /// The peer holds a descendant of our data.
    Superseded,
    /// Being opened.
    Opening,
    /// Open.
    Open,
    /// Died under its users.
    Dead,
    /// Could not be opened.
    Failed,
}

/// Use of the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// Bytes in use.
    pub used_bytes: u64,
    /// Bytes in all.
    pub allocated_bytes: u64,
}

/// A role request as it was judged; stored with the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// uid of the resource.
    pub cr_uid: String,
    /// metadata.generation of the request.
    pub generation: i64,
    /// Role it asked for.
    pub role: Role,
    /// `spec.promotion.requestId`; empty: none.
    pub request_id: String,
    /// Verdict.
    pub verdict: VerdictWord,
    /// Reason.
    pub reason: String,
    /// Message.
    pub message: String,
    /// The loss it may bring.
    pub max_loss: MaxLoss,
    /// When it was first judged.
    pub requested_at: Timestamp,
}

impl Judged {
    /// Whether it asked for the same as a request for `role` with this `spec.promotion.requestId`.
    #[must_use]
    pub fn asks_for(&self, role: Role, request_id: &str) -> bool {
        self.role == role && self.request_id == request_id
    }
}

/// A change of role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// From.
    pub from: Role,
    /// To.
    pub to: Role,
    /// How.
    pub kind: TransitionKind,
    /// Begin.
    pub started: Option<Timestamp>,
    /// End.
    pub finished: Option<Timestamp>,
    /// What the copy was worth at an unplanned promotion.
    pub recovery_point: Option<RecoveryPointFacts>,
}

/// The replicator's refusal of a role command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepRefusal {
    /// The command it refused.
    pub command_id: String,
    /// Why.
    pub code: RefusalCode,
    /// Why, for people.
    pub message: String,
}

/// Why the replicator refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalCode {
    /// The peer is Primary, or is becoming it.
    PeerIsPrimary,
    /// The epoch has moved on.
    StaleEpoch,
    /// A newer request was judged.
    StaleRequest,
    /// Never synchronized.
    NeverSynchronized,
    /// No consistent data.
    NoConsistentData,
    /// Split brain.
    SplitBrainUnresolved,
    /// A synchronization is under way.
    SyncInProgress,
    /// Somebody holds the device.
    DeviceHeld,
    /// The peer has data.
    PeerHasData,
    /// The peer does not answer.
    PeerUnknown,
    /// Not empty any more.
    AlreadyInitialized,
    /// Took too long.
    TimedOut,
    /// Another command is under way.
    Busy,
    /// The disk failed.
    DiskFailed,
    /// The copy is going back to its snapshot.
    Reverting,
    /// This side is Primary.
    IsPrimary,
    /// The replicator gave a code that this operator does not know.
    Unknown,
}

/// Child objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Children {
    /// The StatefulSet.
    pub stateful_set: Option<StatefulSetFacts>,
    /// The queue manager's pod, also while it is terminating.
    pub pod: Option<PodFacts>,
    /// The Service exists.
    pub service: bool,
    /// The PersistentVolume exists.
    pub persistent_volume: bool,
    /// The claim exists and is bound.
    pub claim_bound: bool,
    /// A child that belongs to somebody else: `Kind name is managed by X`.
    pub foreign: Option<String>,
}

/// The StatefulSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatefulSetFacts {
    /// `spec.replicas`.
    pub replicas: i32,
    /// `status.readyReplicas`.
    pub ready_replicas: i32,
}

/// The queue manager's pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// Its name.
    pub name: String,
    /// Its Ready condition.
    pub ready: bool,
    /// Since when it is ready.
    pub ready_since: Option<Timestamp>,
    /// It is being deleted.
    pub terminating: bool,
    /// Why it does not come up.
    pub failing: Option<PodFailure>,
}

/// Why a pod does not come up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFailure {
    /// `ImagePullBackOff`, `ErrImagePull`, `CrashLoopBackOff`, `FailedMount`, `Unschedulable`, …
    pub reason: String,
    /// For people; stable text.
    pub message: String,
}

/// The pair's Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    /// It does not exist.
    Missing,
    /// It exists and cannot be used.
    Invalid {
        /// Which key is wrong and how.
        message: String,
    },
    /// It exists.
    Present {
        /// The CA's key is in it (an operator-made pair Secret).
        ca_key: bool,
        /// This side's certificate is in it and fits the CA and the node.
        leaf: bool,
        /// When the first of its certificates expires.
        expires: Option<Timestamp>,
    },
}
