use std::os::unix::fs::PermissionsExt;

use super::testing::{config, new_volume};
use super::*;

fn key() -> VolumeKey {
    VolumeKey::new("ns", "qm1").unwrap()
}

fn pool(capacity: Option<u64>) -> (tempfile::TempDir, FilePool) {
    let dir = tempfile::tempdir().unwrap();
    let pool = FilePool::open(dir.path(), capacity, Allocation::Full).unwrap();
    (dir, pool)
}

#[test]
fn a_second_opener_is_refused_until_the_first_closes() {
    let (_dir, pool) = pool(None);
    pool.create(&key(), &new_volume(&config(1 << 20))).unwrap();
    let first = pool.open_volume(&key()).unwrap();
    assert!(matches!(
        pool.open_volume(&key()),
        Err(PoolError::Locked { .. })
    ));
    drop(first);
    assert_eq!(pool.open_volume(&key()).unwrap().size, 1 << 20);
}

#[test]
fn a_full_pool_names_size_and_free() {
    let (_dir, pool) = pool(Some(3 << 20));
    pool.create(&key(), &new_volume(&config(2 << 20))).unwrap();
    let other = VolumeKey::new("ns", "qm2").unwrap();
    let refused = pool.create(&other, &new_volume(&config(2 << 20)));
    let Err(PoolError::Full {
        wanted,
        free,
        capacity,
    }) = refused
    else {
        panic!("{refused:?}")
    };
    assert_eq!((wanted, free, capacity), (2 << 20, 1 << 20, 3 << 20));
    assert!(!pool.exists(&other));
}

#[test]
fn a_lost_file_is_reported_and_never_made_again() {
    for name in ["data", "meta"] {
        let (_dir, pool) = pool(None);
        pool.create(&key(), &new_volume(&config(1 << 20))).unwrap();
        std::fs::remove_file(pool.dir(&key()).join(name)).unwrap();
        assert!(matches!(
            pool.open_volume(&key()),
            Err(PoolError::DataMissing { .. })
        ));
        assert!(pool.create(&key(), &new_volume(&config(1 << 20))).is_err());
        assert!(!pool.dir(&key()).join(name).exists());
    }
}

#[test]
fn configuration_survives_and_is_private() {
    let (_dir, pool) = pool(None);
    let mut config = config(1 << 20);
    pool.create(&key(), &new_volume(&config)).unwrap();
    config.mode = super::config::ReplicationMode::FlushSynchronous;
    pool.store_config(&key(), &config).unwrap();
    assert_eq!(pool.config(&key()).unwrap(), Some(config));
    let mode = std::fs::metadata(pool.dir(&key()).join(CONFIG))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn retaining_keeps_data_and_drops_keys() {
    let (_dir, pool) = pool(None);
    let mut config = config(1 << 20);
    config.tls = Some(super::config::TlsConfig {
        ca: "ca".into(),
        certificate: "crt".into(),
        key: "secret".into(),
        pair_id: "0".repeat(32),
        server_name: "x.pair.drqm.io".into(),
    });
    pool.create(&key(), &new_volume(&config)).unwrap();
    pool.retain(&key()).unwrap();
    assert_eq!(pool.config(&key()).unwrap(), None);
    assert_eq!(pool.retained(&key()).unwrap(), Some(config.without_keys()));
    pool.open_volume(&key()).unwrap();
}

#[test]
fn room_is_taken_from_the_beginning_or_as_it_is_written() {
    use std::os::unix::fs::MetadataExt as _;
    for allocation in [Allocation::Full, Allocation::Sparse] {
        let dir = tempfile::tempdir().unwrap();
        let pool = FilePool::open(dir.path(), None, allocation).unwrap();
        let config = config(1 << 20);
        let new = new_volume(&config);
        pool.create(&key(), &new).unwrap();
        let room = |name: &str| {
            let path = dir.path().join(key().to_string()).join(name);
            std::fs::metadata(path).unwrap().blocks() * 512
        };
        let is_full = allocation == Allocation::Full;
        assert!(room("meta") >= new.meta_len);
        assert_eq!(room("data") >= 1 << 20, is_full);
        let more = new.meta_len + (1 << 20);
        pool.grow(&key(), 2 << 20, more).unwrap();
        assert!(room("meta") >= more);
        assert_eq!(room("data") >= 2 << 20, is_full);
        assert_eq!(pool.open_volume(&key()).unwrap().is_reserved, is_full);
    }
}

#[test]
fn a_sparse_volume_is_given_its_room_when_it_is_opened_in_a_pool_that_reserves() {
    use std::os::unix::fs::MetadataExt as _;
    let dir = tempfile::tempdir().unwrap();
    let sparse = FilePool::open(dir.path(), None, Allocation::Sparse).unwrap();
    sparse
        .create(&key(), &new_volume(&config(1 << 20)))
        .unwrap();
    let pool = FilePool::open(dir.path(), None, Allocation::Full).unwrap();
    let files = pool.open_volume(&key()).unwrap();
    assert!(files.data.metadata().unwrap().blocks() * 512 >= 1 << 20);
}

#[test]
fn an_interrupted_creation_is_cleared_away() {
    let (dir, _pool) = pool(None);
    std::fs::create_dir(dir.path().join(".new-ns_qm1")).unwrap();
    std::fs::write(dir.path().join(".new-ns_qm1/data"), b"half").unwrap();
    let pool = FilePool::open(dir.path(), None, Allocation::Full).unwrap();
    assert!(!dir.path().join(".new-ns_qm1").exists());
    assert_eq!(pool.list().unwrap(), []);
}

#[test]
fn erasing_twice_is_no_error() {
    let (_dir, pool) = pool(None);
    pool.create(&key(), &new_volume(&config(1 << 20))).unwrap();
    pool.erase(&key()).unwrap();
    pool.erase(&key()).unwrap();
    assert_eq!(pool.list().unwrap(), []);
}

#[test]
fn names_that_could_leave_the_pool_are_refused() {
    for name in ["", "..", "../x", "a/b", "a_b", "A"] {
        assert!(VolumeKey::new("ns", name).is_err(), "{name:?}");
    }
}
