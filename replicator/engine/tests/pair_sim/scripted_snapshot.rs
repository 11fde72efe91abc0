//! The snapshot before a resync: what an interrupted copy goes back to.

use drqm_engine::command::Refusal;
use drqm_engine::report::{Data, Gate, LinkReport};
use drqm_engine::role::Role;
use drqm_engine::settings::{Mode, SnapshotPolicy};

use crate::campaign::quietly;
use crate::operator::End;
use crate::scripted::{pair, settled, states};
use crate::world::{Config, Device, MS, SECOND, World};

const LIMIT: u64 = 30 * SECOND;

fn data(w: &World, n: usize) -> Option<Data> {
    w.report(n).map(|r| r.data)
}

fn image(w: &World, n: usize) -> Vec<u8> {
    w.nodes[n].data.read(0, w.config.size)
}

/// Large enough that a copy takes its time.
fn config(mode: Mode) -> Config {
    Config {
        size: 600 << 16,
        ..Config::plain(mode)
    }
}

/// A pair whose copy will need a resync, and what it is before that.
fn apart(config: Config) -> (World, Vec<u8>) {
    let mut w = pair(config);
    w.users_go_on();
    w.run(2 * SECOND);
    w.cut_link();
    w.run(8 * SECOND);
    let before = image(&w, 1);
    (w, before)
}

/// The link is there until the copy is inconsistent, and for a moment more.
fn interrupted(w: &mut World, after: u64) {
    w.heal_link();
    w.drag[1] = 30 * MS;
    let began = w.until(LIMIT, |w| data(w, 1) == Some(Data::Syncing));
    assert!(began, "{}", states(w));
    w.run(after);
    w.cut_link();
    w.drag[1] = 0;
}

fn is_down(w: &World) -> bool {
    w.report(1)
        .is_some_and(|r| matches!(r.link, LinkReport::Down(_)))
}

/// Goes back, as often as it takes, and is promoted.
fn brought_up(w: &mut World) {
    w.until(LIMIT, is_down);
    for _ in 0..20 {
        w.start(1);
        if data(w, 1) != Some(Data::InconsistentSnap) {
            break;
        }
        let id = w.revert(1);
        w.answer(1, id);
        w.until(SECOND, |w| data(w, 1) != Some(Data::InconsistentSnap));
    }
    assert_eq!(data(w, 1), Some(Data::Behind), "{}", states(w));
}

fn promoted(w: &mut World) {
    let id = w.promote_apart(1);
    assert_eq!(w.answer(1, id), Some(Ok(())));
    let open = |w: &World| w.nodes[1].device == Device::Published;
    assert!(w.until(LIMIT, open), "{}", states(w));
    assert_eq!(w.gate(1), Some(Gate::Open));
}

#[test]
fn an_interrupted_copy_goes_back_is_promoted_and_never_served_before() {
    for mode in [Mode::Asynchronous, Mode::Synchronous] {
        let (mut w, before) = apart(config(mode));
        interrupted(&mut w, 100 * MS);
        assert!(w.until(LIMIT, is_down));
        assert_eq!(data(&w, 1), Some(Data::InconsistentSnap), "{}", states(&w));
        assert_ne!(image(&w, 1), before, "nothing was copied");
        // A promotion alone is refused: going back is an order of its own.
        let id = w.promote_apart(1);
        assert_eq!(w.answer(1, id), Some(Err(Refusal::NoConsistentData)));
        let snapshot = w.report(1).and_then(|r| r.snapshot).expect("a snapshot");
        assert!(snapshot.used > 0 && snapshot.reverted.is_none());
        brought_up(&mut w);
        assert_eq!(w.report(1).and_then(|r| r.snapshot), None);
        assert!(image(&w, 1) == before, "the copy is not what it was");
        promoted(&mut w);
        w.run(SECOND);
        assert_eq!(w.converge(), Some(End::Partitioned), "{:?}", w.failure);
    }
}

#[test]
fn a_copy_that_went_back_and_meets_its_primary_again_is_copied_to() {
    let (mut w, before) = apart(config(Mode::Asynchronous));
    interrupted(&mut w, 100 * MS);
    brought_up(&mut w);
    assert!(image(&w, 1) == before);
    w.heal_link();
    settled(&mut w);
}

#[test]
fn an_interrupted_copy_goes_on_with_the_snapshot_it_has() {
    let (mut w, before) = apart(config(Mode::Asynchronous));
    let mut taken = None;
    for _ in 0..4 {
        interrupted(&mut w, 100 * MS);
        assert!(w.until(LIMIT, is_down));
        let snapshot = w.report(1).and_then(|r| r.snapshot).expect("a snapshot");
        assert_eq!(*taken.get_or_insert(snapshot.taken), snapshot.taken);
        w.run(3 * SECOND);
    }
    brought_up(&mut w);
    assert!(image(&w, 1) == before, "the copy is not what it was");
    promoted(&mut w);
}

/// A resync is interrupted and the copy goes back; the copy's side is lost on the way.
fn told(at: Option<(u64, bool)>) -> Result<u64, String> {
    quietly(|| {
        let (mut w, before) = apart(config(Mode::Asynchronous));
        let begin = w.ios[1];
        w.crash_at = at.map(|(n, power)| (1, begin + n, power));
        w.heal_link();
        w.drag[1] = 30 * MS;
        w.until(3 * SECOND, |w| {
            data(w, 1) == Some(Data::Syncing) || !w.is_up(1)
        });
        w.run(300 * MS);
        w.cut_link();
        w.drag[1] = 0;
        w.start(1);
        brought_up(&mut w);
        if image(&w, 1) != before {
            return Err("the copy is not what it was".to_owned());
        }
        let ended = w.ios[1] - begin;
        promoted(&mut w);
        w.run(100 * MS);
        w.failure.map_or(Ok(ended), Err)
    })?
}

