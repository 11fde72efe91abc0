//! Copies that are broken off, disks that fail, power that goes: the named situations below the roles.

use drqm_engine::command::{Initialize, Refusal};
use drqm_engine::frame::Frame;
use drqm_engine::report::{Data, Gate};
use drqm_engine::role::Role;
use drqm_engine::settings::Mode;

use crate::operator::End;
use crate::scripted::{
    data, demoted, down, ends, gate, healthy, joined, pair, promoted_apart, quiet, settled, states,
    write,
};
use crate::world::{Config, MS, SECOND, World};

// === copies ===

#[test]
fn an_interrupted_first_copy_is_not_promoted_and_starts_again() {
    let mut w = World::new(Config::plain(Mode::Asynchronous), 3);
    w.cut_link();
    w.create(0, Initialize::WithoutPeer);
    gate(&mut w, 0, Gate::Open);
    w.heal_link();
    assert!(w.until(30 * SECOND, |w| w.copies > 0));
    w.cut_link();
    w.run(20 * SECOND);
    let id = w.promote_apart(1);
    assert_eq!(w.answer(1, id), Some(Err(Refusal::NeverSynchronized)));
    ends(&mut w, End::Normal);
}

#[test]
fn an_interrupted_copy_leaves_an_inconsistent_side_that_is_not_promoted() {
    let mut w = healthy(Mode::Asynchronous);
    w.cut_link();
    for chunk in 1..38 {
        write(&mut w, 0, chunk);
    }
    down(&mut w, 0);
    w.heal_link();
    data(&mut w, 1, Data::Syncing);
    w.cut_link();
    data(&mut w, 1, Data::InconsistentSnap);
    down(&mut w, 1);
    let id = w.promote_apart(1);
    assert_eq!(w.answer(1, id), Some(Err(Refusal::NoConsistentData)));
    w.crash(1, true);
    w.crash(0, true);
    ends(&mut w, End::Normal);
}

#[test]
fn bits_of_an_earlier_copy_do_not_come_back_beside_a_new_primary() {
    let mut w = healthy(Mode::Asynchronous);
    w.cut_link();
    for chunk in 1..9 {
        write(&mut w, 0, chunk);
    }
    down(&mut w, 0);
    quiet(&mut w, 0);
    // Demoted apart: the bits are on disk.
    demoted(&mut w, 0);
    w.heal_link();
    let synced = |w: &World| {
        [0, 1]
            .iter()
            .all(|n| w.report(*n).is_some_and(|r| r.data == Data::UpToDate))
    };
    assert!(w.until(60 * SECOND, synced));
    let id = w.promote(1);
    assert_eq!(w.answer(1, id), Some(Ok(())));
    w.crash(0, true);
    w.start(0);
    ends(&mut w, End::Normal);
    assert!(w.report(1).is_some_and(|r| r.role == Role::Primary));
}

#[test]
fn a_copy_that_loses_power_keeps_what_its_recovery_point_states() {
    for seed in 0..80 {
        let mut w = World::new(
            Config {
                slow: 40,
                pace: 2 * MS,
                ..Config::plain(Mode::Asynchronous)
            },
            2000 + seed,
        );
        joined(&mut w);
        w.create(0, Initialize::WithPeer);
        let synced = |w: &World| w.report(1).is_some_and(|r| r.data == Data::UpToDate);
        assert!(w.until(60 * SECOND, synced));
        w.run(2 * SECOND + seed * 13 * MS);
        // Killed, or without power: in the order of the stream, or as a disk may lose it.
        w.crash(1, seed % 2 == 0);
        w.crash(0, true);
        w.start(1);
        promoted_apart(&mut w, 1);
        ends(&mut w, End::Normal);
    }
}

#[test]
fn a_recovery_point_is_never_ahead_of_the_flush_it_was_recorded_with() {
    for seed in 0..60 {
        let mut w = World::new(
            Config {
                slow: 30,
                ..Config::plain(Mode::Asynchronous)
            },
            4000 + seed,
        );
        joined(&mut w);
        w.create(0, Initialize::WithPeer);
        settled(&mut w);
        // No flush of the user: the copy flushes by itself, now and then.
        for n in 0..1000 + seed * 9 {
            write(&mut w, 0, n % 37);
            w.run(MS);
        }
        w.crash(1, true);
        w.crash(0, true);
        w.start(1);
        promoted_apart(&mut w, 1);
        ends(&mut w, End::Normal);
    }
}

#[test]
fn a_recovery_point_does_not_move_before_the_copy_is_complete() {
    let mut w = healthy(Mode::Asynchronous);
    w.cut_link();
    down(&mut w, 0);
    write(&mut w, 0, 3);
    quiet(&mut w, 0);
    w.swallow = Some((0, |f| matches!(f, Frame::ResyncBegin { .. })));
    w.swallowed = 0;
    w.heal_link();
    assert!(w.until(30 * SECOND, |w| w.swallowed > 0));
    w.cut_link();
    promoted_apart(&mut w, 1);
    ends(&mut w, End::Partitioned);
}

#[test]
fn a_read_for_a_copy_that_was_broken_off_does_not_reach_the_next_one() {
    for seed in 0..60 {
        let mut w = World::new(
            Config {
                slow: 60,
                ..Config::plain(Mode::Asynchronous)
            },
            3000 + seed,
        );
        joined(&mut w);
        w.create(0, Initialize::WithPeer);
        settled(&mut w);
        w.cut_link();
        for chunk in 1..12 {
            write(&mut w, 0, chunk);
        }
        down(&mut w, 0);
        quiet(&mut w, 0);
        w.heal_link();
        let copies = w.copies;
        assert!(w.until(60 * SECOND, |w| w.copies > copies));
        w.run(60 * MS);
        w.reconnect();
        for chunk in 1..12 {
            write(&mut w, 0, chunk);
        }
        ends(&mut w, End::Normal);
    }
}

