//! A device whose server was killed under a mounted file system.

use std::process::Command;

use drqm_rpc::control::v1 as pb;

use crate::support::{Mounted, Site, gate, request};

#[tokio::test]
async fn a_dead_device_is_reported_replaced_and_its_file_system_is_whole() {
    let mut site = Site::start("alone").await;
    site.configure(request(512 << 20, "xfs")).await.unwrap();
    assert_eq!(site.set_role(pb::Role::Primary, "", true).await, None);
    site.until("open", |s| gate(s) == pb::Gate::Open).await;
    let dead = Mounted::new(&site.device(), &site.dir.path().join("mnt"), "xfs");
    crate::write_durably(&dead.path().join("file"), b"durable");

    site.kill();
    site.spawn().await;
    site.until("dead", |s| gate(s) == pb::Gate::Dead).await;
    let lost = std::fs::File::create(dead.path().join("lost")).and_then(|f| f.sync_all());
    assert!(lost.is_err());
    site.heal().await;
    site.until("healed", |s| gate(s) == pb::Gate::Open).await;
    assert!(
        std::fs::read(dead.path().join("file")).is_err(),
        "it is unmounted"
    );

    let mounted = Mounted::new(&site.device(), &site.dir.path().join("mnt2"), "xfs");
    assert_eq!(
        std::fs::read(mounted.path().join("file")).unwrap(),
        b"durable"
    );
    crate::write_durably(&mounted.path().join("more"), b"as well");
    drop(mounted);
    let check = Command::new("xfs_repair")
        .arg("-n")
        .arg(site.device())
        .output()
        .unwrap();
    assert!(check.status.success(), "{check:?}");
    drop(dead);
}
