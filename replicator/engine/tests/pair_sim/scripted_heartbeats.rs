//! Who asks whether the other is there, how often, and what silence means.

use drqm_engine::Event;
use drqm_engine::report::LinkReport;
use drqm_engine::settings::Mode;

use crate::scripted::{pair, quiet, settled, states};
use crate::world::{Config, MS, SECOND, World};

/// A pair in step whose user writes nothing.
fn idle() -> World {
    let mut w = pair(Config::plain(Mode::Asynchronous));
    w.quiet_user(0);
    quiet(&mut w, 0);
    w.run(5 * SECOND);
    w
}

fn asked(w: &mut World, span: u64) -> [u64; 2] {
    let before = w.pings;
    w.run(span);
    [w.pings[0] - before[0], w.pings[1] - before[1]]
}

#[test]
fn of_two_in_step_the_primary_asks_and_less_often_while_nothing_is_written() {
    let mut w = idle();
    assert_eq!(asked(&mut w, 20 * SECOND), [10, 0]);
    w.users_go_on();
    let [primary, secondary] = asked(&mut w, 20 * SECOND);
    assert!((19..=21).contains(&primary), "{primary}");
    assert_eq!(secondary, 0);
    settled(&mut w);
}

#[test]
fn a_pause_of_three_seconds_ends_no_session_and_silence_is_noticed() {
    for silent in [0, 1] {
        for moment in (0..2000).step_by(190) {
            let mut w = idle();
            w.run(moment * MS);
            let session = w.sessions;
            w.stalls(silent);
            w.run(2900 * MS);
            w.flows_again();
            w.run(5 * SECOND);
            assert_eq!(w.sessions, session, "{silent} {moment}: {}", states(&w));
            w.stalls(silent);
            w.run(5600 * MS);
            let link = w.report(1 - silent).map(|r| r.link);
            assert_ne!(link, Some(LinkReport::Connected), "{silent} {moment}");
            w.flows_again();
            settled(&mut w);
        }
    }
}

#[test]
fn who_was_held_up_itself_does_not_blame_the_peer() {
    for side in [0, 1] {
        let mut w = idle();
        let session = w.sessions;
        w.stalls(1 - side);
        w.now += 10 * SECOND;
        w.step(side, Event::Tick);
        // The question that it asks now gets its time.
        for _ in 0..2 {
            let link = w.report(side).map(|r| r.link);
            assert_eq!(link, Some(LinkReport::Connected), "{}", states(&w));
            w.run(2900 * MS);
        }
        assert_ne!(w.report(side).map(|r| r.link), Some(LinkReport::Connected));
        w.flows_again();
        settled(&mut w);
        assert!(w.sessions > session);
    }
}
