//! A peer that keeps to a script: acknowledges nothing, says things twice, says another size, reads no more,
//! goes away at the nth frame. Users are answered, nothing is lost, and afterwards the copies are the same.
//!
//! An old protocol is in [`crate::keys`]; what no peer may say at all in [`crate::wire`].

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use drqm_rpc::control::v1 as pb;
use drqm_rpc::peer::v1 as peer;
use peer::frame::Body;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::between::{Between, Fate, Way, pass};
use crate::pki::Ca;
use crate::support::{LIMIT, Site, free_port, gate, link, request, until_normal, with_peer};

const SIZE: u64 = 64 << 20;

/// Behind what says that there is a file system.
const START: u64 = 1 << 20;

/// Two sites and somebody between them, in step. Only the first one dials.
async fn pair(mode: pb::Mode) -> (Site, Site, Between) {
    let ca = Arc::new(Ca::new());
    let (mut one, mut two) = (Site::start("one").await, Site::start("two").await);
    let between = Between::new(ca.clone(), two.replication).await;
    for (site, port) in [(&mut one, between.port), (&mut two, free_port())] {
        let mut wanted = with_peer(request(SIZE, "ext4"), &ca, port);
        wanted.mode = mode.into();
        site.configure(wanted).await.unwrap();
    }
    for site in [&mut one, &mut two] {
        site.until("linked", is_linked).await;
    }
    assert_eq!(one.set_role(pb::Role::Primary, "", false).await, None);
    one.until("open", |s| gate(s) == pb::Gate::Open).await;
    until_normal(&mut one, &mut two).await;
    (one, two, between)
}

fn is_linked(state: &pb::VolumeState) -> bool {
    link(state) == pb::LinkState::Connected
}

/// A user: writes, and flushes at the end. The frames between the sites run through this thread, so it waits in
/// another one.
fn write(site: &Site, bytes: u64, with: u8) -> JoinHandle<()> {
    const PIECE: u64 = 256 << 10;
    let device = site.device();
    spawn_blocking(move || {
        let device = File::options().write(true).open(device).unwrap();
        let piece = vec![with; PIECE.min(bytes) as usize];
        let places = (SIZE - START) / PIECE;
        for n in 0..bytes.div_ceil(PIECE) {
            let at = START + n % places * PIECE;
            device.write_all_at(&piece, at).unwrap();
        }
        device.sync_all().unwrap();
    })
}

/// The user was answered.
async fn answered(user: JoinHandle<()>) {
    tokio::time::timeout(LIMIT, user)
        .await
        .expect("it still waits")
        .unwrap();
}

async fn until_the_same(one: &mut Site, two: &mut Site) {
    until_normal(one, two).await;
    assert!(one.data() == two.data(), "the copies differ");
}

#[tokio::test]
async fn who_acknowledges_nothing_is_given_up_and_caught_up_with_later() {
    let (mut one, mut two, between) = pair(pb::Mode::Synchronous).await;
    between.rule(|_, _, frame| match frame.body {
        Some(Body::Ack(_)) => Fate::Pass(Vec::new()),
        _ => pass(frame),
    });
    answered(write(&one, 4096, 1)).await;
    assert!(one.log().contains("no progress"), "{}", one.log());
    between.let_pass();
    until_the_same(&mut one, &mut two).await;
}

#[tokio::test]
async fn what_is_said_twice_costs_the_session_and_nothing_else() {
    let (mut one, mut two, between) = pair(pb::Mode::Asynchronous).await;
    let counted = two.counter("peer_violations_total").await;
    between.rule(|way, _, frame| match (way, &frame.body) {
        (Way::There, Some(Body::Writes(_))) => Fate::Pass(vec![frame.clone(), frame]),
        _ => pass(frame),
    });
    answered(write(&one, 1 << 20, 2)).await;
    two.until_counter("twice", "peer_violations_total", |n| n > counted)
        .await;
    between.let_pass();
    until_the_same(&mut one, &mut two).await;

    // A cumulative acknowledgement may come as often as it likes.
    between.rule(|_, _, frame| match frame.body {
        Some(Body::Ack(_)) => Fate::Pass(vec![frame.clone(), frame]),
        _ => pass(frame),
    });
    let counted = one.counter("peer_violations_total").await;
    answered(write(&one, 1 << 20, 3)).await;
    until_the_same(&mut one, &mut two).await;
    assert_eq!(one.counter("peer_violations_total").await, counted);
}

