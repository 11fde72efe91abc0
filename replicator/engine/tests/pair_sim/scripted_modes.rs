//! What a completion promises in each mode, and modes that change while the pair is in step.

use drqm_engine::GuestRequest;
use drqm_engine::frame::{Frame, Payload, PrimaryClock, WireWrite};
use drqm_engine::ids::Seq;
use drqm_engine::settings::Mode;

use crate::guest::Kind;
use crate::operator::End;
use crate::scripted::{ends, healthy, pair, quiet, settled, write};
use crate::world::{Config, MS, SECOND, World};

const MODES: [Mode; 3] = [
    Mode::Asynchronous,
    Mode::FlushSynchronous,
    Mode::Synchronous,
];

fn states(w: &World, mode: Mode) -> bool {
    w.report(0).is_some_and(|r| r.effective_mode == mode)
}

fn outstanding(w: &World) -> usize {
    w.nodes[0].guest.outstanding.len()
}

/// The peer's word is held back for less than it takes to give it up.
#[test]
fn without_the_peers_word_each_mode_completes_what_it_promises_alone() {
    for (mode, plain, fua, flush) in [
        (Mode::Asynchronous, 0, 0, 0),
        (Mode::FlushSynchronous, 0, 1, 1),
        (Mode::Synchronous, 1, 1, 1),
    ] {
        let mut w = healthy(mode);
        w.stalls(1);
        let mut waits = |issue: fn(&mut World)| {
            let before = outstanding(&w);
            issue(&mut w);
            w.run(500 * MS);
            outstanding(&w) - before
        };
        let plain_waits = waits(|w| write(w, 0, 3));
        let fua_waits = waits(|w| {
            w.write(0, 5 << 16, 4096, true);
        });
        let flush_waits = waits(|w| w.issue(0, Kind::Flush(0), 0, 0, GuestRequest::Flush));
        assert_eq!(
            (plain_waits, fua_waits, flush_waits),
            (plain, fua, flush),
            "{mode:?}"
        );
        w.flows_again();
        quiet(&mut w, 0);
        ends(&mut w, End::Normal);
    }
}

#[test]
fn a_mode_changes_while_the_pair_is_in_step_and_status_waits_for_its_promise() {
    for from in MODES {
        for to in MODES {
            let mut w = healthy(from);
            assert!(states(&w, from));
            let sessions = w.sessions;
            w.stalls(1);
            write(&mut w, 0, 3);
            w.run(100 * MS);
            w.change_mode(to);
            if from != to {
                // The write may have been completed by the old rule, and is not known to be there.
                assert!(states(&w, Mode::Asynchronous), "{from:?} to {to:?}");
            }
            w.flows_again();
            quiet(&mut w, 0);
            assert!(w.until(5 * SECOND, |w| states(w, to)), "{from:?} to {to:?}");
            assert_eq!(w.sessions, sessions, "no session was given up for it");
            settled(&mut w);
            ends(&mut w, End::Normal);
        }
    }
}

#[test]
fn only_what_somebody_waits_for_is_awaited() {
    let frame = |payload| Frame::Writes {
        writes: vec![WireWrite {
            seq: Seq(1),
            dep_seq: Seq(0),
            dep_flush: Seq(0),
            fua: false,
            resync: false,
            payload,
        }],
        clock: PrimaryClock::default(),
    };
    let data = frame(Payload::Zero {
        offset: 0,
        len: 4096,
    });
    let flush = frame(Payload::FlushMark);
    let ack = Frame::Ack {
        applied: Seq(1),
        durable: Seq(1),
    };
    for (mode, awaited) in [
        (Mode::Asynchronous, [false, false, false]),
        (Mode::FlushSynchronous, [false, true, true]),
        (Mode::Synchronous, [true, true, true]),
    ] {
        let w = pair(Config::plain(mode));
        let [one, two] = [0, 1].map(|n| w.nodes[n].engine.as_ref().expect("it runs"));
        let found = [
            one.is_awaited(&data),
            one.is_awaited(&flush),
            two.is_awaited(&ack),
        ];
        assert_eq!(found, awaited, "{mode:?}");
        assert!(one.is_awaited(&Frame::BitmapStored), "a handshake is");
    }
}
