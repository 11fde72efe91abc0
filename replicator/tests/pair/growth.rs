//! A volume that grows under a mounted file system.

use std::process::Command;

use drqm_rpc::control::v1 as pb;

use crate::pki::Ca;
use crate::support::{Mounted, pair_in_sync_of, request, until_normal, with_peer};
use crate::write_durably;

const SMALL: u64 = 320 << 20;
const LARGE: u64 = 512 << 20;

#[tokio::test]
async fn a_volume_grows_under_its_file_system_when_both_sides_have_room() {
    let ca = Ca::new();
    let (mut one, mut two) = pair_in_sync_of(&ca, SMALL, "xfs").await;
    let mounted = Mounted::new(&one.device(), &one.dir.path().join("mnt"), "xfs");
    write_durably(&mounted.path().join("before"), &vec![1; 20 << 20]);
    let larger = |peer| with_peer(request(LARGE, "xfs"), &ca, peer);

    one.configure(larger(two.replication)).await.unwrap();
    let told = |s: &pb::VolumeState| s.peer.as_ref().is_some_and(|p| p.size_bytes == LARGE);
    two.until("the other side's room", told).await;
    let state = one.state().await;
    assert_eq!((state.size_bytes, state.capacity_bytes), (SMALL, LARGE));
    let smaller = with_peer(request(SMALL, "xfs"), &ca, two.replication);
    let refused = one.configure(smaller).await.expect_err("it has grown");
    assert!(refused.message().contains("spec.storage.size"), "{refused}");

    two.configure(larger(one.replication)).await.unwrap();
    for site in [&mut one, &mut two] {
        site.until("grown", |s| s.size_bytes == LARGE).await;
    }
    let device = one.device();
    let size = || {
        let asked = Command::new("blockdev")
            .arg("--getsize64")
            .arg(&device)
            .output();
        String::from_utf8(asked.unwrap().stdout)
            .unwrap()
            .trim()
            .to_owned()
    };
    // The report is a moment ahead of the device.
    one.until("the device has grown", |_| size() == LARGE.to_string())
        .await;
    // xfs: growing ext4 needs CAP_SYS_RESOURCE, which a test may lack.
    let grown = Command::new("xfs_growfs")
        .arg(mounted.path())
        .output()
        .unwrap();
    assert!(grown.status.success(), "{grown:?}");
    write_durably(&mounted.path().join("after"), &vec![2; 250 << 20]);
    until_normal(&mut one, &mut two).await;

    // It is what it was after a restart, and on the other side.
    drop(mounted);
    one.kill();
    two.until("alone", |s| crate::support::link(s) == pb::LinkState::Down)
        .await;
    let epoch = two.state().await.epoch;
    assert_eq!(two.set_role(pb::Role::Primary, &epoch, false).await, None);
    two.until("open", |s| crate::support::gate(s) == pb::Gate::Open)
        .await;
    let mounted = Mounted::new(&two.device(), &two.dir.path().join("mnt"), "xfs");
    assert_eq!(
        std::fs::read(mounted.path().join("before")).unwrap(),
        vec![1; 20 << 20]
    );
    assert_eq!(
        std::fs::read(mounted.path().join("after")).unwrap(),
        vec![2; 250 << 20]
    );
}