#[test]
fn the_copy_may_be_lost_at_any_moment_of_the_way_there_and_back() {
    let requests = told(None).expect("nobody is lost");
    let stride = crate::number("DRQM_SIM_CRASH_STRIDE", 16);
    assert!(requests > 60, "{requests} requests");
    for at in (1..=requests).step_by(stride as usize) {
        for power in [false, true] {
            if let Err(why) = told(Some((at, power))) {
                panic!("lost after request {at}, power cut {power}: {why}");
            }
        }
    }
}

/// What a killed process had written to its log may sit in a cache only; the next one relies on it, and
/// then the power goes.
fn killed_and_cut(at: u64) -> Result<(), String> {
    quietly(|| {
        let (mut w, before) = apart(config(Mode::Asynchronous));
        w.crash_at = Some((1, w.ios[1] + at, false));
        w.heal_link();
        w.drag[1] = 10 * MS;
        w.until(3 * SECOND, |w| !w.is_up(1));
        w.start(1);
        w.until(3 * SECOND, |w| data(w, 1) == Some(Data::Syncing));
        w.run(300 * MS);
        w.cut_link();
        w.drag[1] = 0;
        w.crash(1, true);
        w.start(1);
        if data(&w, 1) == Some(Data::InconsistentSnap) {
            brought_up(&mut w);
            if image(&w, 1) != before {
                return Err("the copy is not what it was".to_owned());
            }
        }
        w.failure.map_or(Ok(()), Err)
    })?
}

#[test]
fn a_log_of_a_killed_process_counts_only_when_it_is_durable() {
    for at in (20..100).step_by(5) {
        if let Err(why) = killed_and_cut(at) {
            panic!("killed after request {at}: {why}");
        }
    }
}

#[test]
fn without_room_for_a_snapshot_nothing_is_changed_and_it_is_tried_again() {
    let (mut w, before) = apart(config(Mode::Asynchronous));
    w.config.undo_errors = 1;
    w.heal_link();
    w.run(20 * SECOND);
    let report = w.report(1).expect("it runs");
    assert!(report.snapshot_error.contains("no space"), "{report:?}");
    assert_eq!(image(&w, 1), before, "{}", states(&w));
    w.config.undo_errors = 0;
    settled(&mut w);
    assert_eq!(w.report(1).map(|r| r.snapshot_error), Some(String::new()));
}

#[test]
fn what_could_not_be_kept_is_forgotten_when_this_side_serves() {
    let (mut w, _) = apart(config(Mode::Asynchronous));
    w.config.undo_errors = 1;
    w.heal_link();
    w.run(20 * SECOND);
    let error = |w: &World| w.report(1).map(|r| r.snapshot_error).unwrap_or_default();
    assert!(!error(&w).is_empty());
    w.cut_link();
    w.until(LIMIT, is_down);
    promoted(&mut w);
    assert_eq!(error(&w), "");
}

#[test]
fn room_that_ends_on_the_way_costs_neither_the_snapshot_nor_the_pair() {
    let (mut w, before) = apart(config(Mode::Asynchronous));
    interrupted(&mut w, 100 * MS);
    w.config.undo_errors = 1;
    w.heal_link();
    w.run(10 * SECOND);
    assert_ne!(
        data(&w, 1),
        Some(Data::InconsistentNoSnap),
        "{}",
        states(&w)
    );
    w.cut_link();
    w.config.undo_errors = 0;
    brought_up(&mut w);
    assert!(image(&w, 1) == before, "the copy is not what it was");
    w.heal_link();
    settled(&mut w);
}

#[test]
fn best_effort_goes_on_without_room_and_never_takes_none() {
    for snapshots in [SnapshotPolicy::BestEffort, SnapshotPolicy::Never] {
        let config = Config {
            snapshots,
            undo_errors: 1,
            ..config(Mode::Asynchronous)
        };
        let (mut w, _) = apart(config);
        interrupted(&mut w, 100 * MS);
        assert!(w.until(LIMIT, is_down));
        assert_eq!(
            data(&w, 1),
            Some(Data::InconsistentNoSnap),
            "{}",
            states(&w)
        );
        let id = w.revert(1);
        assert_eq!(w.answer(1, id), Some(Err(Refusal::NoConsistentData)));
        w.heal_link();
        settled(&mut w);
    }
}

#[test]
fn a_damaged_log_is_noticed_and_the_copy_is_not_served() {
    for block in [1, 20] {
        let (mut w, _) = apart(config(Mode::Asynchronous));
        interrupted(&mut w, 300 * MS);
        assert!(w.until(LIMIT, is_down));
        let write = w.nodes[1].undo.write(block * 4096, 4096, Some(&[7; 4096]));
        w.nodes[1].undo.answer(write, block * 4096, 4096, true);
        let id = w.revert(1);
        assert_eq!(w.answer(1, id), Some(Ok(())));
        let none = |w: &World| data(w, 1) == Some(Data::InconsistentNoSnap);
        assert!(w.until(LIMIT, none), "{}", states(&w));
        let report = w.report(1).expect("it runs");
        assert!(report.snapshot_error.contains("of no use"), "{report:?}");
        assert_eq!(report.role, Role::Secondary);
        w.heal_link();
        settled(&mut w);
    }
}
