//! Types and reasons of `status.conditions`, each with the sentence that explains it.
//!
//! Lives here: the words. Does not live here: when they apply (`drqm_core::status`, `drqm_core::role`).
//! Reasons are stable: programs may compare them.

/// Condition types. True means good unless the sentence says otherwise.
pub mod condition {
    /// The resource is as it shall be: a Primary serves, or a Secondary stands by.
    pub const READY: &str = "Ready";
    /// The role asked for is the role this side has.
    pub const ROLE_SETTLED: &str = "RoleSettled";
    /// The replication link is up.
    pub const PEER_CONNECTED: &str = "PeerConnected";
    /// Both copies are the same, but for what is in flight.
    pub const IN_SYNC: &str = "InSync";
    /// The copy here is the image of one instant.
    pub const CONSISTENT: &str = "Consistent";
    /// A promotion of this side would succeed.
    pub const PROMOTABLE: &str = "Promotable";
    /// True is bad: both sides hold data that the other one lacks, or this side was superseded.
    pub const SPLIT_BRAIN: &str = "SplitBrain";
    /// Size, mode, name and version fit the peer's.
    pub const PEER_CONFIG_MATCHES: &str = "PeerConfigMatches";
    /// Disk, metadata and device work.
    pub const STORAGE_HEALTHY: &str = "StorageHealthy";
    /// The pair's certificates exist and do not expire within 30 days.
    pub const CERTIFICATES_VALID: &str = "CertificatesValid";

    /// All of them, in the order in which status lists them.
    pub const ALL: [&str; 10] = [
        READY,
        ROLE_SETTLED,
        PEER_CONNECTED,
        IN_SYNC,
        CONSISTENT,
        PROMOTABLE,
        SPLIT_BRAIN,
        PEER_CONFIG_MATCHES,
        STORAGE_HEALTHY,
        CERTIFICATES_VALID,
    ];
}

/// Reasons of conditions, verdicts and refusals.
pub mod reason {
    // Verdicts of the decision table.
    /// Connected and in step.
    pub const NORMAL: &str = "Normal";
    /// A synchronization is under way.
    pub const SYNC_IN_PROGRESS: &str = "SyncInProgress";
    /// The peer holds what comes after this side's data.
    pub const SUPERSEDED_BY_PEER: &str = "SupersededByPeer";
    /// Both sides changed data on their own; a person must choose.
    pub const SPLIT_BRAIN: &str = "SplitBrain";
    /// The peer is said to be Primary too while the link is down.
    pub const DUAL_PRIMARY_SUSPECTED: &str = "DualPrimarySuspected";
    /// The link to the peer is lost.
    pub const REMOTE_UNAVAILABLE: &str = "RemoteUnavailable";
    /// No peer is configured.
    pub const REMOTE_UNCONFIGURED: &str = "RemoteUnconfigured";
    /// The peer is Primary and reachable.
    pub const PEER_IS_PRIMARY: &str = "PeerIsPrimary";
    /// Promoted without any loss.
    pub const PROMOTION_CLEAN: &str = "PromotionClean";
    /// Promoted without any loss while the peer is still being synchronized from here.
    pub const PROMOTION_CLEAN_PEER_SYNCING: &str = "PromotionCleanPeerSyncing";
    /// The peer is sending what this side missed.
    pub const CATCHING_UP: &str = "CatchingUp";
    /// This side never held data; there is nothing to promote.
    pub const NEVER_SYNCHRONIZED: &str = "NeverSynchronized";
    /// A promotion cannot choose between two histories.
    pub const SPLIT_BRAIN_UNRESOLVED: &str = "SplitBrainUnresolved";
    /// Promoted on the strength of a clean demotion of the peer.
    pub const PROMOTION_SEALED: &str = "PromotionSealed";
    /// Promoted without a peer configured.
    pub const PROMOTION_NO_PEER: &str = "PromotionNoPeer";
    /// Something else than the link says that the peer is a living Primary.
    pub const PEER_IS_PRIMARY_OUT_OF_BAND: &str = "PeerIsPrimaryOutOfBand";
    /// The peer was demoted with more data than this side has.
    pub const BEHIND_DEMOTION_TOKEN: &str = "BehindDemotionToken";
    /// Promoted with what is here, the peer being unreachable.
    pub const PROMOTION_PEER_UNKNOWN: &str = "PromotionPeerUnknown";
    /// The copy has to go back to its snapshot before it can be promoted.
    pub const REVERT_THEN_PROMOTE: &str = "RevertThenPromote";
    /// There is no consistent copy on this side.
    pub const NO_CONSISTENT_DATA: &str = "NoConsistentData";
    /// Demoted after the peer acknowledged everything.
    pub const DEMOTION_SEALED: &str = "DemotionSealed";
    /// The demotion waits until the peer is synchronized.
    pub const PEER_SYNC_IN_PROGRESS: &str = "PeerSyncInProgress";
    /// Demoted because the peer holds newer data; nothing is lost.
    pub const REJOIN_SUPERSEDED: &str = "RejoinSuperseded";
    /// Demoted with a history of its own, which is kept.
    pub const DEMOTED_DIVERGED: &str = "DemotedDiverged";
    /// Demoted while the peer is said to be Primary.
    pub const DEMOTION_PEER_PRIMARY: &str = "DemotionPeerPrimary";
    /// Demoted while the peer lacks some of the data.
    pub const DEMOTION_UNSEALED_PEER_BEHIND: &str = "DemotionUnsealedPeerBehind";
    /// Demoted without a peer configured.
    pub const DEMOTION_NO_PEER: &str = "DemotionNoPeer";
    /// Both sides are Secondary.
    pub const INACTIVE: &str = "Inactive";
    /// A synchronization was interrupted; the copy is inconsistent.
    pub const INCONSISTENT: &str = "Inconsistent";
    /// A combination that cannot be; nothing is done.
    pub const INVARIANT_VIOLATION: &str = "InvariantViolation";

