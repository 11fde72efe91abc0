//! A copy whose synchronization was interrupted goes back to what it was, with real files and processes that
//! are killed.

use drqm_rpc::control::v1 as pb;

use crate::pki::Ca;
use crate::support::{Mounted, gate, pair_in_sync_of, request, until_normal, with_peer};
use crate::write_durably;

const SIZE: u64 = 512 << 20;

/// More than is kept for a peer that is away.
const MUCH: usize = 300 << 20;

#[tokio::test]
async fn an_interrupted_copy_goes_back_and_is_promoted() {
    let ca = Ca::new();
    let (mut one, mut two) = pair_in_sync_of(&ca, SIZE, "ext4").await;
    // Slow enough that the middle of the copy cannot be missed.
    let slow = pb::ConfigureRequest {
        resync_bytes_per_second: 50 << 20,
        ..with_peer(request(SIZE, "ext4"), &ca, two.replication)
    };
    one.configure(slow).await.unwrap();
    let mounted = Mounted::new(&one.device(), &one.dir.path().join("mnt"), "ext4");
    write_durably(&mounted.path().join("file"), b"from before");
    until_normal(&mut one, &mut two).await;

    two.kill();
    write_durably(&mounted.path().join("much"), &vec![7; MUCH]);
    two.spawn().await;
    two.until("synchronizing", |s| s.data() == pb::Data::Syncing)
        .await;
    one.kill();
    drop(mounted);
    let state = two
        .until("inconsistent", |s| s.data() == pb::Data::InconsistentSnap)
        .await;
    let refused = two.set_role(pb::Role::Primary, &state.epoch, false).await;
    assert_eq!(
        refused.map(|r| r.code()),
        Some(pb::RefusalCode::NoConsistentData)
    );
    let stale = two.revert(&"ab".repeat(16)).await;
    assert_eq!(stale.map(|r| r.code()), Some(pb::RefusalCode::StaleEpoch));

    assert_eq!(two.revert(&state.epoch).await, None);
    // In the middle of it, as far as it has come.
    two.kill();
    two.spawn().await;
    let back = two
        .until("consistent", |s| s.data() == pb::Data::Behind)
        .await;
    assert_eq!(back.snapshot, None);
    let undo = two.dir.path().join("state/pool/ns_qm1/undo");
    assert_eq!(
        two.set_role(pb::Role::Primary, &back.epoch, false).await,
        None
    );
    two.until("open", |s| gate(s) == pb::Gate::Open).await;
    assert_eq!(
        std::fs::metadata(undo).unwrap().len(),
        0,
        "room is given back"
    );
    let mounted = Mounted::new(&two.device(), &two.dir.path().join("mnt"), "ext4");
    assert_eq!(
        std::fs::read(mounted.path().join("file")).unwrap(),
        b"from before"
    );
}
