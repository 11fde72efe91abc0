//! Version v1alpha1 of `DrQueueManager`: what a person may ask for.
//!
//! Lives here: the spec, its defaults, its CEL rules and the printer columns. The status is in
//! `status`. Does not live here: anything that computes; what CEL cannot say is checked by
//! `drqm_core::validate`.
//!
//! Only fields that do something exist. The texts are what `kubectl explain` shows.

#![expect(
    unreachable_pub,
    reason = "the KubeSchema derive repeats each struct inside a function"
)]

pub mod status;

use k8s_openapi::api::core::v1::ServicePort;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

pub use status::*;

/// What this half shall be.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "drqm.io",
    version = "v1alpha1",
    kind = "DrQueueManager",
    plural = "drqueuemanagers",
    shortname = "drqm",
    category = "drqm",
    namespaced,
    status = "DrQueueManagerStatus",
    derive = "PartialEq",
    selectable = ".spec.role",
    doc = "One half of a disaster-recovery pair of queue managers: the half that lives in this cluster. The other half is a DrQueueManager with the same spec.queueManager.name in the other cluster. Patching spec.role is all that a switch needs.",
    printcolumn(name = "QMgr", type_ = "string", json_path = ".spec.queueManager.name"),
    printcolumn(name = "Role", type_ = "string", json_path = ".status.role"),
    printcolumn(name = "Desired", type_ = "string", json_path = ".spec.role"),
    printcolumn(name = "QM-Status", type_ = "string", json_path = ".status.queueManager.status"),
    printcolumn(name = "DR-Status", type_ = "string", json_path = ".status.dr.status"),
    printcolumn(name = "Out-Of-Sync", type_ = "string", json_path = ".status.dr.outOfSync"),
    printcolumn(name = "Sync%", type_ = "string", json_path = ".status.dr.syncProgressPercent"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Ready", type_ = "string", priority = 1, json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Type", type_ = "string", priority = 1, json_path = ".status.dr.type"),
    printcolumn(name = "ETA", type_ = "string", priority = 1, json_path = ".status.dr.estimatedCompletionTime"),
    printcolumn(name = "Recovery-Point", type_ = "string", priority = 1, json_path = ".status.recoveryPoint.time"),
    printcolumn(name = "Peer", type_ = "string", priority = 1, json_path = ".status.peer.name"),
    printcolumn(name = "Peer-Role", type_ = "string", priority = 1, json_path = ".status.peer.role"),
    printcolumn(name = "Promotable", type_ = "string", priority = 1, json_path = ".status.conditions[?(@.type==\"Promotable\")].reason"),
    printcolumn(name = "Node", type_ = "string", priority = 1, json_path = ".status.node"),
    printcolumn(name = "Reason", type_ = "string", priority = 1, json_path = ".status.request.reason"),
    validation = Rule::new("self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must have at most 40 characters and be a DNS label (lower-case letters, digits and '-'): names of child objects are made from it; create the object with a shorter or simpler name")
)]
#[serde(rename_all = "camelCase")]
pub struct DrQueueManagerSpec {
    /// The role this half shall have. The only field that a switch needs: patch the running side to
    /// Secondary, then the other one to Primary. How a request was judged is in `status.request`.
    pub role: Role,

    /// The queue manager that runs on the replicated volume while the role is Primary.
    pub queue_manager: QueueManagerSpec,

    /// How a Primary with an empty disk begins. `Auto` needs the configured peer to answer that it is
    /// empty too; `New` begins also when the peer cannot be reached for 30 seconds.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("bootstrap cannot change after creation; delete the object and create it anew"))]
    pub bootstrap: Bootstrap,

    /// What a promotion may do.
    #[serde(default)]
    pub promotion: PromotionSpec,

    /// What a Primary does when it starts and cannot ask its peer.
    #[serde(default)]
    pub start: StartSpec,

    /// The replicated volume.
    #[serde(default)]
    pub storage: StorageSpec,

    /// Replication to the other cluster.
    #[serde(default)]
    pub replication: ReplicationSpec,

    /// What a copy keeps of itself.
    #[serde(default)]
    pub snapshots: SnapshotsSpec,

    /// A person's decision after both sides changed data on their own (`dr.status: Partitioned`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<PartitionSpec>,

