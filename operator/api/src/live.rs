//! The exact state of one volume, as the operator's `/live/<namespace>/<name>` serves it.
//!
//! Status carries live figures only in steps; this carries them as the replicator reported them, with
//! the age of the report. Lives here: the document. Does not live here: serving and fetching it.

use serde::{Deserialize, Serialize};

use crate::v1alpha1::{
    DrQueueManagerStatus, DrState, EffectiveRole, EpochState, FileSystemState, PeerState,
    RecoveryPoint,
};

/// Port name of the operator's Service whose proxy serves the document.
pub const SERVICE_PORT: &str = "http";

/// Path of the document below the operator's Service.
#[must_use]
pub fn path(namespace: &str, name: &str) -> String {
    format!("/live/{namespace}/{name}")
}

/// The exact state of one volume.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LiveState {
    /// Age of the replicator's report when the document was made.
    pub age_millis: u64,
    /// Role.
    pub role: EffectiveRole,
    /// Replication, with exact figures.
    pub dr: DrState,
    /// Use of the file system, while mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_system: Option<FileSystemState>,
    /// Use of processors in percent of one, with two decimals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Resident memory of the queue manager.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<i64>,
    /// What this copy is worth in time; exact, also while in step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_point: Option<RecoveryPoint>,
    /// The identity of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<EpochState>,
    /// The other half.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<PeerState>,
    /// Time since the peer was last heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_heard_age_millis: Option<u64>,
    /// Bytes of a synchronization that are done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_done_bytes: Option<u64>,
    /// Bytes of a synchronization in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_total_bytes: Option<u64>,
    /// Its speed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_bytes_per_second: Option<u64>,
}

impl LiveState {
    /// Puts the exact figures into a status that was read from the API server.
    pub fn overlay(self, status: &mut DrQueueManagerStatus) {
        status.role = self.role;
        status.dr = self.dr;
        status.file_system = self.file_system;
        status.queue_manager.cpu = self.cpu.or(status.queue_manager.cpu.take());
        status.queue_manager.memory_bytes = self
            .memory_bytes
            .or(status.queue_manager.memory_bytes.take());
        status.recovery_point = self.recovery_point;
        status.epoch = self.epoch;
        status.peer = self.peer;
    }
}
