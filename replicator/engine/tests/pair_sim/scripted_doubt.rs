//! R-AL6: the newest transaction of the activity log is lost, and with it where a crashed run wrote.

use drqm_engine::command::Refusal;
use drqm_engine::report::{Data, Gate, LinkReport};
use drqm_engine::settings::Mode;

use crate::operator::End;
use crate::scripted::{
    demoted, down, ends, gate, joined, pair, promoted, promoted_apart, quiet, settled, states,
};
use crate::world::{Config, MS, SECOND, World};

const BLOCK: usize = 4096;
const EXTENT: u64 = 4 << 20;

/// Kind of a block of the activity log, and where its header says so; where its sequence number stands.
const ACTIVITY_LOG: u8 = 4;
const KIND: usize = 8;
const SEQUENCE: usize = 40;

/// The newest transaction of side 0's activity log.
fn transaction(w: &mut World) -> &mut [u8] {
    let raw = &mut w.nodes[0].meta.raw;
    let blocks = raw.chunks_mut(BLOCK).filter(|b| b[KIND] == ACTIVITY_LOG);
    blocks.max_by_key(|b| b[SEQUENCE]).expect("a transaction")
}

/// A Primary that wrote, alone, where only its newest transaction said so, and was killed.
fn in_doubt() -> World {
    let mut w = pair(Config {
        size: 60 * EXTENT,
        ..Config::plain(Mode::Asynchronous)
    });
    w.quiet_user(0);
    quiet(&mut w, 0);
    w.cut_link();
    crashed_without_its_transaction(&mut w, [59]);
    w
}

/// Writes where only a new transaction says so, and is killed; the transaction is lost.
fn crashed_without_its_transaction(w: &mut World, extents: impl IntoIterator<Item = u64>) {
    let before = transaction(w)[SEQUENCE];
    for extent in extents {
        w.write(0, extent * EXTENT, 4096, false);
        // Where it wrote is not in the bits on disk yet.
        quiet(w, 0);
        if transaction(w)[SEQUENCE] > before {
            break;
        }
    }
    w.crash(0, false);
    let newest = transaction(w);
    assert!(newest[SEQUENCE] > before, "it named the place");
    newest[BLOCK - 1] ^= 0x40;
}

fn are_equal(w: &World) -> bool {
    w.nodes[0].data.difference(&w.nodes[1].data).is_none()
}

#[test]
fn what_only_a_lost_transaction_named_is_found_and_copied() {
    let mut w = in_doubt();
    w.start(0);
    w.heal_link();
    assert!(
        w.until(60 * SECOND, |w| are_equal(w) && w.is_joined()),
        "{}",
        states(&w)
    );
    settled(&mut w);
}

#[test]
fn a_doubt_that_is_resolved_does_not_come_back_with_the_next_crash() {
    let mut w = in_doubt();
    w.start(0);
    gate(&mut w, 0, Gate::Open);
    w.quiet_user(0);
    assert_ne!(transaction(&mut w)[BLOCK - 1], 0, "nothing covers it yet");
    w.heal_link();
    assert!(
        w.until(60 * SECOND, |w| are_equal(w) && w.is_normal()),
        "{}",
        states(&w)
    );
    assert_eq!(transaction(&mut w)[BLOCK - 1], 0, "it cannot be read");
    settled(&mut w);
}

#[test]
fn a_copy_that_is_taken_back_stays_in_doubt_until_the_other_has_compared_it() {
    for again in [false, true] {
        let mut w = in_doubt();
        promoted_apart(&mut w, 1);
        w.heal_link();
        w.start(0);
        gate(&mut w, 0, Gate::Superseded);
        demoted(&mut w, 0);
        joined(&mut w);
        if again {
            w.crash(0, true);
            w.start(0);
        }
        assert!(
            w.until(60 * SECOND, |w| are_equal(w) && w.is_joined()),
            "{}",
            states(&w)
        );
        ends(&mut w, End::Normal);
    }
}