    /// What deleting this object does.
    #[serde(default)]
    pub deletion: DeletionSpec,
}

/// The two roles.
#[derive(
    Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord,
)]
pub enum Role {
    /// Runs the queue manager and sends every write to the peer.
    Primary,
    /// Receives the writes; no device, no pod.
    Secondary,
}

/// The queue manager: its name, whether it shall run, and what it is.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[x_kube(validation = Rule::new("has(self.custom)").message("queueManager needs exactly one kind: set queueManager.custom with a pod template"))]
#[serde(rename_all = "camelCase")]
pub struct QueueManagerSpec {
    /// Name of the queue manager, equal on both sides: 1 to 48 of A-Z a-z 0-9 . _ / %.
    #[schemars(length(min = 1, max = 48))]
    #[x_kube(
        validation = Rule::new("self.matches('^[A-Za-z0-9._/%]{1,48}$')").message("queueManager.name must have 1 to 48 characters of A-Z a-z 0-9 . _ / %"),
        validation = Rule::new("self == oldSelf").message("queueManager.name cannot change after creation; create another DrQueueManager for another queue manager")
    )]
    pub name: String,

    /// Whether the queue manager runs while this half is Primary. A Secondary never runs it.
    #[serde(default = "always")]
    pub running: bool,

    /// Any program that keeps its state on the volume, described by a pod template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom: Option<CustomQueueManager>,
}

/// Any program that keeps its state on the volume.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CustomQueueManager {
    /// The pod, as in a StatefulSet's spec.template. The volume is added to it, and nothing else.
    #[schemars(schema_with = "pod_template")]
    pub template: serde_json::Value,

    /// Where the volume is mounted.
    pub volume: VolumeMountSpec,

    /// Ports of the Service that is published while the queue manager may serve. None: no Service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub ports: Vec<ServicePort>,
}

/// Where a custom queue manager sees the volume.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct VolumeMountSpec {
    /// Absolute path inside the container.
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new("self.matches('^/[^:]*$') && self != '/' && !self.matches('(^|/)[.][.](/|$)')").message("mountPath must be an absolute path below /, without ':' and '..', for example /data"))]
    pub mount_path: String,

    /// The container that gets the volume. Default: the first one of the template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub container: Option<String>,
}

/// How a Primary with an empty disk begins.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bootstrap {
    /// Begin when no peer is configured, or when the peer answers that it is empty.
    #[default]
    Auto,
    /// Begin also when the peer cannot be reached for 30 seconds.
    New,
}

/// What a promotion may do.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PromotionSpec {
    /// Any new string asks again after a refusal, without touching `role`. `kubectl drqm promote` sets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub request_id: Option<String>,

    /// What to do when the peer cannot be reached: `Allow` promotes with what is here, and says how
    /// old that is; `RequireForce` refuses.
    #[serde(default)]
    pub when_peer_unknown: PromoteWhenPeerUnknown,

    /// How long a promotion that has to wait, or was refused because the peer was Primary, may still
    /// happen by itself once it is free of loss.
    #[serde(default = "promotion_timeout_seconds")]
    #[schemars(range(min = 1, max = 86_400))]
    pub timeout_seconds: u32,
}

/// What a promotion does when the peer cannot be reached.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PromoteWhenPeerUnknown {
    /// Promote with what is here.
    #[default]
    Allow,
    /// Refuse.
    RequireForce,
}

/// What a Primary does when it starts.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct StartSpec {
    /// How long a starting Primary waits for its peer's word before it opens its device.
    #[serde(default = "peer_check_timeout_seconds")]
    #[schemars(range(min = 1, max = 3_600))]
    pub peer_check_timeout_seconds: u32,

    /// What it does when the peer has not answered by then.
    #[serde(default)]
    pub when_peer_unknown: StartWhenPeerUnknown,
}

/// What a starting Primary does when its peer has not answered.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartWhenPeerUnknown {
    /// Open the device and run.
    #[default]
    Start,
    /// Keep the device closed until the peer answers.
    Hold,
}

