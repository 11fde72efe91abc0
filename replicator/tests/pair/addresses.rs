//! A peer with several addresses: whichever answers is used, and another one when it no longer does.

use std::net::SocketAddr;

use drqm_rpc::control::v1 as pb;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, spawn_blocking};

use crate::pki::Ca;
use crate::support::{Mounted, Site, free_port, link, request, until_normal, with_peer};
use crate::write_durably;

const SIZE: u64 = 64 << 20;

/// A way to an address that can be closed, with what runs through it.
struct Way {
    address: SocketAddr,
    _task: JoinSet<()>,
}

impl Way {
    async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut running = JoinSet::new();
            while let Ok((mut from, _)) = listener.accept().await {
                let Ok(mut to) = TcpStream::connect(("127.0.0.1", port)).await else {
                    continue;
                };
                running.spawn(async move {
                    let _ = copy_bidirectional(&mut from, &mut to).await;
                });
            }
        });
        Self {
            address,
            _task: task,
        }
    }
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.address.fmt(f)
    }
}

#[tokio::test]
async fn a_peer_is_reached_by_another_address_when_one_is_gone() {
    let ca = Ca::new();
    let (mut one, mut two) = (Site::start("one").await, Site::start("two").await);
    let mut ways = vec![
        Way::to(two.replication).await,
        Way::to(two.replication).await,
    ];
    let refused = format!("127.0.0.1:{}", free_port());
    let mut configuration = with_peer(request(SIZE, "ext4"), &ca, 1);
    configuration.peer.as_mut().unwrap().addresses =
        vec![refused.clone(), ways[0].to_string(), ways[1].to_string()];
    one.configure(configuration).await.unwrap();
    // It cannot reach the other side by itself.
    let mut configuration = with_peer(request(SIZE, "ext4"), &ca, 1);
    configuration.peer.as_mut().unwrap().addresses = vec![refused];
    two.configure(configuration).await.unwrap();
    let connected = |s: &pb::VolumeState| link(s) == pb::LinkState::Connected;
    let linked = one.until("linked by one of the two", connected).await;
    two.until("linked", connected).await;
    assert_eq!(one.set_role(pb::Role::Primary, "", false).await, None);
    one.until("open", |s| crate::support::gate(s) == pb::Gate::Open)
        .await;
    until_normal(&mut one, &mut two).await;
    // The ways are tasks of this thread: who waits for the device waits elsewhere.
    let (device, at) = (one.device(), one.dir.path().join("mnt"));
    let mounted = spawn_blocking(move || Mounted::new(&device, &at, "ext4"));
    let mounted = mounted.await.unwrap();

    let used = linked.link.map(|l| l.current_remote_address);
    ways.retain(|way| Some(way.to_string()) != used);
    assert_eq!(ways.len(), 1, "{used:?} is none of the two");
    let file = mounted.path().join("file");
    let written = spawn_blocking(move || write_durably(&file, b"while the way was changed"));
    let remote = ways[0].to_string();
    one.until("linked by the other one", |s| {
        connected(s)
            && s.link
                .as_ref()
                .is_some_and(|l| l.current_remote_address == remote)
    })
    .await;
    written.await.unwrap();
    until_normal(&mut one, &mut two).await;
    spawn_blocking(|| drop(mounted)).await.unwrap();
}
