//! What a person chose for a peer that is slow, and for one that is gone.

use drqm_engine::report::Data;
use drqm_engine::settings::{Mode, OnCongestion, OnPeerLoss};

use crate::operator::End;
use crate::scripted::{
    data, demoted, down, ends, healthy, pair, promoted_apart, quiet, settled, states, write,
};
use crate::world::{Config, MS, SECOND, World};

// === a slow peer ===

fn small_window(on_congestion: OnCongestion) -> World {
    pair(Config {
        window_bytes: 30 << 10,
        on_congestion,
        ..Config::logging(Mode::Asynchronous)
    })
}

/// The longest that a request of the user has waited.
fn longest_wait(w: &mut World, time: u64) -> u64 {
    let mut longest = 0;
    let mut since = w.now;
    let mut before = w.oracle.completions();
    let end = w.now + time;
    while w.now < end {
        w.run(10 * MS);
        let done = w.oracle.completions();
        if done > before || w.nodes[0].guest.outstanding.is_empty() {
            since = w.now;
        }
        before = done;
        longest = longest.max(w.now - since);
    }
    longest
}

#[test]
fn a_slow_peer_is_waited_for_or_left_behind_as_a_person_chose() {
    let mut w = small_window(OnCongestion::Block);
    w.drag[1] = 600 * MS;
    w.users_go_on();
    w.run(20 * SECOND);
    assert_eq!(w.left_behind, 0);
    let lacks = w.report(0).map_or(0, |r| r.out_of_sync_bytes);
    // The window, and the last request, which may be larger.
    assert!(lacks <= 256 << 10, "{lacks}: {}", states(&w));
    w.drag[1] = 0;
    settled(&mut w);
    assert_eq!(w.copies, 1, "{}", states(&w));

    let mut w = small_window(OnCongestion::PullAhead);
    w.drag[1] = 600 * MS;
    w.users_go_on();
    data(&mut w, 1, Data::Behind);
    assert_eq!(w.left_behind, 1);
    assert!(
        longest_wait(&mut w, 8 * SECOND) < 200 * MS,
        "nobody waits for it any more"
    );
    w.drag[1] = 0;
    // By itself, after its time.
    settled(&mut w);
    assert_eq!(w.copies, 2, "{}", states(&w));
}

#[test]
fn writers_are_slowed_down_before_they_stand_still() {
    let mut w = pair(Config {
        window_bytes: 200 << 10,
        ..Config::logging(Mode::Asynchronous)
    });
    w.run(2 * SECOND);
    // What the peer says is held: nothing becomes free.
    w.stalls(1);
    let mut took = Vec::new();
    for chunk in 0..50 {
        let started = w.now;
        write(&mut w, 0, chunk % 40);
        let done = |w: &World| w.nodes[0].guest.outstanding.is_empty();
        assert!(w.until(SECOND, done), "{}", states(&w));
        took.push(w.now - started);
    }
    // A write that a slow disk keeps says nothing.
    let middle = |part: &[u64]| {
        let mut part = part.to_vec();
        part.sort_unstable();
        part[part.len() / 2]
    };
    let (free, filling) = (middle(&took[..40]), middle(&took[45..]));
    assert!(filling > 3 * free, "{took:?} us");
    w.flows_again();
    settled(&mut w);
}

#[test]
fn a_peer_that_is_behind_is_an_exact_earlier_state_and_can_be_promoted() {
    for pause in [0, 500, 3000] {
        let mut w = small_window(OnCongestion::PullAhead);
        w.drag[1] = 600 * MS;
        w.users_go_on();
        data(&mut w, 1, Data::Behind);
        w.run(pause * MS);
        let point = w.report(1).and_then(|r| r.recovery).expect("it has one");
        w.crash(0, true);
        w.drag[1] = 0;
        promoted_apart(&mut w, 1);
        let now = w
            .report(1)
            .and_then(|r| r.transition)
            .and_then(|t| t.recovery);
        assert!(now.is_some_and(|r| r.position.wall >= point.position.wall));
        assert_eq!(w.failure, None);
    }
}

