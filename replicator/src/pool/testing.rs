//! Volumes in a temporary directory, for tests.

use super::config::{CONFIG_VERSION, Fs, ReplicationMode, Snapshots, VolumeConfig};
use super::{Allocation, FilePool, NewVolume, VolumeFiles, VolumeKey};

pub(crate) fn config(size_bytes: u64) -> VolumeConfig {
    VolumeConfig {
        version: CONFIG_VERSION,
        cr_uid: "uid".to_owned(),
        queue_manager: "QM1".to_owned(),
        size_bytes,
        fs: Fs::Xfs,
        mode: ReplicationMode::Asynchronous,
        port: 7001,
        local_address: None,
        peer: None,
        tls: None,
        peer_check_timeout_seconds: 30,
        hold_when_peer_unknown: false,
        suspend_io_on_peer_loss: false,
        pull_ahead_on_congestion: false,
        snapshots: Snapshots::default(),
        resync_rate: None,
        verify: None,
    }
}

pub(crate) fn new_volume(config: &VolumeConfig) -> NewVolume<'_> {
    NewVolume {
        config,
        meta_len: 64 << 10,
        meta: &[],
    }
}

/// Open files of a fresh volume; the returned directory is that of its files.
pub(crate) fn scratch_files(size: u64) -> (tempfile::TempDir, VolumeFiles) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let key = VolumeKey::new("ns", "v").expect("valid");
    let pool = FilePool::open(dir.path(), None, Allocation::Sparse).expect("opens");
    let config = config(size);
    pool.create(&key, &new_volume(&config)).expect("creates");
    let files = pool.open_volume(&key).expect("opens");
    for name in ["data", "meta"] {
        std::fs::rename(pool.dir(&key).join(name), dir.path().join(name)).expect("moves");
    }
    (dir, files)
}
