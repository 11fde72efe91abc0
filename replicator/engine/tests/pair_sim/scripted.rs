//! The situations that have a name: each bracketed counter-example of the rulings, and the ways a
//! pair ordinarily fails.

use drqm_engine::command::{Initialize, Refusal};
use drqm_engine::frame::Frame;
use drqm_engine::report::{Data, Gate, LinkReport};
use drqm_engine::role::Role;
use drqm_engine::settings::{Mode, WhenPeerUnknown};

use crate::operator::End;
use crate::world::{Config, Device, MS, SECOND, World};

const CHUNK: u64 = 1 << 16;

pub(crate) fn healthy(mode: Mode) -> World {
    pair(Config::plain(mode))
}

/// A pair in sync, side 0 Primary, its user quiet.
pub(crate) fn pair(config: Config) -> World {
    let mut w = World::new(config, 7);
    joined(&mut w);
    let id = w.create(0, Initialize::WithPeer);
    assert_eq!(w.answer(0, id), Some(Ok(())));
    settled(&mut w);
    w
}

pub(crate) fn joined(w: &mut World) {
    let connected = |w: &World| {
        let both = [0, 1].map(|n| w.report(n).is_some_and(|r| r.link == LinkReport::Connected));
        both == [true; 2]
    };
    assert!(w.until(30 * SECOND, connected), "{}", states(w));
}

pub(crate) fn settled(w: &mut World) {
    assert!(w.until(60 * SECOND, World::is_joined), "{}", states(w));
    assert!(w.rest(), "{}", states(w));
    check(w);
}

pub(crate) fn states(w: &World) -> String {
    format!("{:?}\n{}\n{}", w.failure, w.describe(0), w.describe(1))
}

fn check(w: &World) {
    assert_eq!(w.failure, None, "{}", states(w));
}

pub(crate) fn down(w: &mut World, n: usize) {
    let is = |w: &World| matches!(w.report(n).map(|r| r.link), Some(LinkReport::Down(_)));
    assert!(w.until(40 * SECOND, is), "the link of {n} is declared down");
}

pub(crate) fn gate(w: &mut World, n: usize, gate: Gate) {
    let is = |w: &World| w.gate(n) == Some(gate);
    assert!(w.until(90 * SECOND, is), "{gate:?} of {n}: {}", states(w));
}

pub(crate) fn data(w: &mut World, n: usize, data: Data) {
    let is = |w: &World| w.report(n).is_some_and(|r| r.data == data);
    assert!(w.until(60 * SECOND, is), "{data:?} of {n}: {}", states(w));
}

pub(crate) fn write(w: &mut World, n: usize, chunk: u64) {
    w.write(n, chunk * CHUNK + 8192, 4096, false);
}

pub(crate) fn quiet(w: &mut World, n: usize) {
    let is = |w: &World| w.nodes[n].guest.outstanding.is_empty();
    assert!(w.until(60 * SECOND, is), "the user of {n} is answered");
}

pub(crate) fn promoted_apart(w: &mut World, n: usize) {
    down(w, n);
    let id = w.promote_apart(n);
    assert_eq!(w.answer(n, id), Some(Ok(())), "{}", states(w));
    gate(w, n, Gate::Open);
    w.quiet_user(n);
}

/// Asks until it is granted, as the operator does.
pub(crate) fn promoted(w: &mut World, n: usize) {
    let deadline = w.now + 60 * SECOND;
    loop {
        let id = w.promote(n);
        if w.answer(n, id) == Some(Ok(())) {
            return;
        }
        assert!(w.now < deadline, "{}", states(w));
        w.run(SECOND);
    }
}

pub(crate) fn ends(w: &mut World, end: End) {
    assert_eq!(w.converge(), Some(end), "{}", states(w));
}

pub(crate) fn demoted(w: &mut World, n: usize) {
    let id = w.demote(n).expect("it is Primary");
    assert_eq!(w.answer(n, id), Some(Ok(())), "{}", states(w));
}