    // Requests.
    /// The peer cannot be reached, and the request does not allow a loss.
    pub const PEER_UNKNOWN: &str = "PeerUnknown";
    /// The request is older than one that was judged, or belongs to another object.
    pub const STALE_ROLE_REQUEST: &str = "StaleRoleRequest";
    /// The last switch is not protected by a synchronized copy yet.
    pub const PREVIOUS_SWITCH_NOT_PROTECTED: &str = "PreviousSwitchNotProtected";
    /// This side once had data and finds none.
    pub const DATA_MISSING: &str = "DataMissing";
    /// The request waited too long.
    pub const TIMED_OUT: &str = "TimedOut";
    /// The request waits for the peer's word, or for the link being declared down.
    pub const ASKING_PEER: &str = "AskingPeer";
    /// The disk failed.
    pub const DISK_FAILED: &str = "DiskFailed";
    /// The replicator's device is still in use.
    pub const DEVICE_HELD: &str = "DeviceHeld";
    /// The queue manager is being stopped.
    pub const STOPPING_QUEUE_MANAGER: &str = "StoppingQueueManager";

    // Creation.
    /// The pair begins here.
    pub const CREATION: &str = "Creation";
    /// The peer has data; an empty queue manager beside it would be a mistake.
    pub const PEER_HAS_DATA: &str = "PeerHasData";
    /// The configured peer cannot be reached, and `bootstrap` is Auto.
    pub const PEER_UNREACHABLE_AT_CREATION: &str = "PeerUnreachableAtCreation";
    /// `bootstrap: New` listens for the peer for 30 seconds.
    pub const LISTENING_FOR_PEER: &str = "ListeningForPeer";
    /// What answers at the peer's address does not accept our certificate, or we do not accept its.
    pub const AUTH_FAILED: &str = "AuthFailed";
    /// The peer speaks another protocol version.
    pub const PROTOCOL_MISMATCH: &str = "ProtocolMismatch";
    /// The peer has another size, name or history.
    pub const PEER_MISMATCH: &str = "PeerMismatch";

