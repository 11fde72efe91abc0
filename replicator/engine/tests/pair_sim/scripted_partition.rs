//! A person ends a partition: whose history stays, what is kept of the other.

use drqm_engine::command::{Command, Keep, Refusal};
use drqm_engine::ids::Epoch;
use drqm_engine::report::{Data, Gate, LinkReport};
use drqm_engine::role::Role;
use drqm_engine::settings::Mode;

use crate::operator::End;
use crate::scripted::{demoted, down, gate, joined, lost_tail, pair, settled, states};
use crate::world::{Config, Device, MS, SECOND, World};

const LIMIT: u64 = 30 * SECOND;

fn config() -> Config {
    Config {
        size: 600 << 16,
        ..Config::plain(Mode::Asynchronous)
    }
}

fn data(w: &World, n: usize) -> Option<Data> {
    w.report(n).map(|r| r.data)
}

fn image(w: &World, n: usize) -> Vec<u8> {
    w.nodes[n].data.read(0, w.config.size)
}

/// Both sides have served on their own, and know of each other.
fn parted() -> World {
    let mut w = pair(config());
    w.users_go_on();
    w.run(SECOND);
    w.cut_link();
    let down = |w: &World| {
        w.report(1)
            .is_some_and(|r| matches!(r.link, LinkReport::Down(_)))
    };
    assert!(w.until(LIMIT, down));
    let id = w.promote_apart(1);
    assert_eq!(w.answer(1, id), Some(Ok(())));
    let open = |w: &World| w.nodes[1].device == Device::Published;
    assert!(w.until(LIMIT, open), "{}", states(&w));
    w.users_go_on();
    w.run(SECOND);
    w.heal_link();
    let both = |w: &World| [0, 1].iter().all(|n| data(w, *n) == Some(Data::Diverged));
    assert!(w.until(LIMIT, both), "{}", states(&w));
    w
}

fn resolve(w: &mut World, n: usize, keep: Keep) -> Option<Result<(), Refusal>> {
    let head = w.report(n).and_then(|r| r.lineage.first().copied());
    let expected_epoch = head.unwrap_or(Epoch::NONE);
    let id = w.command(
        n,
        Command::Resolve {
            expected_epoch,
            keep,
        },
    );
    w.answer(n, id)
}

#[test]
fn what_is_given_up_is_kept_and_overwritten_by_a_delta() {
    for loser in [0, 1] {
        let mut w = parted();
        assert_eq!(
            resolve(&mut w, loser, Keep::Remote),
            Some(Err(Refusal::IsPrimary)),
            "under its users"
        );
        let id = w.demote(loser).expect("it is Primary");
        assert_eq!(w.answer(loser, id), Some(Ok(())));
        assert!(w.until(LIMIT, |w| data(w, loser) == Some(Data::Diverged)));
        let had = image(&w, loser);
        w.drag[loser] = 5 * MS;
        assert_eq!(resolve(&mut w, loser, Keep::Remote), Some(Ok(())));
        let syncs = |w: &World| w.report(loser).is_some_and(|r| r.sync.is_some());
        assert!(w.until(LIMIT, syncs), "{}", states(&w));
        let total = w
            .report(loser)
            .and_then(|r| r.sync)
            .expect("it syncs")
            .total;
        assert!(total < w.config.size / 2, "{total} bytes are no delta");
        w.drag[loser] = 0;
        settled(&mut w);
        assert_eq!(w.nodes[loser].kept, Some(had));
    }
}

#[test]
fn giving_up_is_for_one_history_only_and_both_cannot() {
    let mut w = parted();
    let id = w.command(
        1,
        Command::Resolve {
            expected_epoch: Epoch(77),
            keep: Keep::Remote,
        },
    );
    let stale = w.answer(1, id);
    assert!(
        matches!(stale, Some(Err(Refusal::StaleEpoch { .. }))),
        "{stale:?}"
    );
    w.cut_link();
    for n in [0, 1] {
        w.until(LIMIT, |w| {
            w.report(n)
                .is_some_and(|r| matches!(r.link, LinkReport::Down(_)))
        });
        let id = w.demote(n).expect("it is Primary");
        assert_eq!(w.answer(n, id), Some(Ok(())));
        assert_eq!(resolve(&mut w, n, Keep::Remote), Some(Ok(())));
    }
    w.heal_link();
    w.run(10 * SECOND);
    assert_eq!(
        [0, 1].map(|n| data(&w, n)),
        [Some(Data::Diverged); 2],
        "{}",
        states(&w)
    );
    // One changes its mind.
    assert_eq!(resolve(&mut w, 0, Keep::Local), Some(Ok(())));
    let over = |w: &World| [0, 1].iter().all(|n| data(w, *n) == Some(Data::UpToDate));
    assert!(w.until(LIMIT, over), "{}", states(&w));
    let id = w.promote(0);
    assert_eq!(w.answer(0, id), Some(Ok(())));
    settled(&mut w);
}

#[test]
fn the_survivor_is_lost_while_the_other_gives_up() {
    let mut w = parted();
    let id = w.demote(1).expect("it is Primary");
    assert_eq!(w.answer(1, id), Some(Ok(())));
    let had = image(&w, 1);
    w.drag[1] = 30 * MS;
    assert_eq!(resolve(&mut w, 1, Keep::Remote), Some(Ok(())));
    assert!(w.until(LIMIT, |w| data(w, 1) == Some(Data::Syncing)));
    w.run(100 * MS);
    w.crash(0, true);
    w.drag[1] = 0;
    assert!(w.until(LIMIT, |w| data(w, 1) == Some(Data::InconsistentSnap)));
    let id = w.revert(1);
    assert_eq!(w.answer(1, id), Some(Ok(())));
    assert!(
        w.until(LIMIT, |w| data(w, 1) == Some(Data::Diverged)),
        "{}",
        states(&w)
    );
    assert!(image(&w, 1) == had, "it is not what it was");
    // What was given up is served again only if a person says so.
    let id = w.promote_apart(1);
    assert_eq!(w.answer(1, id), Some(Err(Refusal::SplitBrainUnresolved)));
    assert_eq!(resolve(&mut w, 1, Keep::Local), Some(Ok(())));
    let id = w.promote_apart(1);
    assert_eq!(w.answer(1, id), Some(Ok(())));
    w.run(SECOND);
    assert_eq!(w.report(1).map(|r| r.role), Some(Role::Primary));
    assert_eq!(w.converge(), Some(End::Partitioned), "{:?}", w.failure);
}

