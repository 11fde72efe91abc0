//! Replicators as processes: what the operator sees of them, with real devices, real mkfs and real
//! TLS. Needs root, as the product does.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "pair/addresses.rs"]
mod addresses;
#[path = "pair/between.rs"]
mod between;
#[path = "pair/campaign.rs"]
mod campaign;
#[path = "pair/device.rs"]
mod device;
#[path = "pair/growth.rs"]
mod growth;
#[path = "pair/keys.rs"]
mod keys;
#[path = "pair/many.rs"]
mod many;
#[path = "pair/pki.rs"]
mod pki;
#[path = "pair/revert.rs"]
mod revert;
#[path = "pair/script.rs"]
mod script;
#[path = "pair/stop.rs"]
mod stop;
#[path = "pair/stranger.rs"]
mod stranger;
#[path = "pair/support.rs"]
mod support;
#[path = "pair/volatile.rs"]
mod volatile;
#[path = "pair/wire.rs"]
mod wire;

use std::io::Write as _;

use drqm_rpc::control::v1 as pb;
use pki::Ca;
use support::{Mounted, Site, gate, link, request, with_peer};

const SMALL: u64 = 64 << 20;

fn write_durably(path: &std::path::Path, content: &[u8]) {
    let mut file = std::fs::File::create(path).unwrap();
    file.write_all(content).unwrap();
    file.sync_all().unwrap();
}

#[tokio::test]
async fn a_primary_without_peer_serves_a_file_system_and_resumes_after_a_kill() {
    for (fs, size) in [("ext4", SMALL), ("xfs", 512 << 20)] {
        let mut site = Site::start("alone").await;
        site.configure(request(size, fs)).await.unwrap();
        let state = site.state().await;
        assert_eq!(
            (state.role(), state.data()),
            (pb::Role::Secondary, pb::Data::Empty)
        );
        assert!(!site.device().exists());

        assert_eq!(site.set_role(pb::Role::Primary, "", true).await, None);
        site.until("open", |s| gate(s) == pb::Gate::Open).await;
        let mounted = Mounted::new(&site.device(), &site.dir.path().join("mnt"), fs);
        write_durably(&mounted.path().join("file"), b"first");
        let state = site.state().await;
        assert!(!state.device.as_ref().unwrap().held_by.is_empty());
        assert!(state.file_system.unwrap().allocated_bytes > 0);
        let refused = site
            .set_role(pb::Role::Secondary, &state.epoch, false)
            .await
            .unwrap();
        assert_eq!(refused.code(), pb::RefusalCode::DeviceHeld);
        assert!(site.delete(true).await.is_some());
        drop(mounted);

        site.kill();
        site.spawn().await;
        let state = site
            .until("open again", |s| gate(s) == pb::Gate::Open)
            .await;
        assert_eq!(state.role(), pb::Role::Primary);
        let mounted = Mounted::new(&site.device(), &site.dir.path().join("mnt"), fs);
        assert_eq!(
            std::fs::read(mounted.path().join("file")).unwrap(),
            b"first"
        );
        drop(mounted);

        assert_eq!(
            site.set_role(pb::Role::Secondary, &state.epoch, false)
                .await,
            None
        );
        site.until("closed", |s| gate(s) == pb::Gate::Closed).await;
        assert!(!site.device().exists());
        assert!(
            site.admin("/metrics")
                .await
                .contains("drqm_replicator_volume_primary")
        );
        assert!(site.admin("/readyz").await.contains("200 OK"));
        assert_eq!(site.delete(true).await, None);
        assert_eq!(site.terminate().await, Some(0));
    }
}

/// Behind a firewall or NAT only one direction works; that is enough, whichever node id is lower.
#[tokio::test]
async fn a_pair_connects_when_only_one_side_can_reach_the_other() {
    let ca = Ca::new();
    for _ in 0..2 {
        let (mut one, mut two) = (Site::start("one").await, Site::start("two").await);
        let (reachable, closed) = (two.replication, support::free_port());
        for (site, port) in [(&mut one, reachable), (&mut two, closed)] {
            let wanted = with_peer(request(SMALL, "ext4"), &ca, port);
            site.configure(wanted).await.unwrap();
        }
        for site in [&mut one, &mut two] {
            site.until("linked", |s| link(s) == pb::LinkState::Connected)
                .await;
        }
    }
}