// === E1 ===

/// An asynchronous write that the cut swallowed, completed by a process that never crashed.
pub(crate) fn lost_tail() -> World {
    let mut w = healthy(Mode::Asynchronous);
    w.cut_link();
    write(&mut w, 0, 3);
    w.run(SECOND);
    assert!(
        w.nodes[0].guest.outstanding.is_empty(),
        "completed into the dead link"
    );
    promoted_apart(&mut w, 1);
    w
}

#[test]
fn e1_a_tail_of_a_run_that_did_not_crash_is_never_overwritten() {
    let mut w = lost_tail();
    w.heal_link();
    data(&mut w, 0, Data::Diverged);
    ends(&mut w, End::Partitioned);
}

#[test]
fn e1_a_tail_survives_a_demotion_before_the_peers_meet() {
    let mut w = lost_tail();
    demoted(&mut w, 0);
    w.heal_link();
    data(&mut w, 0, Data::Diverged);
    ends(&mut w, End::Partitioned);
}

#[test]
fn e1_a_tail_survives_a_graceful_stop_before_the_peers_meet() {
    let mut w = lost_tail();
    w.stop_and_wait(0);
    w.heal_link();
    w.start(0);
    data(&mut w, 0, Data::Diverged);
    ends(&mut w, End::Partitioned);
}

#[test]
fn e1_a_crashed_tail_is_given_up_and_counted() {
    let mut w = lost_tail();
    w.crash(0, true);
    w.heal_link();
    w.start(0);
    gate(&mut w, 0, Gate::Superseded);
    assert!(w.report(0).is_some_and(|r| r.crashed_tail_bytes > 0));
    ends(&mut w, End::Normal);
}

#[test]
fn e1_a_run_that_lost_nothing_rejoins_without_a_choice() {
    let mut w = healthy(Mode::Asynchronous);
    w.cut_link();
    promoted_apart(&mut w, 1);
    write(&mut w, 1, 5);
    w.heal_link();
    gate(&mut w, 0, Gate::Superseded);
    demoted(&mut w, 0);
    ends(&mut w, End::Normal);
}

// === E2 ===

#[test]
fn e2_a_promotion_while_feeding_a_resync_hands_the_new_head_over_with_the_copy() {
    let mut w = healthy(Mode::Asynchronous);
    w.cut_link();
    for chunk in 1..30 {
        write(&mut w, 0, chunk);
    }
    down(&mut w, 0);
    quiet(&mut w, 0);
    demoted(&mut w, 0);
    w.heal_link();
    let feeding = |w: &World| w.report(0).is_some_and(|r| r.data == Data::SyncSource);
    assert!(w.until(30 * SECOND, feeding));
    let id = w.promote(0);
    w.run(30 * MS);
    w.break_session();
    let _ = w.answer(0, id);
    ends(&mut w, End::Normal);
}

fn switch_over_without(frame: fn(&Frame) -> bool, sender: usize) -> World {
    let mut w = healthy(Mode::Synchronous);
    write(&mut w, 0, 2);
    quiet(&mut w, 0);
    demoted(&mut w, 0);
    w.swallow = Some((sender, frame));
    w.swallowed = 0;
    let id = w.promote(1);
    w.until(20 * SECOND, |w| w.swallowed > 0);
    assert!(w.swallowed > 0, "the frame was sent");
    w.swallow = None;
    let _ = w.answer(1, id);
    w
}

#[test]
fn e2_a_lost_confirmation_locks_nobody() {
    let mut w = switch_over_without(|f| matches!(f, Frame::PromoteConfirm { .. }), 1);
    gate(&mut w, 1, Gate::Open);
    ends(&mut w, End::Normal);
    assert!(w.report(1).is_some_and(|r| r.role == Role::Primary));
}

