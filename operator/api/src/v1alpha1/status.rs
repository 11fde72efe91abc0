//! The status of a `DrQueueManager`: what is, in words that people and programs can rely on.
//!
//! Lives here: the types. Does not live here: how they are computed (`drqm_core::status`) and how
//! they are printed for people (`names`).

#![expect(
    unreachable_pub,
    reason = "the KubeSchema derive repeats each struct inside a function"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Mode, Role};

/// What is. Live figures move in steps; exact ones come from `kubectl drqm status`.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DrQueueManagerStatus {
    /// metadata.generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The role this half has, as stored with the data. Unknown while it cannot be read.
    #[serde(default)]
    pub role: EffectiveRole,
    /// What is going on.
    #[serde(default)]
    pub phase: Phase,
    /// The queue manager runs and its Service is published.
    #[serde(default)]
    pub serving: bool,
    /// Node that holds the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The queue manager.
    #[serde(default)]
    pub queue_manager: QueueManagerState,
    /// Use of the queue manager's file system; only while it is mounted here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_system: Option<FileSystemState>,
    /// Replication.
    #[serde(default)]
    pub dr: DrState,
    /// What this copy was worth when it was last in touch with the Primary. Absent while in step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_point: Option<RecoveryPoint>,
    /// What an inconsistent copy was before its synchronization, and would go back to at a promotion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotState>,
    /// The last verification of the two copies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<VerificationState>,
    /// The identity of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<EpochState>,
    /// The other half, as it told through the replication link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<PeerState>,
    /// How the last role request was judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestState>,
    /// The last change of role on this side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition: Option<TransitionState>,
    /// The volume on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeStatus>,
    /// Secret with the certificates of this pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pair_secret: Option<String>,
    /// Conditions; see the reasons in the documentation of each type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// The role this half has.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EffectiveRole {
    /// Runs the queue manager.
    Primary,
    /// Receives.
    Secondary,
    /// Cannot be read at the moment, or there is no volume yet.
    #[default]
    Unknown,
}

impl From<Role> for EffectiveRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Primary => Self::Primary,
            Role::Secondary => Self::Secondary,
        }
    }
}

/// What is going on.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for something outside: a node, a Secret, the peer.
    #[default]
    Pending,
    /// The volume is being made.
    Creating,
    /// The first epoch is being minted and the file system made.
    Initializing,
    /// As asked for.
    Ready,
    /// Becoming Primary.
    Promoting,
    /// Becoming Secondary.
    Demoting,
    /// Being deleted.
    Deleting,
    /// A person has to act; conditions say what.
    Failed,
}

/// The queue manager.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct QueueManagerState {
    /// What it does.
    #[serde(default)]
    pub status: QueueManagerStatusWord,
    /// Its pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Since when it is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// Use of processors in percent of one, with two decimals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Resident memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<i64>,
}

/// What the queue manager does.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueueManagerStatusWord {
    /// Its pod exists and is not ready yet.
    Starting,
    /// Its pod is ready.
    Running,
    /// Its pod is being stopped.
    Quiescing,
    /// Stopped on purpose.
    EndedNormally,
    /// Not running here: the look of an idle Secondary.
    EndedImmediately,
    /// Its pod failed or went away by itself.
    EndedUnexpectedly,
    /// Cannot be told at the moment.
    #[default]
    StatusNotAvailable,
    /// There is no data yet.
    NotCreated,
}

/// Use of the file system.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct FileSystemState {
    /// Bytes in use.
    pub used_bytes: i64,
    /// Bytes in all.
    pub allocated_bytes: i64,
    /// Whole percent in use.
    pub used_percent: i64,
}

/// Replication.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DrState {
    /// The state of the pair in RDQM's words.
    #[serde(default)]
    pub status: DrStatusWord,
    /// The mode asked for.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_: Option<Mode>,
    /// The mode that holds right now: Asynchronous while the tail of a new session is applied, or alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_type: Option<Mode>,
    /// Port this side listens on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Address of this side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_address: Option<String>,
    /// Addresses of the other side.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remote_addresses: Vec<String>,
    /// The one in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_remote_address: Option<String>,
    /// The link to the peer.
    #[serde(default)]
    pub link: LinkWord,
    /// What the local copy is worth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_data: Option<DataWord>,
    /// Bytes that the other side does not have, or that this side lacks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_of_sync_bytes: Option<i64>,
    /// The same for people: 1520KB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_of_sync: Option<String>,
    /// Progress of a synchronization, with two decimals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_progress_percent: Option<String>,
    /// How far the copy is on its way back to its snapshot, with two decimals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_reversion_percent: Option<String>,
    /// Which way a synchronization goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_direction: Option<SyncDirection>,
    /// When a synchronization is expected to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_completion_time: Option<Time>,
    /// Round trip to the peer in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_millis: Option<i64>,
}

/// The state of the pair in RDQM's words.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DrStatusWord {
    /// Connected and in step.
    Normal,
    /// First full copy, or catching up after a break; the target is inconsistent.
    SynchronizationInProgress,
    /// The peer sends what this side missed; this side stays consistent.
    CatchingUp,
    /// The link to the peer is lost.
    RemoteUnavailable,
    /// No peer is configured.
    RemoteUnconfigured,
    /// The link was lost in the middle of a synchronization.
    Inconsistent,
    /// A promotion is under way, and the copy goes back to what it was before the synchronization.
    RevertingToSnapshot,
    /// Both sides changed data on their own.
    Partitioned,
    /// Both sides are Secondary.
    Inactive,
    /// The peer holds what comes after this side's data: this side must not serve.
    Superseded,
    /// Cannot be read at the moment.
    #[default]
    Unknown,
}