#[tokio::test]
async fn a_pair_synchronizes_switches_over_and_survives_a_killed_primary() {
    let (mut one, mut two) = (Site::start("one").await, Site::start("two").await);
    let ca = Ca::new();
    let (one_port, two_port) = (one.replication, two.replication);
    one.configure(with_peer(request(SMALL, "ext4"), &ca, two_port))
        .await
        .unwrap();
    two.configure(with_peer(request(SMALL, "ext4"), &ca, one_port))
        .await
        .unwrap();
    one.until("linked", |s| link(s) == pb::LinkState::Connected)
        .await;
    two.until("linked", |s| link(s) == pb::LinkState::Connected)
        .await;

    assert_eq!(one.set_role(pb::Role::Primary, "", false).await, None);
    one.until("open", |s| gate(s) == pb::Gate::Open).await;
    two.until("synchronized", |s| s.data() == pb::Data::UpToDate)
        .await;
    one.until("in sync", |s| {
        s.out_of_sync_bytes == 0 && s.data() == pb::Data::UpToDate
    })
    .await;
    let mounted = Mounted::new(&one.device(), &one.dir.path().join("mnt"), "ext4");
    write_durably(&mounted.path().join("file"), b"from one");

    let epoch = two.state().await.epoch;
    let refused = two
        .set_role(pb::Role::Primary, &epoch, false)
        .await
        .unwrap();
    assert_eq!(refused.code(), pb::RefusalCode::PeerIsPrimary);

    drop(mounted);
    assert_eq!(one.set_role(pb::Role::Secondary, &epoch, false).await, None);
    let sealed = one.until("closed", |s| gate(s) == pb::Gate::Closed).await;
    assert!(sealed.sealed, "{sealed:#?}");
    assert_eq!(
        two.set_role(pb::Role::Primary, &sealed.epoch, false).await,
        None
    );
    two.until("open", |s| gate(s) == pb::Gate::Open).await;
    let mounted = Mounted::new(&two.device(), &two.dir.path().join("mnt"), "ext4");
    assert_eq!(
        std::fs::read(mounted.path().join("file")).unwrap(),
        b"from one"
    );
    write_durably(&mounted.path().join("file"), b"from two");

    two.kill();
    drop(mounted);
    let alone = one.until("down", |s| link(s) == pb::LinkState::Down).await;
    assert_eq!(
        one.set_role(pb::Role::Primary, &alone.epoch, false).await,
        None
    );
    one.until("open", |s| gate(s) == pb::Gate::Open).await;
    let mounted = Mounted::new(&one.device(), &one.dir.path().join("mnt"), "ext4");
    assert_eq!(
        std::fs::read(mounted.path().join("file")).unwrap(),
        b"from two"
    );
    write_durably(&mounted.path().join("file"), b"from one again");

    two.spawn().await;
    let old = two
        .until("superseded", |s| gate(s) == pb::Gate::Superseded)
        .await;
    assert!(!two.device().exists());
    assert_eq!(
        two.set_role(pb::Role::Secondary, &old.epoch, false).await,
        None
    );
    two.until("synchronized", |s| s.data() == pb::Data::UpToDate)
        .await;
    one.until("in sync", |s| s.out_of_sync_bytes == 0).await;
    drop(mounted);
}

#[tokio::test]
async fn bad_configurations_name_their_field_and_change_nothing() {
    let mut site = Site::start("one").await;
    let own = site.dir.path().to_owned();
    let refused =
        |answer: Result<pb::VolumeState, tonic::Status>| answer.unwrap_err().message().to_owned();
    let bad = pb::ConfigureRequest {
        size_bytes: 4097,
        ..request(SMALL, "ext4")
    };
    assert!(refused(site.configure(bad).await).starts_with("spec.storage.size"));
    let bad = request(1 << 60, "ext4");
    assert!(refused(site.configure(bad).await).starts_with("spec.storage.size: the pool is full"));
    let mut bad = with_peer(request(SMALL, "ext4"), &Ca::new(), 1);
    bad.tls.as_mut().unwrap().key = Ca::new().leaf("x").1.into();
    assert!(refused(site.configure(bad).await).starts_with("spec.replication.tls.secretName"));
    assert!(!own.join("state/pool/ns_qm1").exists());

    site.configure(request(SMALL, "ext4")).await.unwrap();
    let bad = request(SMALL / 2, "ext4");
    assert!(refused(site.configure(bad).await).contains("cannot shrink"));
    let bad = request(1 << 60, "ext4");
    assert!(refused(site.configure(bad).await).starts_with("spec.storage.size: the pool is full"));
    let bad = pb::ConfigureRequest {
        queue_manager_name: "QM2".into(),
        ..request(SMALL, "ext4")
    };
    assert!(refused(site.configure(bad).await).starts_with("spec.queueManager.name"));
}

#[tokio::test]
async fn a_volume_that_was_let_go_is_listed_and_taken_up_again() {
    let mut site = Site::start("one").await;
    site.configure(request(SMALL, "ext4")).await.unwrap();
    assert_eq!(site.set_role(pb::Role::Primary, "", true).await, None);
    let open = site.until("open", |s| gate(s) == pb::Gate::Open).await;
    assert_eq!(site.delete(false).await, None);
    let kept = site.state().await;
    assert!(!kept.configured);
    assert_eq!(kept.epoch, open.epoch);
    let node = site
        .client
        .as_mut()
        .unwrap()
        .get_node(pb::GetNodeRequest {})
        .await
        .unwrap();
    assert_eq!(node.into_inner().volumes.len(), 1);
    let state = site.configure(request(SMALL, "ext4")).await.unwrap();
    assert_eq!((state.configured, state.epoch), (true, open.epoch));
}

#[tokio::test]
async fn a_second_replicator_on_the_same_state_is_refused() {
    let site = Site::start("one").await;
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_drqm-replicator"))
        .arg("--state-dir")
        .arg(site.dir.path().join("state"))
        .arg("--control-tls-dir")
        .arg(site.dir.path().join("tls"))
        .args(["--replication-listen", "127.0.0.1:0"])
        .args(["--control-listen", "127.0.0.1:0"])
        .args(["--metrics-listen", "127.0.0.1:0"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("in use by another process"), "{text}");
}
