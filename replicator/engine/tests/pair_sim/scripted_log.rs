//! The retained log: short absences are made good in order, and the copy is never inconsistent for them.

use drqm_engine::report::Data;
use drqm_engine::settings::Mode;

use crate::operator::End;
use crate::scripted::{down, ends, pair, promoted_apart, quiet, settled, states, write};
use crate::world::{Config, MS, SECOND, World};

fn logging(mode: Mode) -> World {
    pair(Config::logging(mode))
}

/// Lives on under load; whether the copy was inconsistent at any moment.
fn was_inconsistent(w: &mut World, time: u64) -> bool {
    let mut was = false;
    for _ in 0..time / (10 * MS) {
        w.run(10 * MS);
        let data = w.report(1).map(|r| r.data);
        was |= matches!(
            data,
            Some(Data::Syncing | Data::InconsistentSnap | Data::InconsistentNoSnap)
        );
    }
    was
}

#[test]
fn after_a_cut_link_the_copy_catches_up_and_is_never_inconsistent() {
    for mode in [
        Mode::Asynchronous,
        Mode::FlushSynchronous,
        Mode::Synchronous,
    ] {
        let mut w = logging(mode);
        w.users_go_on();
        for _ in 0..4 {
            w.run(300 * MS);
            w.cut_link();
            assert!(!was_inconsistent(&mut w, 8 * SECOND));
            assert!(w.report(0).is_some_and(|r| r.out_of_sync_bytes > 0));
            w.heal_link();
            assert!(!was_inconsistent(&mut w, 4 * SECOND));
        }
        settled(&mut w);
        assert_eq!((w.copies, w.replays), (1, 4), "{}", states(&w));
    }
}

#[test]
fn a_secondary_that_was_restarted_catches_up() {
    for power in [false, true] {
        let mut w = logging(Mode::Synchronous);
        w.users_go_on();
        for _ in 0..4 {
            w.run(700 * MS);
            w.crash(1, power);
            w.run(2 * SECOND);
            w.start(1);
            assert!(!was_inconsistent(&mut w, 4 * SECOND));
        }
        settled(&mut w);
        assert_eq!((w.copies, w.replays), (1, 4), "{}", states(&w));
    }
}

#[test]
fn a_link_that_breaks_while_the_copy_catches_up_costs_nothing() {
    let mut w = logging(Mode::Asynchronous);
    w.users_go_on();
    w.cut_link();
    w.run(8 * SECOND);
    for pause in [1, 2, 3, 5, 8, 13, 21, 34, 55] {
        w.heal_link();
        assert!(!was_inconsistent(&mut w, pause * 20 * MS));
        w.cut_link();
        assert!(!was_inconsistent(&mut w, 7 * SECOND));
    }
    w.heal_link();
    settled(&mut w);
    assert_eq!(w.copies, 1, "{}", states(&w));
    assert!(w.replays > 0);
}

#[test]
fn a_log_that_is_full_becomes_bits_and_a_copy() {
    let mut w = pair(Config {
        log_bytes: 20 << 10,
        ..Config::logging(Mode::Asynchronous)
    });
    w.cut_link();
    for chunk in 0..10 {
        write(&mut w, 0, chunk);
    }
    quiet(&mut w, 0);
    // What is on its way counts only when its session has ended.
    down(&mut w, 0);
    w.heal_link();
    settled(&mut w);
    assert_eq!((w.copies, w.replays), (2, 0), "{}", states(&w));
}

#[test]
fn a_primary_that_stops_or_is_demoted_leaves_its_log_as_bits() {
    for stops in [false, true] {
        let mut w = logging(Mode::Asynchronous);
        w.cut_link();
        write(&mut w, 0, 3);
        quiet(&mut w, 0);
        w.run(8 * SECOND);
        if stops {
            w.stop_and_wait(0);
            w.start(0);
        } else {
            crate::scripted::demoted(&mut w, 0);
        }
        w.heal_link();
        ends(&mut w, End::Normal);
        assert_eq!((w.copies, w.replays), (2, 0), "{}", states(&w));
    }
}

/// What was acknowledged in synchronous mode is on the copy, and is never taken back by older writes to
/// the same place on their way again, at whatever moment the primary goes.
#[test]
fn catching_up_shows_nothing_older_than_what_was_promised() {
    let mut caught_between = 0;
    for moment in 0..60 {
        let mut w = logging(Mode::Synchronous);
        for _ in 0..12 {
            write(&mut w, 0, 5);
            quiet(&mut w, 0);
        }
        w.crash(1, false);
        w.start(1);
        assert!(w.until(20 * SECOND, |w| w.replays > 0), "{}", states(&w));
        w.run(moment * MS / 10);
        let done = w.report(1).is_some_and(|r| r.data == Data::UpToDate);
        caught_between += u32::from(!done);
        w.crash(0, true);
        promoted_apart(&mut w, 1);
        assert_eq!(w.failure, None, "{moment}: {}", states(&w));
    }
    assert!(caught_between > 10, "{caught_between}");
}