#[test]
fn e2_a_lost_confirmation_and_a_lone_write_are_no_partition() {
    let mut w = switch_over_without(|f| matches!(f, Frame::PromoteConfirm { .. }), 1);
    w.cut_link();
    gate(&mut w, 1, Gate::Open);
    write(&mut w, 1, 4);
    quiet(&mut w, 1);
    ends(&mut w, End::Normal);
}

#[test]
fn e2_an_unused_grant_is_no_partition() {
    let mut w = switch_over_without(|f| matches!(f, Frame::PromoteAnswer { .. }), 0);
    assert!(w.report(1).is_some_and(|r| r.role == Role::Secondary));
    w.cut_link();
    promoted_apart(&mut w, 0);
    write(&mut w, 0, 4);
    ends(&mut w, End::Normal);
}

// === E3, E4 ===

#[test]
fn e3_a_lost_adoption_is_received_by_the_next_handshake() {
    for mode in [Mode::Asynchronous, Mode::Synchronous] {
        let mut w = World::new(Config::plain(mode), 11);
        joined(&mut w);
        w.swallow = Some((1, |f| matches!(f, Frame::ResyncAdopted { .. })));
        w.create(0, Initialize::WithPeer);
        assert!(w.until(60 * SECOND, |w| w.swallowed > 0));
        w.swallow = None;
        // Writes after the completion are a set of their own.
        w.until(10 * SECOND, |w| w.nodes[0].device == Device::Published);
        ends(&mut w, End::Normal);
    }
}

#[test]
fn e3_an_old_completion_clears_nothing_of_a_later_tail() {
    let mut w = healthy(Mode::Asynchronous);
    w.cut_link();
    write(&mut w, 0, 9);
    w.run(10 * SECOND);
    w.swallow = Some((1, |f| matches!(f, Frame::ResyncAdopted { .. })));
    w.swallowed = 0;
    w.heal_link();
    assert!(w.until(30 * SECOND, |w| w.swallowed > 0));
    w.cut_link();
    w.swallow = None;
    write(&mut w, 0, 10);
    w.run(SECOND);
    promoted_apart(&mut w, 1);
    ends(&mut w, End::Partitioned);
}

#[test]
fn e4_a_source_that_loses_power_after_the_adoption_differs_nowhere() {
    for seed in 0..30 {
        let mut w = World::new(Config::plain(Mode::Asynchronous), 500 + seed);
        joined(&mut w);
        w.create(0, Initialize::WithPeer);
        settled(&mut w);
        w.cut_link();
        for chunk in 1..20 {
            write(&mut w, 0, chunk);
        }
        down(&mut w, 0);
        quiet(&mut w, 0);
        // A source that is Secondary has no activity log to fall back on.
        demoted(&mut w, 0);
        w.heal_link();
        let done = |w: &World| w.report(1).is_some_and(|r| r.data == Data::UpToDate);
        assert!(w.until(60 * SECOND, done));
        w.run(seed * MS);
        w.crash(0, true);
        w.start(0);
        ends(&mut w, End::Normal);
    }
}

// === E5, E6 ===

#[test]
fn e5_superseded_outlives_a_restart_with_the_link_down() {
    let mut w = healthy(Mode::Synchronous);
    w.crash(0, true);
    promoted_apart(&mut w, 1);
    write(&mut w, 1, 2);
    w.start(0);
    gate(&mut w, 0, Gate::Superseded);
    w.run(SECOND);
    w.cut_link();
    w.crash(0, true);
    w.start(0);
    w.run(120 * SECOND);
    assert_eq!(w.gate(0), Some(Gate::Superseded));
    assert_eq!(w.nodes[0].device, Device::Closed);
    ends(&mut w, End::Normal);
}

#[test]
fn e5_a_primary_behind_a_secondary_is_superseded_too() {
    let mut w = healthy(Mode::Synchronous);
    w.cut_link();
    promoted_apart(&mut w, 1);
    demoted(&mut w, 1);
    w.heal_link();
    gate(&mut w, 0, Gate::Superseded);
    ends(&mut w, End::Normal);
}