#[test]
fn a_peer_whose_disk_failed_counts_as_down() {
    let mut w = healthy(Mode::Synchronous);
    w.users_go_on();
    w.fail_next = Some(0);
    data(&mut w, 0, Data::Failed);
    promoted_apart(&mut w, 1);
    let says_why = |w: &World| {
        let link = w.report(1).map(|report| format!("{:?}", report.link));
        link.is_some_and(|link| link.contains("the local disk failed"))
    };
    assert!(w.until(30 * SECOND, says_why), "{}", states(&w));
    ends(&mut w, End::Normal);
}

// === disks ===

#[test]
fn a_failing_disk_stops_its_side_and_leaves_the_other_whole() {
    for failing in 0..2 {
        let mut w = healthy(Mode::Synchronous);
        w.users_go_on();
        w.run(SECOND);
        w.fail_next = Some(failing);
        data(&mut w, failing, Data::Failed);
        if failing == 0 {
            promoted_apart(&mut w, 1);
            w.crash(0, true);
        }
        ends(&mut w, End::Normal);
    }
}

#[test]
fn a_graceful_stop_leaves_nothing_to_copy() {
    let mut w = healthy(Mode::Asynchronous);
    for round in 0..6 {
        w.users_go_on();
        w.run(SECOND);
        w.quiet_user(0);
        w.run(2 * SECOND);
        let copies = w.copies;
        w.stop_and_wait(round % 2);
        w.start(round % 2);
        joined(&mut w);
        gate(&mut w, 0, Gate::Open);
        assert_eq!(w.copies, copies, "{}", states(&w));
        assert!(w.report(1).is_some_and(|r| r.data == Data::UpToDate));
    }
    ends(&mut w, End::Normal);
}

#[test]
fn a_torn_newest_superblock_falls_back_to_the_one_before() {
    let mut w = healthy(Mode::Synchronous);
    let before = w.report(0).expect("it runs").lineage;
    w.stop_and_wait(0);
    // Both copies of the newest one; its slot is found by its sequence number.
    let seq = |raw: &[u8], b: usize| {
        u64::from_le_bytes(raw[b * 4096 + 40..][..8].try_into().expect("eight"))
    };
    let raw = &w.nodes[0].meta.raw;
    let newest = (1..9).max_by_key(|b| seq(raw, *b)).expect("eight slots");
    for block in [newest, newest + 8] {
        w.nodes[0].meta.raw[block * 4096 + 100] ^= 1;
    }
    w.start(0);
    assert_eq!(w.report(0).map(|r| r.lineage), Some(before));
    ends(&mut w, End::Normal);
}

#[test]
fn a_power_cut_after_the_first_write_to_an_extent_leaves_no_unknown_difference() {
    for seed in 0..150 {
        let config = Config {
            size: 300 << 16,
            ..Config::plain(Mode::Asynchronous)
        };
        let mut w = World::new(config, 900 + seed);
        joined(&mut w);
        w.create(0, Initialize::WithPeer);
        gate(&mut w, 0, Gate::Open);
        w.quiet_user(0);
        settled(&mut w);
        // A process that has just started: its activity log is empty.
        w.stop_and_wait(0);
        w.start(0);
        gate(&mut w, 0, Gate::Open);
        w.nodes[0].guest.running = false;
        for chunk in [70, 140, 210] {
            write(&mut w, 0, chunk);
        }
        w.run(seed * 20);
        w.crash(0, true);
        w.start(0);
        ends(&mut w, End::Normal);
    }
}

#[test]
fn extents_beyond_the_activity_log_take_turns() {
    let mut w = pair(Config {
        size: 1200 << 22,
        ..Config::plain(Mode::Asynchronous)
    });
    for extent in 0..1150_u64 {
        w.write(0, (extent << 22) + 8192, 4096, false);
        w.run(2 * MS);
        if extent == 1100 {
            w.cut_link();
        }
    }
    quiet(&mut w, 0);
    for extent in 0..120_u64 {
        w.write(0, (extent << 22) + 16384, 4096, false);
        w.run(2 * MS);
    }
    quiet(&mut w, 0);
    w.crash(0, true);
    ends(&mut w, End::Normal);
}

#[test]
fn a_copy_keeps_to_its_rate_and_the_estimate_holds() {
    let rate = 2 << 20;
    let config = Config {
        size: 600 << 16,
        resync_rate: Some(rate),
        ..Config::plain(Mode::Asynchronous)
    };
    let mut w = World::new(config, 5);
    joined(&mut w);
    let id = w.create(0, Initialize::WithPeer);
    assert_eq!(w.answer(0, id), Some(Ok(())));
    let sync = |w: &World| w.report(0).and_then(|r| r.sync);
    let far = |w: &World| sync(w).is_some_and(|s| s.done * 4 >= s.total);
    assert!(w.until(60 * SECOND, far), "{}", states(&w));
    let (at, seen) = (w.now, sync(&w).expect("it copies"));
    let spent = at - seen.started.0;
    let left = spent * (seen.total - seen.done) / seen.done;
    assert!(w.until(60 * SECOND, |w| sync(w).is_none()));
    let took = w.now - at;
    assert!(
        took.abs_diff(left) * 4 <= left,
        "{left} us were left, it took {took} us"
    );
    let ideal = seen.total * SECOND / rate;
    let whole = w.now - seen.started.0;
    assert!(
        whole.abs_diff(ideal) * 10 <= ideal,
        "{whole} instead of {ideal} us"
    );
    w.config.resync_rate = None;
    settled(&mut w);
}