/// The replicated volume.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[x_kube(
    validation = Rule::new("!isQuantity(self.size) || self.fsType != 'xfs' || quantity(self.size).compareTo(quantity('300Mi')) >= 0").message("storage.size must be at least 300Mi for xfs (mkfs.xfs makes nothing smaller); give more, or choose fsType: ext4"),
    validation = Rule::new("!isQuantity(self.size) || quantity(self.size).compareTo(quantity('16Mi')) >= 0").message("storage.size must be at least 16Mi")
)]
#[serde(rename_all = "camelCase")]
pub struct StorageSpec {
    /// Size of the volume, equal on both sides; a multiple of 4096 bytes. May grow: raise it on both sides, in any
    /// order; the volume grows under its users when both have room and are in step, the file system with it.
    #[serde(default = "storage_size")]
    #[schemars(schema_with = "quantity_string")]
    #[x_kube(
        validation = Rule::new("isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))").message("storage.size must be a quantity greater than 0, for example 3Gi"),
        validation = Rule::new("!isQuantity(self) || (quantity(self).isInteger() && quantity(self).asInteger() % 4096 == 0)").message("storage.size must be a whole number of 4096-byte sectors below 100Ti, without a fraction, for example 3Gi or 512Mi"),
        validation = Rule::new("!isQuantity(self) || !isQuantity(oldSelf) || quantity(self).compareTo(quantity(oldSelf)) >= 0").message("storage.size cannot shrink; create a smaller DrQueueManager and move the data")
    )]
    pub size: Quantity,

    /// File system, made once when the pair begins. Fixed at creation.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("storage.fsType cannot change after creation"))]
    pub fs_type: FsType,
}

/// File systems.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum FsType {
    /// xfs; needs at least 300Mi.
    #[default]
    Xfs,
    /// ext4.
    Ext4,
}

/// Replication to the other cluster.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[x_kube(
    validation = Rule::new("self.onPeerLoss != 'SuspendIO' || self.mode != 'Asynchronous'").message("replication.onPeerLoss: SuspendIO needs mode Synchronous or FlushSynchronous: asynchronous writes are acknowledged before the peer has them; choose such a mode, or Continue"),
    validation = Rule::new("self.onPeerLoss != 'SuspendIO' || has(self.peer)").message("replication.onPeerLoss: SuspendIO needs replication.peer; without a peer nothing is ever lost or found"),
    validation = Rule::new("!has(self.onCongestion) || self.onCongestion != 'PullAhead' || self.mode == 'Asynchronous'").message("replication.onCongestion: PullAhead needs mode Asynchronous: in the others writers wait for the peer; leave it out, or choose Block")
)]
#[x_kube(validation = Rule::new("!has(self.peer) || !has(self.localAddress) || self.peer.addresses.all(a, !a.matches('^.*:[0-9]{1,5}$') || int(a.substring(a.lastIndexOf(':') + 1)) != self.port || !(a.substring(0, a.lastIndexOf(':')) in [self.localAddress, '[' + self.localAddress + ']']))").message("replication.peer.addresses names this side itself (localAddress and port); give the address of the other cluster's node"))]
#[serde(rename_all = "camelCase")]
pub struct ReplicationSpec {
    /// `Synchronous`: every write completes when both sides have it. `FlushSynchronous`: flushes (what a
    /// broker confirms after) complete when both sides have them durably, other writes when this side
    /// has them. `Asynchronous`: all complete when this side has them. Must be equal on both sides.
    /// May be changed at any time, on both sides; the Primary's holds, and `status.dr.effectiveType` says
    /// what holds now.
    #[serde(default)]
    pub mode: Mode,

    /// What the Primary does when its peer is gone. `Continue`: it goes on alone, and says so.
    /// `SuspendIO`: writes wait until the peer is back, so that nothing is acknowledged that the peer
    /// may lack; for Synchronous and FlushSynchronous, from the moment that the pair was in step.
    #[serde(default)]
    pub on_peer_loss: OnPeerLoss,

    /// What the Primary does when its peer takes less than is written. `PullAhead`, only for Asynchronous and
    /// the default there: the peer is left behind, consistent and promotable, and is caught up with by a
    /// synchronization later. `Block`, the default otherwise: writers wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_congestion: Option<OnCongestion>,

    /// Bounds of what replication takes.
    #[serde(default)]
    pub limits: LimitsSpec,

