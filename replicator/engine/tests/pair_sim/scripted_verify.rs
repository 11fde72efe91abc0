//! Hashes instead of data: copies of what is mostly there, and verifications of copies in use.

use drqm_engine::report::{Gate, VerificationReport};
use drqm_engine::settings::Mode;

use crate::operator::End;
use crate::scripted::{demoted, down, ends, gate, pair, promoted, promoted_apart, settled, states};
use crate::world::{Config, MS, SECOND, World};

const CHUNK: u64 = 1 << 16;

fn verifying(repair: bool) -> Config {
    Config {
        verify: Some(repair),
        ..Config::plain(Mode::Asynchronous)
    }
}

fn verification(w: &World) -> Option<VerificationReport> {
    w.report(0).and_then(|r| r.verification)
}

fn is_verified(w: &World) -> bool {
    verification(w).is_some_and(|v| v.finished.is_some())
}

/// One byte of the secondary's copy is not what was written.
fn rot(w: &mut World, offset: u64) {
    w.rotten = true;
    let data = &mut w.nodes[1].data;
    let byte = data.read(offset, 1)[0] ^ 0x40;
    let write = data.write(offset, 1, Some(&[byte]));
    data.answer(write, offset, 1, true);
}

fn differences(w: &World) -> Option<u64> {
    w.nodes[0].data.difference(&w.nodes[1].data)
}

/// A verification of a pair whose process has just started, in order: nothing is copied for that.
fn verified_anew(w: &mut World) {
    w.stop_and_wait(0);
    w.start(0);
    assert!(w.until(60 * SECOND, is_verified), "{}", states(w));
}

#[test]
fn a_verification_under_load_finds_nothing_where_nothing_is_wrong() {
    for mode in [
        Mode::Asynchronous,
        Mode::Synchronous,
        Mode::FlushSynchronous,
    ] {
        let mut w = pair(Config {
            size: 150 << 16,
            pace: MS,
            resync_rate: Some(2 << 20),
            verify: Some(false),
            mode,
            ..verifying(false)
        });
        w.crash(0, false);
        w.start(0);
        w.users_go_on();
        assert!(w.until(60 * SECOND, is_verified), "{}", states(&w));
        assert_eq!(
            verification(&w).map(|v| (v.differing, v.left)),
            Some((0, 0))
        );
        settled(&mut w);
    }
}

#[test]
fn a_flipped_bit_is_found_counted_and_repaired_if_that_was_asked() {
    for repair in [false, true] {
        let mut w = pair(verifying(repair));
        w.until(SECOND, is_verified);
        for offset in [0, 3 * CHUNK + 4096, 7 * CHUNK - 1] {
            rot(&mut w, offset);
        }
        verified_anew(&mut w);
        let found = verification(&w).expect("a verification");
        assert_eq!(found.differing, 3 * 4096);
        if !repair {
            // Known, and told: three chunks may differ.
            let told = w.report(0).map_or(0, |r| r.out_of_sync_bytes);
            assert!(told >= 3 * CHUNK, "{}", states(&w));
            assert!(differences(&w).is_some());
            w.break_session();
        }
        let equal = |w: &World| w.is_normal() && differences(w).is_none();
        assert!(w.until(60 * SECOND, equal), "{}", states(&w));
        settled(&mut w);
    }
}

#[test]
fn what_a_verification_found_is_copied_before_the_roles_are_switched() {
    let mut w = pair(verifying(false));
    w.until(SECOND, is_verified);
    rot(&mut w, 5 * CHUNK);
    verified_anew(&mut w);
    demoted(&mut w, 0);
    promoted(&mut w, 1);
    assert_eq!(differences(&w), None, "{}", states(&w));
    w.break_session();
    assert!(w.until(60 * SECOND, World::is_normal), "{}", states(&w));
    settled(&mut w);
}

