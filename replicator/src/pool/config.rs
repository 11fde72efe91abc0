//! What the operator configured for a volume, as it is stored beside the data (mode 0600, keys
//! included) so that the volume resumes with the API server gone.
//!
//! Does not live here: checks of what the operator sends (control), the wire types.

use std::time::Duration;

use drqm_engine::event::FsKind;
use drqm_engine::settings::{
    Mode, OnCongestion, OnPeerLoss, Settings, SnapshotPolicy, VerifyOrder, WhenPeerUnknown,
};
use serde::{Deserialize, Serialize};

/// Version of the file's form; another one is refused.
pub(crate) const CONFIG_VERSION: u32 = 1;

/// Everything but role and data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct VolumeConfig {
    pub(crate) version: u32,
    pub(crate) cr_uid: String,
    pub(crate) queue_manager: String,
    pub(crate) size_bytes: u64,
    pub(crate) fs: Fs,
    pub(crate) mode: ReplicationMode,
    pub(crate) port: u16,
    pub(crate) local_address: Option<std::net::IpAddr>,
    pub(crate) peer: Option<PeerConfig>,
    pub(crate) tls: Option<TlsConfig>,
    pub(crate) peer_check_timeout_seconds: u32,
    pub(crate) hold_when_peer_unknown: bool,
    #[serde(default)]
    pub(crate) suspend_io_on_peer_loss: bool,
    #[serde(default)]
    pub(crate) pull_ahead_on_congestion: bool,
    #[serde(default)]
    pub(crate) snapshots: Snapshots,
    /// Bytes per second of a synchronization; none: as fast as it goes.
    #[serde(default)]
    pub(crate) resync_rate: Option<u64>,
    /// A verification that is wanted.
    #[serde(default)]
    pub(crate) verify: Option<VerifyConfig>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct VerifyConfig {
    pub(crate) request: String,
    pub(crate) repair: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Fs {
    Xfs,
    Ext4,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum ReplicationMode {
    Asynchronous,
    FlushSynchronous,
    Synchronous,
}

impl From<ReplicationMode> for Mode {
    fn from(mode: ReplicationMode) -> Self {
        match mode {
            ReplicationMode::Asynchronous => Self::Asynchronous,
            ReplicationMode::FlushSynchronous => Self::FlushSynchronous,
            ReplicationMode::Synchronous => Self::Synchronous,
        }
    }
}

/// What a copy keeps of itself before a synchronization.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Snapshots {
    #[default]
    Required,
    BestEffort,
    Never,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct PeerConfig {
    pub(crate) name: String,
    pub(crate) addresses: Vec<String>,
}

/// PEM texts. Never logged: the key's `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct TlsConfig {
    pub(crate) ca: String,
    pub(crate) certificate: String,
    pub(crate) key: String,
    pub(crate) pair_id: String,
    pub(crate) server_name: String,
}

impl std::fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsConfig")
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

impl VolumeConfig {
    /// As the engine needs it, with a bound of what it keeps for its peer.
    pub(crate) fn settings(&self, log_bytes: u64) -> Settings {
        Settings {
            mode: self.mode.into(),
            has_peer: self.peer.is_some(),
            queue_manager: self.queue_manager.clone(),
            fs: match self.fs {
                Fs::Xfs => FsKind::Xfs,
                Fs::Ext4 => FsKind::Ext4,
            },
            peer_check_timeout: Duration::from_secs(self.peer_check_timeout_seconds.into()),
            when_peer_unknown: if self.hold_when_peer_unknown {
                WhenPeerUnknown::Hold
            } else {
                WhenPeerUnknown::Start
            },
            on_peer_loss: if self.suspend_io_on_peer_loss {
                OnPeerLoss::SuspendIo
            } else {
                OnPeerLoss::Continue
            },
            on_congestion: if self.pull_ahead_on_congestion {
                OnCongestion::PullAhead
            } else {
                OnCongestion::Block
            },
            resync_rate: self.resync_rate,
            snapshots: match self.snapshots {
                Snapshots::Required => SnapshotPolicy::Required,
                Snapshots::BestEffort => SnapshotPolicy::BestEffort,
                Snapshots::Never => SnapshotPolicy::Never,
            },
            verify: self.verify.as_ref().map(|v| VerifyOrder {
                request: v.request.clone(),
                repair: v.repair,
            }),
            capacity: self.size_bytes,
            window_bytes: log_bytes,
            log_bytes,
        }
    }

    pub(crate) fn without_keys(&self) -> Self {
        Self {
            tls: None,
            ..self.clone()
        }
    }
}
