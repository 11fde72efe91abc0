//! Many pairs on two nodes, with nothing to do: what they take of memory and processor.
//!
//! `cargo measure volumes` says how many (`DRQM_IDLE_VOLUMES`) and for how long they are watched
//! (`DRQM_IDLE_SECONDS`), and names a release build (`DRQM_REPLICATOR`).

use std::time::{Duration, Instant};

use drqm_rpc::control::v1 as pb;
use tokio::time::sleep;

use crate::pki::Ca;
use crate::support::{Site, gate, is_normal, link, request, with_leaf};

const SIZE: u64 = 64 << 20;

/// For all pairs together.
const LIMIT: Duration = Duration::from_secs(300);

/// What a process may take, and each of its volumes, bytes.
const MEMORY: u64 = 40 << 20;
const MEMORY_EACH: u64 = 1 << 20;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn volume(n: u64) -> Option<pb::VolumeRef> {
    Some(pb::VolumeRef {
        namespace: "ns".into(),
        name: format!("qm{n}"),
    })
}

/// One half of a pair; both halves show the same certificate.
fn half(n: u64, ca: &Ca, leaf: &(String, String), peer: u16) -> pb::ConfigureRequest {
    let one = with_leaf(request(SIZE, "ext4"), ca, leaf.clone(), peer);
    let tls = one.tls.map(|tls| pb::PairTls {
        pair_id: format!("{n:032x}"),
        server_name: format!("qm{n}.pair.drqm.io"),
        ..tls
    });
    pb::ConfigureRequest {
        volume: volume(n),
        cr_uid: format!("uid {n}"),
        queue_manager_name: format!("QM{n}"),
        tls,
        ..one
    }
}

async fn state(site: &mut Site, n: u64) -> pb::VolumeState {
    let request = pb::GetStateRequest {
        volume: volume(n),
        refresh: false,
    };
    let client = site.client.as_mut().unwrap();
    client.get_state(request).await.unwrap().into_inner()
}

async fn wait_until(site: &mut Site, n: u64, wanted: impl Fn(&pb::VolumeState) -> bool) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let state = state(site, n).await;
        if wanted(&state) {
            return;
        }
        assert!(Instant::now() < deadline, "{state:#?}\n{}", site.log());
        sleep(Duration::from_millis(20)).await;
    }
}

async fn create(one: &mut Site, two: &mut Site, n: u64) {
    let ca = Ca::new();
    let leaf = ca.leaf(&format!("qm{n}.pair.drqm.io"));
    let (one_port, two_port) = (one.replication, two.replication);
    one.configure(half(n, &ca, &leaf, two_port)).await.unwrap();
    two.configure(half(n, &ca, &leaf, one_port)).await.unwrap();
    wait_until(one, n, |s| link(s) == pb::LinkState::Connected).await;
    let order = pb::SetRoleRequest {
        volume: volume(n),
        command_id: format!("create {n}"),
        role: pb::Role::Primary.into(),
        initialize: true,
        request: Some(pb::JudgedRequest {
            role: pb::Role::Primary.into(),
            verdict: "Proceed".into(),
            ..pb::JudgedRequest::default()
        }),
        ..pb::SetRoleRequest::default()
    };
    let client = one.client.as_mut().unwrap();
    let answer = client.set_role(order).await.unwrap().into_inner();
    assert_eq!(answer.refusal, None);
    wait_until(one, n, |s| gate(s) == pb::Gate::Open).await;
}

/// Processor time of a process so far, in hundredths of a second; resident memory, bytes.
fn usage(pid: u32) -> (u64, u64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    let number = |n: usize| fields[n].parse::<u64>().unwrap();
    (number(11) + number(12), number(21) * 4096)
}

async fn wait_idle(span: Duration) {
    sleep(span).await;
}

#[tokio::test]
async fn idle_volumes_take_little() {
    let count = number("DRQM_IDLE_VOLUMES", 6);
    let seconds = number("DRQM_IDLE_SECONDS", 2);
    let (mut one, mut two) = (
        Site::start_quiet("one").await,
        Site::start_quiet("two").await,
    );
    let empty = [usage(one.pid()).1, usage(two.pid()).1];
    for n in 0..count {
        create(&mut one, &mut two, n).await;
    }
    for n in 0..count {
        wait_until(&mut one, n, is_normal).await;
        wait_until(&mut two, n, is_normal).await;
    }
    let mut most = 0;
    let before = [usage(one.pid()).0, usage(two.pid()).0];
    wait_idle(Duration::from_secs(seconds)).await;
    for (side, site) in [&one, &two].into_iter().enumerate() {
        let (ticks, memory) = usage(site.pid());
        let percent = (ticks - before[side]) as f64 / seconds as f64;
        println!(
            "{}: {count} volumes, {:.1} MiB (without any {:.1}), {percent:.2} % of a core",
            ["primary", "secondary"][side],
            memory as f64 / f64::from(1 << 20),
            empty[side] as f64 / f64::from(1 << 20),
        );
        most = most.max(memory);
    }
    assert!(most < MEMORY + count * MEMORY_EACH, "{most} bytes");
}