#[test]
fn what_a_verification_found_outlives_the_process() {
    let mut w = pair(verifying(false));
    rot(&mut w, 5 * CHUNK);
    verified_anew(&mut w);
    w.cut_link();
    w.config.verify = None;
    w.stop_and_wait(0);
    w.start(0);
    w.heal_link();
    let equal = |w: &World| w.is_normal() && differences(w).is_none();
    assert!(w.until(60 * SECOND, equal), "{}", states(&w));
    settled(&mut w);
}

#[test]
fn a_verification_goes_on_where_it_was_when_the_two_meet_again() {
    let mut w = pair(Config {
        size: 600 << 16,
        resync_rate: Some(4 << 20),
        ..verifying(false)
    });
    let half = |w: &World| verification(w).is_some_and(|v| v.left < 300 * CHUNK);
    assert!(w.until(60 * SECOND, half), "{}", states(&w));
    w.cut_link();
    down(&mut w, 0);
    w.heal_link();
    assert!(w.until(20 * SECOND, World::is_joined), "{}", states(&w));
    assert!(verification(&w).is_some_and(|v| v.left < 310 * CHUNK && v.finished.is_none()));
    assert!(w.until(60 * SECOND, is_verified), "{}", states(&w));
    settled(&mut w);
}

/// What a copy sends until the two are in step: ranges told by hashes, bytes of data.
fn sent(w: &mut World, what: impl FnOnce(&mut World)) -> (u64, u64) {
    let before = (w.hashes, w.copied);
    what(w);
    (w.hashes - before.0, w.copied - before.1)
}

#[test]
fn after_a_crash_only_what_differs_is_sent() {
    let mut w = pair(Config::plain(Mode::Synchronous));
    w.users_go_on();
    w.run(2 * SECOND);
    w.crash(0, true);
    w.start(0);
    let (hashes, copied) = sent(&mut w, settled);
    assert!(hashes > 0, "no hashes were sent");
    assert!(copied < 8 * CHUNK, "{copied} bytes were copied");
}

#[test]
fn an_interrupted_copy_is_not_sent_again() {
    let mut w = pair(Config {
        size: 600 << 16,
        resync_rate: Some(4 << 20),
        ..Config::plain(Mode::Asynchronous)
    });
    w.cut_link();
    w.users_go_on();
    w.run(8 * SECOND);
    w.quiet_user(0);
    w.heal_link();
    let progress = |w: &World| w.report(1).and_then(|r| r.sync);
    let most = |w: &World| progress(w).is_some_and(|s| s.done * 2 > s.total);
    let (_, first) = sent(&mut w, |w| {
        assert!(w.until(30 * SECOND, most), "{}", states(w));
    });
    w.break_session();
    let (hashes, second) = sent(&mut w, settled);
    let total = 64 * CHUNK;
    assert!(
        hashes > 0 && first > total,
        "{hashes} hashes, {first} bytes"
    );
    assert!(second < first, "{second} bytes after {first}");
}

#[test]
fn a_side_that_missed_more_epochs_than_are_kept_is_caught_up_with() {
    let mut w = pair(Config::plain(Mode::Asynchronous));
    w.cut_link();
    w.stop_and_wait(0);
    for _ in 0..20 {
        promoted_apart(&mut w, 1);
        demoted(&mut w, 1);
    }
    promoted_apart(&mut w, 1);
    ends(&mut w, End::Normal);
}

#[test]
fn writes_go_on_where_a_verification_that_is_forgotten_was_reading() {
    let mut w = pair(Config {
        size: 40 << 16,
        ..Config::plain(Mode::Asynchronous)
    });
    w.config.verify = Some(false);
    w.drag[0] = 50 * MS;
    w.stop_and_wait(0);
    w.start(0);
    assert!(
        w.until(60 * SECOND, |w| verification(w).is_some() && w.is_joined()),
        "{}",
        states(&w)
    );
    // It is reading; who is Secondary verifies nothing.
    demoted(&mut w, 0);
    let id = w.promote(0);
    assert_eq!(w.answer(0, id), Some(Ok(())));
    w.drag[0] = 0;
    gate(&mut w, 0, Gate::Open);
    for chunk in 0..40 {
        w.write(0, chunk << 16, 4096, false);
    }
    settled(&mut w);
}