#[test]
fn a_peer_that_is_behind_says_by_how_much() {
    let mut w = small_window(OnCongestion::PullAhead);
    w.drag[1] = 600 * MS;
    w.users_go_on();
    data(&mut w, 1, Data::Behind);
    let behind = |w: &World| {
        w.report(1)
            .and_then(|r| r.recovery)
            .map_or(0, |r| r.behind_bytes)
    };
    let before = behind(&w);
    w.run(4 * SECOND);
    assert!(behind(&w) > before, "{before}, then {}", behind(&w));
}

#[test]
fn a_primary_is_demoted_while_its_peer_is_behind_and_nothing_is_lost() {
    let mut w = small_window(OnCongestion::PullAhead);
    w.drag[1] = 600 * MS;
    w.users_go_on();
    data(&mut w, 1, Data::Behind);
    demoted(&mut w, 0);
    w.drag[1] = 0;
    ends(&mut w, End::Normal);
    assert_eq!(w.oracle.apart, 0);
}

// === a peer that is gone ===

fn suspending(mode: Mode) -> World {
    pair(Config {
        on_peer_loss: OnPeerLoss::SuspendIo,
        ..Config::logging(mode)
    })
}

fn is_suspended(w: &World) -> bool {
    w.report(0).is_some_and(|r| r.suspended)
}

#[test]
fn told_to_suspend_a_primary_completes_nothing_that_its_peer_lacks() {
    for mode in [Mode::FlushSynchronous, Mode::Synchronous] {
        let mut w = suspending(mode);
        assert!(!is_suspended(&w));
        w.cut_link();
        write(&mut w, 0, 3);
        down(&mut w, 0);
        assert!(is_suspended(&w));
        let before = w.nodes[0].guest.outstanding.len();
        write(&mut w, 0, 4);
        w.run(30 * SECOND);
        assert_eq!(w.nodes[0].guest.outstanding.len(), before + 1);
        w.heal_link();
        quiet(&mut w, 0);
        assert!(!is_suspended(&w));
        settled(&mut w);
        assert_eq!(w.copies, 1, "{}", states(&w));
    }
}

#[test]
fn a_suspended_primary_goes_on_when_a_person_says_so() {
    let mut w = suspending(Mode::Synchronous);
    w.cut_link();
    write(&mut w, 0, 3);
    down(&mut w, 0);
    assert!(is_suspended(&w));
    w.config.on_peer_loss = OnPeerLoss::Continue;
    w.change_mode(Mode::Synchronous);
    quiet(&mut w, 0);
    w.heal_link();
    settled(&mut w);
}

#[test]
fn a_suspended_primary_that_stops_stays_suspended_afterwards() {
    let mut w = suspending(Mode::Synchronous);
    w.cut_link();
    write(&mut w, 0, 3);
    down(&mut w, 0);
    w.stop_and_wait(0);
    w.start(0);
    w.run(60 * SECOND);
    write(&mut w, 0, 5);
    w.run(20 * SECOND);
    assert!(is_suspended(&w), "{}", states(&w));
    w.heal_link();
    settled(&mut w);
    assert_eq!(w.oracle.apart, 0);
}

/// Its peer was promoted on a person's word: what the suspended side never answered is no history.
#[test]
fn a_suspended_primary_has_no_history_of_its_own() {
    let mut w = suspending(Mode::Synchronous);
    w.cut_link();
    write(&mut w, 0, 3);
    promoted_apart(&mut w, 1);
    w.heal_link();
    ends(&mut w, End::Normal);
}

#[test]
fn alone_from_the_start_a_primary_does_not_wait_for_a_peer_that_never_was() {
    let mut w = healthy(Mode::Synchronous);
    w.config.on_peer_loss = OnPeerLoss::SuspendIo;
    w.cut_link();
    promoted_apart(&mut w, 1);
    write(&mut w, 1, 3);
    quiet(&mut w, 1);
}