#[tokio::test]
async fn who_says_another_size_is_refused_by_name_until_it_says_the_right_one() {
    let (mut one, mut two, between) = pair(pb::Mode::Asynchronous).await;
    // So that the two compare again.
    let cut = Arc::new(AtomicBool::new(true));
    between.rule(move |_, _, mut frame| {
        if cut.swap(false, Ordering::Relaxed) {
            return Fate::End;
        }
        if let Some(Body::State(state)) = &mut frame.body {
            state.size_bytes -= 4096;
            state.capacity_bytes -= 4096;
        }
        pass(frame)
    });
    let refused = |s: &pb::VolumeState| link(s) == pb::LinkState::Refused;
    let state = one.until("refused", refused).await;
    let detail = state.link.map(|l| l.detail).unwrap_or_default();
    assert!(detail.to_lowercase().contains("size"), "{detail}");
    answered(write(&one, 4096, 4)).await;

    // What one side says alone, the other does not find: they do not agree on what to do.
    let cut = AtomicBool::new(true);
    between.rule(move |way, _, mut frame| {
        if cut.swap(false, Ordering::Relaxed) {
            return Fate::End;
        }
        if let (Way::Back, Some(Body::State(state))) = (way, &mut frame.body) {
            state.chunk_shift += 1;
        }
        pass(frame)
    });
    let differs = |s: &pb::VolumeState| link(s) == pb::LinkState::Down;
    one.until("no handshake", differs).await;
    answered(write(&one, 4096, 5)).await;
    between.let_pass();
    one.fresh_state().await;
    until_the_same(&mut one, &mut two).await;
}

#[tokio::test]
async fn who_reads_no_more_holds_a_bounded_memory_and_no_user_for_long() {
    let (mut one, mut two, between) = pair(pb::Mode::Asynchronous).await;
    between.rule(|way, _, frame| match (way, &frame.body) {
        (Way::There, Some(Body::Writes(_))) => Fate::Stall,
        _ => pass(frame),
    });
    let before = one.peak_memory();
    // Three times what is kept for a peer.
    answered(write(&one, 192 << 20, 5)).await;
    let grown = one.peak_memory().saturating_sub(before);
    assert!(grown < 128 << 20, "{} MiB", grown >> 20);
    between.let_pass();
    until_the_same(&mut one, &mut two).await;
}

#[tokio::test]
async fn who_goes_away_at_the_nth_frame_is_met_again() {
    let (mut one, mut two, between) = pair(pb::Mode::Synchronous).await;
    for last in 1..=24 {
        // The session before this ends at its next frame, the next one at its own nth.
        let first = Arc::new(AtomicBool::new(true));
        let ended = Arc::new(AtomicBool::new(false));
        let (was_first, has_ended) = (first.clone(), ended.clone());
        between.rule(move |_, number, frame| {
            if was_first.swap(false, Ordering::Relaxed) {
                return Fate::End;
            }
            if number == last && !has_ended.swap(true, Ordering::Relaxed) {
                return Fate::End;
            }
            pass(frame)
        });
        answered(write(&one, 64 << 10, last as u8)).await;
        let until_ended = async {
            while !ended.load(Ordering::Relaxed) {
                one.fresh_state().await;
            }
        };
        tokio::time::timeout(LIMIT, until_ended).await.unwrap();
        one.fresh_state().await;
        until_the_same(&mut one, &mut two).await;
    }
}