/// What side 1 had is given up, and begins to be overwritten; then side 0 is lost. The result is what it had.
fn interrupted() -> (World, Vec<u8>) {
    let mut w = parted();
    demoted(&mut w, 1);
    let had = image(&w, 1);
    w.drag[1] = 30 * MS;
    assert_eq!(resolve(&mut w, 1, Keep::Remote), Some(Ok(())));
    assert!(w.until(LIMIT, |w| data(w, 1) == Some(Data::Syncing)));
    w.run(100 * MS);
    w.cut_link();
    w.crash(0, true);
    w.drag[1] = 0;
    assert!(w.until(LIMIT, |w| data(w, 1) == Some(Data::InconsistentSnap)));
    assert_eq!(w.nodes[1].kept.as_ref(), Some(&had));
    (w, had)
}

#[test]
fn what_is_half_overwritten_is_kept_only_once_it_is_whole_again() {
    let (mut w, had) = interrupted();
    let refused = resolve(&mut w, 1, Keep::Local);
    assert_eq!(refused, Some(Err(Refusal::NoConsistentData)));
    let id = w.revert(1);
    assert_eq!(w.answer(1, id), Some(Ok(())));
    assert!(w.until(LIMIT, |w| data(w, 1) == Some(Data::Diverged)));
    assert_eq!(resolve(&mut w, 1, Keep::Local), Some(Ok(())));
    w.start(0);
    w.heal_link();
    joined(&mut w);
    assert_ne!(data(&w, 1), Some(Data::Syncing));
    assert!(w.nodes[1].kept.take().as_ref() == Some(&had));
    assert_eq!(resolve(&mut w, 1, Keep::Remote), Some(Ok(())));
    settled(&mut w);
    assert!(
        w.nodes[1].kept == Some(had),
        "the second word overwrote what nobody kept"
    );
}

#[test]
fn a_primary_that_had_made_way_serves_again_when_the_other_gives_way() {
    let mut w = lost_tail();
    demoted(&mut w, 1);
    // Side 1 hears of the tail, side 0 of nothing; then the tail is lost.
    w.stalls(1);
    w.heal_link();
    assert!(w.until(LIMIT, |w| data(w, 1) == Some(Data::Diverged)));
    w.crash(0, true);
    w.flows_again();
    // Side 0 learns that it is behind, side 1 of nothing.
    w.stalls(0);
    w.start(0);
    gate(&mut w, 0, Gate::Superseded);
    w.run(SECOND);
    w.cut_link();
    w.flows_again();
    assert_eq!(resolve(&mut w, 1, Keep::Remote), Some(Ok(())));
    w.heal_link();
    gate(&mut w, 0, Gate::Open);
    w.users_go_on();
    w.run(SECOND);
    settled(&mut w);
}

#[test]
fn a_word_stays_open_while_the_halves_refuse_each_other() {
    let (mut w, had) = interrupted();
    let id = w.revert(1);
    assert_eq!(w.answer(1, id), Some(Ok(())));
    assert!(w.until(LIMIT, |w| data(w, 1) == Some(Data::Diverged)));
    w.config.queue_managers[0] = "ANOTHER";
    w.start(0);
    w.heal_link();
    let refused = |w: &World| {
        w.report(1)
            .is_some_and(|r| matches!(r.link, LinkReport::Refused(_)))
    };
    assert!(w.until(LIMIT, refused), "{}", states(&w));
    let id = w.promote_apart(1);
    assert_eq!(w.answer(1, id), Some(Err(Refusal::SplitBrainUnresolved)));
    assert_eq!(resolve(&mut w, 1, Keep::Local), Some(Ok(())));
    assert!(image(&w, 1) == had, "it was overwritten");
    // Whoever it is: two never serve while they hear each other.
    w.cut_link();
    down(&mut w, 1);
    let id = w.promote_apart(1);
    assert_eq!(w.answer(1, id), Some(Ok(())));
}

#[test]
fn without_room_to_keep_it_nothing_is_given_up() {
    let mut w = parted();
    let id = w.demote(1).expect("it is Primary");
    assert_eq!(w.answer(1, id), Some(Ok(())));
    let had = image(&w, 1);
    w.config.undo_errors = 1;
    assert_eq!(resolve(&mut w, 1, Keep::Remote), Some(Ok(())));
    w.run(10 * SECOND);
    let report = w.report(1).expect("it runs");
    assert!(report.snapshot_error.contains("no space"), "{report:?}");
    assert!(image(&w, 1) == had, "it was overwritten");
    w.config.undo_errors = 0;
    settled(&mut w);
    assert_eq!(w.nodes[1].kept, Some(had));
}

#[test]
fn a_healthy_pair_has_nothing_to_resolve() {
    let mut w = pair(config());
    for (n, keep) in [(0, Keep::Local), (1, Keep::Local), (1, Keep::Remote)] {
        assert_eq!(resolve(&mut w, n, keep), Some(Ok(())));
    }
    settled(&mut w);
}