    /// Compares the two copies block by block while they are in use; see `status.verification`. Set on the
    /// Primary's side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<VerifySpec>,

    /// Port this side listens on for its peer. Any number of pairs may share 7001.
    #[serde(default = "replication_port")]
    #[schemars(range(min = 1024, max = 65535))]
    #[x_kube(validation = Rule::new("!(self in [1414, 9157, 9443, 9414, 9415, 7441, 9441])").message("replication.port is reserved for the queue manager or for drqm itself (1414, 9157, 9443, 9414, 9415, 7441, 9441); use 7001 or another port"))]
    pub port: u16,

    /// IP address of this node that the replication binds and dials from. Default: the node's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 45))]
    #[x_kube(validation = Rule::new("isIP(self)").message("replication.localAddress must be an IP address of this cluster's node, without a port, for example 10.0.2.14"))]
    pub local_address: Option<String>,

    /// The other half. Omitted: the Primary runs unprotected and `dr.status` is RemoteUnconfigured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<PeerSpec>,

    /// Certificates. Omitted: the operator makes a CA and a certificate for each side of the pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSpec>,
}

/// Replication modes.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// A write completes when this side has it.
    #[default]
    Asynchronous,
    /// A flush completes when both sides have it durably, a write when this side has it.
    FlushSynchronous,
    /// A write completes when both sides have it.
    Synchronous,
}

/// What a Primary does without its peer.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnPeerLoss {
    /// It goes on alone.
    #[default]
    Continue,
    /// Its writes wait for the peer.
    #[serde(rename = "SuspendIO")]
    SuspendIo,
}

/// What a Primary does with a slow peer.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnCongestion {
    /// Writers wait for it.
    Block,
    /// It is left behind and caught up with later.
    PullAhead,
}

/// Bounds of what replication takes.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LimitsSpec {
    /// Bytes per second that a synchronization from this side may read and send, at least 1048576.
    /// Omitted: as fast as disks and link allow. What the queue manager writes is not held back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1_048_576, max = 1_099_511_627_776_u64))]
    pub resync_rate_bytes_per_second: Option<u64>,
}

/// A verification.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct VerifySpec {
    /// Any new string, a date for example, verifies once more. It runs while the two sides are in step, at
    /// `limits.resyncRateBytesPerSecond` if that is set.
    #[schemars(length(min = 1, max = 128))]
    pub request_id: String,

    /// `true`: what differs is copied to the peer when the verification has ended, by a synchronization.
    /// `false`: it is marked, and copied when the link has been lost and is back.
    #[serde(default)]
    pub repair: bool,
}

/// The other half.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PeerSpec {
    /// What the other side is called in status, for example `dr2`. A name for people, not a host name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,

    /// Where the other side listens, as host:port, tried in order. IPv6 addresses in brackets.
    #[schemars(length(min = 1, max = 4), inner(length(min = 3, max = 262)))]
    #[x_kube(
        validation = Rule::new("self.all(a, a.matches('^([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?|\\\\[[0-9A-Fa-f:.]+\\\\]):[0-9]{1,5}$'))").message("replication.peer.addresses: each must be host:port with an IPv4 address, an IPv6 address in brackets or a DNS name, for example 10.0.2.15:7001 or [2001:db8::15]:7001"),
        validation = Rule::new("self.all(a, !a.matches('^.*:[0-9]{1,5}$') || (int(a.substring(a.lastIndexOf(':') + 1)) >= 1 && int(a.substring(a.lastIndexOf(':') + 1)) <= 65535))").message("replication.peer.addresses: the port must be between 1 and 65535"),
        validation = Rule::new("self.all(a, !a.matches('^[0-9.]+:[0-9]{1,5}$') || isIP(a.substring(0, a.lastIndexOf(':'))))").message("replication.peer.addresses: an address of digits and dots must be a valid IPv4 address"),
        validation = Rule::new("self.all(a, !a.matches('^\\\\[.*\\\\]:[0-9]{1,5}$') || isIP(a.substring(1, a.lastIndexOf(']'))))").message("replication.peer.addresses: what is in brackets must be a valid IPv6 address")
    )]
    pub addresses: Vec<String>,
}