#[test]
fn what_only_a_side_in_doubt_may_have_is_not_left_behind_by_a_switch() {
    let mut w = in_doubt();
    w.config.resync_rate = Some(60 << 20);
    w.start(0);
    w.heal_link();
    let compares = |w: &World| {
        w.report(0)
            .is_some_and(|r| r.data == Data::SyncSource && r.sync.is_none())
    };
    assert!(w.until(60 * SECOND, compares), "{}", states(&w));
    assert!(!are_equal(&w), "nothing to find");
    assert_eq!(w.report(1).map(|r| r.data), Some(Data::Behind));
    demoted(&mut w, 0);
    let id = w.promote(1);
    assert_eq!(w.answer(1, id), Some(Err(Refusal::SyncInProgress)));
    // Nobody need be promoted for it.
    assert!(
        w.until(120 * SECOND, |w| are_equal(w) && in_step(w)),
        "{}",
        states(&w)
    );
    promoted(&mut w, 1);
    settled(&mut w);
}

/// Two Secondaries; 0 was served last, is in doubt, and compares, which takes half a minute.
fn two_secondaries() -> World {
    let mut w = in_doubt();
    w.config.resync_rate = Some(8 << 20);
    w.start(0);
    gate(&mut w, 0, Gate::Open);
    w.quiet_user(0);
    w.heal_link();
    let compares = |w: &World| {
        let is =
            |r: drqm_engine::report::Report| r.data == Data::SyncSource && r.out_of_sync_bytes == 0;
        w.report(0).is_some_and(is)
    };
    assert!(w.until(120 * SECOND, compares), "{}", states(&w));
    demoted(&mut w, 0);
    w
}

fn in_step(w: &World) -> bool {
    let is = |n: usize| w.report(n).is_some_and(|r| r.data == Data::UpToDate);
    is(0) && is(1)
}

/// Breaks the session, and waits until side 0 knows.
fn parted(w: &mut World) {
    w.break_session();
    let knows = |w: &World| w.report(0).is_some_and(|r| r.link != LinkReport::Connected);
    assert!(w.until(10 * SECOND, knows), "{}", states(w));
}

#[test]
fn a_doubt_is_not_left_behind_whenever_a_switch_is_asked_for() {
    let mut w = two_secondaries();
    let mut while_comparing = 0;
    for moment in 0..30 {
        parted(&mut w);
        w.run(moment * 2 * MS);
        let connected = w.report(1).map(|r| r.link) == Some(LinkReport::Connected);
        let id = w.promote(1);
        let answer = w.answer(1, id);
        let waits = answer == Some(Err(Refusal::SyncInProgress));
        while_comparing += u32::from(waits && !connected);
        let refused = matches!(
            answer,
            Some(Err(Refusal::PeerUnknown | Refusal::TimedOut(_)))
        );
        assert!(waits || refused, "{moment}: {answer:?} {}", states(&w));
    }
    assert_ne!(while_comparing, 0, "none came at that moment");
    promoted(&mut w, 1);
    settled(&mut w);
}

#[test]
fn a_doubt_ends_also_over_short_sessions() {
    let mut w = two_secondaries();
    for _ in 0..60 {
        w.run(SECOND);
        parted(&mut w);
    }
    assert!(w.until(10 * SECOND, in_step), "{}", states(&w));
    promoted(&mut w, 1);
    settled(&mut w);
}

#[test]
fn a_copy_in_doubt_that_is_taken_back_is_never_something_between_two_histories() {
    for pause in [0, 2, 20] {
        let mut w = in_doubt();
        promoted_apart(&mut w, 1);
        w.config.resync_rate = Some(8 << 20);
        w.stop_and_wait(1);
        w.start(1);
        gate(&mut w, 1, Gate::Open);
        w.quiet_user(1);
        w.heal_link();
        w.start(0);
        gate(&mut w, 0, Gate::Superseded);
        demoted(&mut w, 0);
        let copies = |w: &World| w.report(0).is_some_and(|r| r.sync.is_some());
        assert!(w.until(60 * SECOND, copies), "{}", states(&w));
        w.run(pause * SECOND);
        w.cut_link();
        // It goes back to what it had.
        down(&mut w, 0);
        let id = w.revert(0);
        assert_eq!(w.answer(0, id), Some(Ok(())), "{}", states(&w));
        let is_back = |w: &World| w.report(0).is_some_and(|r| r.data == Data::Behind);
        assert!(w.until(60 * SECOND, is_back), "{}", states(&w));
        promoted_apart(&mut w, 0);
        crashed_without_its_transaction(&mut w, (0..24).step_by(3));
        w.write(1, 50 * EXTENT, 4096, false);
        quiet(&mut w, 1);
        w.heal_link();
        w.resolve(0);
        let equal = |w: &World| are_equal(w) && w.is_normal();
        assert!(w.until(200 * SECOND, equal), "{}", states(&w));
        settled(&mut w);
    }
}