/// The link to the peer.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkWord {
    /// Connected.
    Connected,
    /// Dialling; not yet declared lost.
    Connecting,
    /// Connected, and refused by one side: the message of PeerConnected says why.
    Refused,
    /// Reached, but the certificates do not match.
    AuthFailed,
    /// Reached, but it speaks another protocol version.
    ProtocolMismatch,
    /// Lost.
    Disconnected,
    /// No peer is configured.
    #[default]
    Disabled,
}

/// What the local copy is worth.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataWord {
    /// Never held data.
    Empty,
    /// Everything is here.
    UpToDate,
    /// Everything is here, and the peer is being synchronized from it.
    SyncSource,
    /// Consistent, and older than the peer's.
    Behind,
    /// Being synchronized; inconsistent until it is done.
    Syncing,
    /// Interrupted synchronization; a snapshot from before it exists.
    InconsistentSnap,
    /// Interrupted synchronization; no snapshot exists.
    InconsistentNoSnap,
    /// Has changes that the peer does not have, and the other way round.
    Diverged,
    /// The disk or its metadata failed.
    Failed,
}

/// Which way a synchronization goes.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncDirection {
    /// To the peer.
    Source,
    /// From the peer.
    Target,
}

/// Everything that the Primary completed before `time` (by its clock) is in this copy.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryPoint {
    /// By the Primary's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
    /// At least so many bytes had been completed beyond it when the Primary was last heard.
    #[serde(default)]
    pub behind_bytes: i64,
    /// When both sides were last in sync.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_in_sync_time: Option<Time>,
    /// The epoch it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<String>,
}

/// A snapshot that is held.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotState {
    /// When it was taken, by this side's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_at: Option<Time>,
    /// Bytes that it takes in the pool.
    #[serde(default)]
    pub used_bytes: i64,
}

/// A verification: both copies compared while they are in use.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VerificationState {
    /// `spec.replication.verify.requestId` that asked for it.
    pub request_id: String,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it ended. Absent while it is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// How much is compared, with two decimals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_percent: Option<String>,
    /// Bytes in which the peer's copy differed.
    #[serde(default)]
    pub differing_bytes: i64,
}

/// The identity of the data.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct EpochState {
    /// The current epoch, 32 hexadecimal digits.
    pub current: String,
    /// The ones before it, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<String>,
    /// It ended by a demotion that left nothing behind.
    #[serde(default)]
    pub sealed: bool,
}

/// The other half, as it told through the replication link.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PeerState {
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its role when last heard.
    #[serde(default)]
    pub role: EffectiveRole,
    /// What its copy is worth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataWord>,
    /// Its epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<String>,
    /// Its size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<i64>,
    /// Its mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Version of its replicator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// It answers now.
    #[serde(default)]
    pub reachable: bool,
    /// When it was last heard; only while it is not reachable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Time>,
}

/// Verdicts on a role request.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VerdictWord {
    /// Nothing to change.
    Steady,
    /// Being done.
    Proceed,
    /// Will be done when something else has happened.
    Wait,
    /// Refused; asks for a new request.
    Refuse,
    /// Abnormal; a person must act.
    Hold,
}

/// The loss that a request may bring.
#[derive(
    Serialize,
    Deserialize,
    JsonSchema,
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
)]
pub enum MaxLoss {
    /// None.
    #[default]
    None,
    /// What the peer had and this side has not.
    Possible,
}

/// How the last role request was judged.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RequestState {
    /// metadata.generation of the request.
    pub generation: i64,
    /// `spec.promotion.requestId` of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The role it asked for.
    pub desired: Role,
    /// The verdict.
    pub verdict: VerdictWord,
    /// Why, as one word.
    pub reason: String,
    /// Why, and what to do.
    pub message: String,
    /// When it was first judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// The loss that the state seen at the request allowed.
    #[serde(default)]
    pub max_loss: MaxLoss,
    /// The verdict is stored with the data: it never turns into a lossy one later.
    #[serde(default)]
    pub latched: bool,
}

/// Kinds of transitions.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransitionKind {
    /// The pair began here.
    Creation,
    /// Promotion with the peer's consent.
    Planned,
    /// Promotion without the peer.
    Unplanned,
    /// Demotion.
    Demotion,
}

/// A change of role.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TransitionState {
    /// From.
    pub from: Role,
    /// To.
    pub to: Role,
    /// How.
    pub kind: TransitionKind,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When the new role was durable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// What the copy was worth at an unplanned promotion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_point: Option<RecoveryPoint>,
    /// Upper bound of what a crashed run of this side had written and nobody else has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crashed_tail_bytes: Option<i64>,
}

/// The volume on the node.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct VolumeStatus {
    /// Its identifier on the node.
    pub id: String,
    /// Bytes, as both sides have agreed on; follows `spec.storage.size` when both have grown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<i64>,
    /// The device; only while Primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// What serves the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub front_end: Option<String>,
    /// Files on the node with data that were given up after a partition. Remove them there when nobody
    /// needs them any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept_copies: Vec<String>,
}