    // Ready.
    /// The queue manager is ready.
    pub const SERVING: &str = "Serving";
    /// A healthy Secondary.
    pub const STANDBY: &str = "Standby";
    /// The queue manager is starting.
    pub const STARTING: &str = "Starting";
    /// Primary, stopped on purpose.
    pub const STOPPED: &str = "Stopped";
    /// Something failed; the message says what.
    pub const FAILED: &str = "Failed";
    /// The image of the queue manager cannot be pulled.
    pub const IMAGE_PULL: &str = "ImagePull";
    /// The volume is not there yet.
    pub const WAITING_FOR_VOLUME: &str = "WaitingForVolume";
    /// The spec cannot be carried out; the message names the field.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// No node has a ready replicator.
    pub const NO_NODE: &str = "NoNode";
    /// The replicator on the node does not answer.
    pub const REPLICATOR_UNREACHABLE: &str = "ReplicatorUnreachable";
    /// The pair's Secret is missing.
    pub const SECRET_MISSING: &str = "SecretMissing";
    /// The pair's Secret cannot be used.
    pub const SECRET_INVALID: &str = "SecretInvalid";
    /// Another resource on the node has the port.
    pub const PORT_TAKEN: &str = "PortTaken";
    /// A child object belongs to somebody else.
    pub const FOREIGN_OBJECT: &str = "ForeignObject";
    /// Deletion waits until the queue manager is stopped.
    pub const DELETION_BLOCKED_RUNNING: &str = "DeletionBlockedRunning";
    /// Being deleted.
    pub const DELETING: &str = "Deleting";
    /// The role asked for is not the role this side has.
    pub const ROLE_NOT_SETTLED: &str = "RoleNotSettled";
    /// The starting Primary waits for its peer's word.
    pub const WAITING_FOR_PEER: &str = "WaitingForPeer";
    /// The starting Primary keeps its device closed until the peer answers.
    pub const HELD: &str = "Held";
    /// Writes wait for the peer, which is away.
    pub const IO_SUSPENDED: &str = "IoSuspended";

    // RoleSettled.
    /// As asked for.
    pub const SETTLED: &str = "Settled";

    // PeerConnected.
    /// Connected.
    pub const CONNECTED: &str = "Connected";
    /// Dialling.
    pub const CONNECTING: &str = "Connecting";
    /// Connected and refused by one side.
    pub const REFUSED: &str = "Refused";

    // InSync, Consistent.
    /// In sync.
    pub const IN_SYNC: &str = "InSync";
    /// Both sides changed data on their own.
    pub const PARTITIONED: &str = "Partitioned";
    /// Consistent.
    pub const CONSISTENT: &str = "Consistent";
    /// A snapshot from before the interrupted synchronization exists.
    pub const SNAPSHOT_AVAILABLE: &str = "SnapshotAvailable";

    /// The copy goes back to its snapshot.
    pub const REVERTING: &str = "Reverting";
    /// No snapshot can be taken, or the one that was is of no use.
    pub const SNAPSHOT_FAILED: &str = "SnapshotFailed";

    // Promotable.
    /// A promotion now would lose nothing.
    pub const LOSS_FREE: &str = "LossFree";
    /// A promotion now may lose what the peer has and this side has not.
    pub const LOSS_POSSIBLE: &str = "LossPossible";
    /// A promotion needs the snapshot.
    pub const NEEDS_REVERT: &str = "NeedsRevert";
    /// A promotion is refused by `promotion.whenPeerUnknown`.
    pub const NEEDS_FORCE: &str = "NeedsForce";
    /// Already Primary.
    pub const ALREADY_PRIMARY: &str = "AlreadyPrimary";

    // SplitBrain.
    /// Detected.
    pub const DETECTED: &str = "Detected";
    /// Superseded by the peer.
    pub const SUPERSEDED: &str = "Superseded";
    /// None.
    pub const NONE: &str = "None";

    // PeerConfigMatches.
    /// Matches.
    pub const MATCHES: &str = "Matches";
    /// Sizes differ.
    pub const SIZE_MISMATCH: &str = "SizeMismatch";
    /// Modes differ; the Primary's holds.
    pub const MODE_MISMATCH: &str = "ModeMismatch";
    /// Names of the queue manager differ.
    pub const NAME_MISMATCH: &str = "NameMismatch";
    /// Versions differ.
    pub const VERSION_SKEW: &str = "VersionSkew";
    /// Not known.
    pub const UNKNOWN: &str = "Unknown";

    // StorageHealthy, CertificatesValid.
    /// Fine.
    pub const OK: &str = "Ok";
    /// An I/O error.
    pub const IO_ERROR: &str = "IoError";
    /// The device died under its users and is being replaced.
    pub const DEVICE_DEAD: &str = "DeviceDead";
    /// The device could not be opened.
    pub const DEVICE_FAILED: &str = "DeviceFailed";
    /// Something tried to destroy the file system's identity and was refused.
    pub const FORMAT_BLOCKED: &str = "FormatBlocked";
    /// A certificate expires within 30 days.
    pub const EXPIRING: &str = "Expiring";
    /// A certificate has expired.
    pub const EXPIRED: &str = "Expired";
}
