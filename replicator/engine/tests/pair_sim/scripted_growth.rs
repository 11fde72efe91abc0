//! A volume that grows while it is used: the Secondary first, whatever is lost in between.

use drqm_engine::frame::Frame;
use drqm_engine::report::LinkReport;
use drqm_engine::role::Role;
use drqm_engine::settings::Mode;

use crate::operator::End;
use crate::scripted::{demoted, down, ends, joined, pair, promoted_apart, settled, states};
use crate::world::{Config, SECOND, Which, World};

const GROWTH: u64 = 30 << 16;

fn small(mode: Mode) -> World {
    pair(Config {
        growth: GROWTH,
        ..Config::logging(mode)
    })
}

fn sizes(w: &World) -> [u64; 2] {
    [0, 1].map(|n| w.report(n).map_or(0, |r| r.size))
}

fn large(w: &World) -> u64 {
    w.config.size + GROWTH
}

fn is_grown(w: &World) -> bool {
    sizes(w) == [large(w); 2] && w.nodes[0].device_size == large(w)
}

/// Writes where the volume is new, and compares.
fn used(w: &mut World) {
    assert!(
        w.until(30 * SECOND, is_grown),
        "{:?} {}",
        sizes(w),
        states(w)
    );
    w.write(0, w.config.size, 8192, true);
    w.write(0, large(w) - 4096, 4096, false);
    w.users_go_on();
    w.run(SECOND);
    settled(w);
}

#[test]
fn a_volume_grows_under_its_users_when_both_sides_have_room() {
    for mode in [Mode::Asynchronous, Mode::Synchronous] {
        for first in [0, 1] {
            let mut w = small(mode);
            w.users_go_on();
            w.extend(first);
            w.run(3 * SECOND);
            assert_eq!(sizes(&w), [w.config.size; 2], "one side alone has room");
            assert!(w.is_joined(), "{}", states(&w));
            w.extend(1 - first);
            used(&mut w);
        }
    }
}

#[test]
fn the_device_never_shows_what_the_other_side_has_no_room_for() {
    let grow: Which = |f| matches!(f, Frame::Grow(_));
    let grown: Which = |f| matches!(f, Frame::Grown(_));
    for (sender, lost) in [(0, grow), (1, grown)] {
        let mut w = small(Mode::Synchronous);
        w.swallow = Some((sender, lost));
        w.extend(0);
        w.extend(1);
        assert!(w.until(3 * SECOND, |w| w.swallowed > 0), "{}", states(&w));
        assert_eq!(w.nodes[0].device_size, w.config.size);
        w.swallow = None;
        // The secondary may have it already; when the two meet, both do.
        w.break_session();
        used(&mut w);
    }
}

#[test]
fn each_side_may_be_lost_at_any_moment_of_it() {
    for side in [0, 1] {
        for power in [false, true] {
            for after in 1..12 {
                let mut w = small(Mode::Synchronous);
                w.crash_at = Some((side, w.ios[side] + after, power));
                w.extend(0);
                w.extend(1);
                w.run(SECOND);
                w.crash_at = None;
                w.start(side);
                ends(&mut w, End::Normal);
                used(&mut w);
            }
        }
    }
}

#[test]
fn a_side_that_is_alone_stays_as_large_as_both_have_agreed() {
    let mut w = small(Mode::Synchronous);
    w.cut_link();
    down(&mut w, 1);
    w.extend(0);
    w.extend(1);
    w.crash(0, true);
    promoted_apart(&mut w, 1);
    w.run(2 * SECOND);
    assert_eq!(w.report(1).map(|r| r.size), Some(w.config.size));
    ends(&mut w, End::Normal);
    assert!(
        w.until(30 * SECOND, |w| sizes(w) == [large(w); 2]),
        "{}",
        states(&w)
    );
}

#[test]
fn a_larger_secondary_that_was_promoted_waits_for_room_on_the_other_side() {
    let mut w = small(Mode::Synchronous);
    // The primary loses its power when the secondary has grown, and before it has.
    w.swallow = Some((1, |f| matches!(f, Frame::Grown(_))));
    w.extend(0);
    w.extend(1);
    let second = |w: &World| sizes(w)[1] == large(w);
    assert!(w.until(5 * SECOND, second), "{}", states(&w));
    w.crash(0, true);
    w.swallow = None;
    promoted_apart(&mut w, 1);
    assert_eq!(w.nodes[1].device_size, large(&w));
    w.write(1, w.config.size, 4096, true);
    // The other disk was replaced by one without the room.
    w.nodes[0].capacity = w.config.size;
    w.start(0);
    let refused = |w: &World| {
        let link = w.report(1).map(|r| r.link);
        matches!(link, Some(LinkReport::Refused(why)) if why.contains("spec.storage.size"))
    };
    assert!(w.until(30 * SECOND, refused), "{}", states(&w));
    w.extend(0);
    joined(&mut w);
    if w.report(0).is_some_and(|r| r.role == Role::Primary) {
        demoted(&mut w, 0);
    }
    ends(&mut w, End::Normal);
    assert_eq!(sizes(&w), [large(&w); 2]);
}