#[test]
fn e6_a_request_judged_lossless_never_proceeds_apart() {
    let mut w = healthy(Mode::Synchronous);
    demoted(&mut w, 0);
    assert!(w.report(0).is_some_and(|r| r.sealed));
    w.cut_link();
    down(&mut w, 1);
    let id = w.promote(1);
    assert_eq!(w.answer(1, id), Some(Err(Refusal::PeerUnknown)));
    w.heal_link();
    joined(&mut w);
    let id = w.promote(1);
    w.cut_link();
    assert!(matches!(w.answer(1, id), Some(Err(_))));
    w.run(60 * SECOND);
    assert!(w.report(1).is_some_and(|r| r.role == Role::Secondary));
    ends(&mut w, End::Normal);
}

// === the gate ===

#[test]
fn a_started_primary_waits_for_its_peer_and_opens_when_it_answers() {
    let mut w = healthy(Mode::Synchronous);
    w.cut_link();
    w.crash(0, true);
    w.start(0);
    w.run(10 * SECOND);
    assert_eq!(w.gate(0), Some(Gate::WaitingForPeer));
    w.heal_link();
    let open = |w: &World| w.gate(0) == Some(Gate::Open);
    assert!(w.until(10 * SECOND, open), "{}", states(&w));
    ends(&mut w, End::Normal);
}

#[test]
fn a_started_primary_opens_or_holds_when_nobody_answers() {
    for (policy, expected) in [
        (WhenPeerUnknown::Start, Gate::Open),
        (WhenPeerUnknown::Hold, Gate::Held),
    ] {
        let mut w = pair(Config {
            when_peer_unknown: policy,
            ..Config::plain(Mode::Synchronous)
        });
        w.cut_link();
        w.crash(0, false);
        w.start(0);
        w.run(29 * SECOND);
        assert_eq!(w.gate(0), Some(Gate::WaitingForPeer));
        w.run(5 * SECOND);
        assert_eq!(w.gate(0), Some(expected));
        ends(&mut w, End::Normal);
    }
}

#[test]
fn a_file_system_is_not_destroyed_and_the_user_is_told_at_once() {
    let mut w = healthy(Mode::Synchronous);
    let before = w.report(0).map_or(0, |r| r.format_blocked);
    w.forbidden(0);
    assert!(w.nodes[0].guest.outstanding.is_empty());
    assert_eq!(w.report(0).map(|r| r.format_blocked), Some(before + 1));
    check(&w);
}

// === roles ===

#[test]
fn of_two_crossing_promotions_the_lower_node_wins() {
    for gap in 0..40 {
        let mut w = healthy(Mode::Synchronous);
        demoted(&mut w, 0);
        let ids = [w.promote(0), w.promote(1)];
        w.run(gap * 100);
        let answers = [w.answer(0, ids[0]), w.answer(1, ids[1])];
        assert_eq!(answers, [Some(Ok(())), Some(Err(Refusal::PeerIsPrimary))]);
        ends(&mut w, End::Normal);
    }
}

#[test]
fn a_switch_over_and_back_keeps_every_write() {
    for mode in [Mode::Asynchronous, Mode::Synchronous] {
        let mut w = healthy(mode);
        for (from, to) in [(0, 1), (1, 0), (0, 1)] {
            w.users_go_on();
            w.run(2 * SECOND);
            let promotion = w.promote(to);
            assert_eq!(w.answer(to, promotion), Some(Err(Refusal::PeerIsPrimary)));
            demoted(&mut w, from);
            assert!(w.report(from).is_some_and(|r| r.sealed));
            let promotion = w.promote(to);
            assert_eq!(w.answer(to, promotion), Some(Ok(())));
            gate(&mut w, to, Gate::Open);
        }
        ends(&mut w, End::Normal);
    }
}