/// Certificates of the pair.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TlsSpec {
    /// Secret of type kubernetes.io/tls in this namespace, with ca.crt beside tls.crt and tls.key
    /// (the form that cert-manager makes). The certificate is for clients and servers, and carries the
    /// DNS name `<queue manager>.pair.drqm.io`, where `<queue manager>` is queueManager.name in lower
    /// case with `-` for everything but letters and digits. A new content is taken up within a minute.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

/// Whose data stay after a partition.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PartitionSpec {
    /// `KeepRemote`: the data here make way for the peer's, once the role is Secondary; a copy of them stays on
    /// the node (`status.volume.keptCopies`), and only what differs is transferred. `KeepLocal`: the data here stay
    /// and may be promoted again while the peer cannot be reached; the pair becomes one when the
    /// peer's side says KeepRemote.
    pub resolution: PartitionResolution,

    /// The epoch of the data here (`status.epoch.current`) that this was decided on. For any other it does
    /// nothing.
    #[schemars(length(min = 32, max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9a-f]{32}$')").message("partition.epoch must be the 32 hexadecimal digits of this side's status.epoch.current"))]
    pub epoch: String,
}

/// Whose data stay.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionResolution {
    /// This side's.
    KeepLocal,
    /// The peer's.
    KeepRemote,
}

/// What a copy keeps of itself.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotsSpec {
    /// Before a synchronization makes a consistent copy inconsistent: `Required` keeps what the copy was
    /// until it is consistent again, and begins no synchronization without room for that; a promotion
    /// meanwhile goes back to it. `BestEffort` synchronizes without when there is no room, `Never` always.
    #[serde(default)]
    pub before_resync: BeforeResync,
}

/// What is kept before a synchronization.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BeforeResync {
    /// No snapshot, no synchronization.
    #[default]
    Required,
    /// A snapshot if there is room.
    BestEffort,
    /// No snapshot: a copy whose synchronization was interrupted cannot be promoted.
    Never,
}

/// What deleting this object does.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DeletionSpec {
    /// Deleting while the queue manager runs: `Refuse` it, or `Stop` the queue manager first.
    #[serde(default)]
    pub while_running: DeleteWhileRunning,

    /// What happens to the data of this side: `Retain` it on the node, or `Delete` it.
    #[serde(default)]
    pub data: DataOnDelete,
}

/// Deleting while the queue manager runs.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeleteWhileRunning {
    /// Keep everything until the queue manager is stopped.
    #[default]
    Refuse,
    /// Stop the queue manager, then delete.
    Stop,
}

/// What happens to the data of this side.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DataOnDelete {
    /// The volume stays on the node.
    #[default]
    Retain,
    /// The volume is erased.
    Delete,
}

impl Default for PromotionSpec {
    fn default() -> Self {
        Self {
            request_id: None,
            when_peer_unknown: PromoteWhenPeerUnknown::default(),
            timeout_seconds: promotion_timeout_seconds(),
        }
    }
}

impl Default for StartSpec {
    fn default() -> Self {
        Self {
            peer_check_timeout_seconds: peer_check_timeout_seconds(),
            when_peer_unknown: StartWhenPeerUnknown::default(),
        }
    }
}

impl Default for StorageSpec {
    fn default() -> Self {
        Self {
            size: storage_size(),
            fs_type: FsType::default(),
        }
    }
}

impl Default for ReplicationSpec {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            on_peer_loss: OnPeerLoss::default(),
            on_congestion: None,
            limits: LimitsSpec::default(),
            verify: None,
            port: replication_port(),
            local_address: None,
            peer: None,
            tls: None,
        }
    }
}

fn always() -> bool {
    true
}

fn promotion_timeout_seconds() -> u32 {
    900
}

fn peer_check_timeout_seconds() -> u32 {
    30
}

fn storage_size() -> Quantity {
    Quantity("3Gi".to_owned())
}

fn replication_port() -> u16 {
    7001
}

/// A quantity as a string: the derived schema would allow bare integers, on which CEL's quantity
/// functions do not work, and carries three kilobytes of text.
fn quantity_string(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "minLength": 1, "maxLength": 32 })
}

/// The embedded pod template is checked by the API server when the StatefulSet is made from it, so
/// that this CRD does not have to know every field of every Kubernetes version.
fn pod_template(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

#[cfg(test)]
mod tests;
