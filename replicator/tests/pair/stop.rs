//! Ports of single pairs, and the orderly end of a process.

use std::time::{Duration, Instant};

use drqm_rpc::control::v1 as pb;

use crate::pki::Ca;
use crate::support::{
    Mounted, Site, free_port, gate, link, pair_in_sync, request, until_normal, with_peer,
};

const SMALL: u64 = 64 << 20;

#[tokio::test]
async fn a_pair_may_have_a_port_of_its_own() {
    let (mut one, mut two) = (Site::start("one").await, Site::start("two").await);
    let ca = Ca::new();
    let (one_port, two_port) = (free_port(), free_port());
    let on = |port: u16, peer: u16| pb::ConfigureRequest {
        port: port.into(),
        ..with_peer(request(SMALL, "ext4"), &ca, peer)
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().port();
    for port in [taken, one.control] {
        let refused = one.configure(on(port, two_port)).await.unwrap_err();
        let text = refused.message();
        assert!(text.starts_with("spec.replication.port: "), "{text}");
    }
    one.configure(on(one_port, two_port)).await.unwrap();
    two.configure(on(two_port, one_port)).await.unwrap();
    for site in [&mut one, &mut two] {
        site.until("linked", |s| link(s) == pb::LinkState::Connected)
            .await;
    }
    // Back to the shared port: the other one is closed.
    let (one_shared, two_shared) = (one.replication, two.replication);
    one.configure(with_peer(request(SMALL, "ext4"), &ca, two_shared))
        .await
        .unwrap();
    two.configure(with_peer(request(SMALL, "ext4"), &ca, one_shared))
        .await
        .unwrap();
    for site in [&mut one, &mut two] {
        site.until("linked again", |s| link(s) == pb::LinkState::Connected)
            .await;
    }
    for port in [one_port, two_port] {
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    }
}

/// An orderly end: nothing is left over for the next start to synchronize.
async fn end(site: &mut Site) -> usize {
    let asked = Instant::now();
    assert_eq!(site.terminate().await, Some(0));
    let (took, log) = (asked.elapsed(), site.log());
    assert!(!log.contains("did not stop in time"), "{log}");
    // It takes about 0.3 s; a step that ran into its limit would take 10.
    assert!(took < Duration::from_secs(9), "{took:?}\n{log}");
    log.len()
}

fn resynchronized(site: &Site, since: usize) -> bool {
    let log = site.log();
    ["SyncSource", "Syncing", "Inconsistent"]
        .iter()
        .any(|word| log[since..].contains(word))
}

#[tokio::test]
async fn an_orderly_end_of_either_half_costs_no_synchronization() {
    let ca = Ca::new();
    let (mut one, mut two) = pair_in_sync(&ca).await;
    for round in 0..3 {
        let mounted = Mounted::new(&one.device(), &one.dir.path().join("mnt"), "ext4");
        crate::write_durably(&mounted.path().join("file"), format!("{round}").as_bytes());
        // A mounted file system may write of its own accord while the other half is away.
        drop(mounted);
        until_normal(&mut one, &mut two).await;
        let since = end(&mut two).await;
        one.until("noticed", |s| link(s) != pb::LinkState::Connected)
            .await;
        two.spawn().await;
        until_normal(&mut one, &mut two).await;
        assert!(!resynchronized(&two, since), "{}", two.log());
    }
    for _ in 0..3 {
        until_normal(&mut one, &mut two).await;
        let since = end(&mut one).await;
        one.spawn().await;
        until_normal(&mut one, &mut two).await;
        assert!(!resynchronized(&one, since), "{}", one.log());
    }
}

#[tokio::test]
async fn a_half_whose_session_has_just_ended_ends_in_order() {
    let ca = Ca::new();
    let (mut one, mut two) = pair_in_sync(&ca).await;
    for killed in [true, false, true] {
        let mounted = Mounted::new(&one.device(), &one.dir.path().join("mnt"), "ext4");
        crate::write_durably(&mounted.path().join("file"), &vec![1; 1 << 20]);
        drop(mounted);
        if killed {
            one.kill();
            end(&mut two).await;
        } else {
            let (first, second) = tokio::join!(end(&mut one), end(&mut two));
            assert!(first > 0 && second > 0);
        }
        one.spawn().await;
        two.spawn().await;
        until_normal(&mut one, &mut two).await;
        one.until("open", |s| gate(s) == pb::Gate::Open).await;
    }
}

/// Whoever brings the device up reads from it: those reads are answered before the end.
#[tokio::test]
async fn a_half_that_is_ended_while_its_device_comes_up_ends_in_order() {
    let mut site = Site::start("alone").await;
    site.configure(request(SMALL, "ext4")).await.unwrap();
    assert_eq!(site.set_role(pb::Role::Primary, "", true).await, None);
    site.until("open", |s| gate(s) == pb::Gate::Open).await;
    for _ in 0..5 {
        end(&mut site).await;
        site.spawn().await;
        site.until("coming up", |s| {
            matches!(gate(s), pb::Gate::Opening | pb::Gate::Open)
        })
        .await;
    }
    end(&mut site).await;
}
