//! One story, and in every telling of it a side is lost after another of its I/O requests: a disk keeps an
//! arbitrary part of what was not flushed, a block of metadata is whole, old or torn. Whatever the moment, every
//! promise holds and the pair becomes Normal by itself.

use drqm_engine::command::Initialize;
use drqm_engine::settings::Mode;

use crate::campaign::quietly;
use crate::operator::End;
use crate::world::{Config, MS, SECOND, World};

/// Creation, use, a switch, a cut link with writes behind it, and the way back.
fn story(w: &mut World) {
    both_run(w);
    w.create(0, Initialize::WithPeer);
    w.until(5 * SECOND, World::is_joined);
    w.run(200 * MS);
    switch(w, 0);
    w.cut_link();
    w.run(6 * SECOND);
    w.heal_link();
    both_run(w);
    w.until(5 * SECOND, World::is_joined);
    switch(w, 1);
    w.run(200 * MS);
}

/// A switch away from one side, as far as both are there to be switched.
fn switch(w: &mut World, from: usize) {
    both_run(w);
    if let Some(id) = w.demote(from) {
        w.answer(from, id);
    }
    both_run(w);
    w.until(SECOND, |w| w.is_up(0) && w.is_up(1));
    if w.is_up(1 - from) {
        let id = w.promote(1 - from);
        w.answer(1 - from, id);
    }
    w.users_go_on();
    w.run(200 * MS);
}

fn both_run(w: &mut World) {
    w.start(0);
    w.start(1);
}

fn told(config: &Config, crash: Option<(usize, u64, bool)>) -> Result<[u64; 2], String> {
    quietly(|| {
        let mut w = World::new(config.clone(), 11);
        w.crash_at = crash;
        w.run(SECOND);
        story(&mut w);
        let ios = w.ios;
        w.users_go_on();
        match w.converge() {
            Some(End::Normal) => Ok(ios),
            Some(End::Partitioned) => Err("it ended partitioned".to_owned()),
            None => Err(w.failure.unwrap_or_default()),
        }
    })?
}

#[test]
fn a_side_may_be_lost_after_any_request() {
    let stride = crate::number("DRQM_SIM_CRASH_STRIDE", 24);
    let mut tellings = 0;
    for (log_bytes, mode) in [(0, Mode::Synchronous), (64 << 20, Mode::Asynchronous)] {
        let config = Config {
            log_bytes,
            ..Config::plain(mode)
        };
        let whole = told(&config, None).expect("nobody is lost");
        for (side, requests) in whole.into_iter().enumerate() {
            for at in (1..=requests).step_by(stride as usize) {
                for power in [false, true] {
                    tellings += 1;
                    if let Err(why) = told(&config, Some((side, at, power))) {
                        panic!(
                            "{mode:?}, {side} lost after request {at}, power cut {power}: {why}"
                        );
                    }
                }
            }
        }
    }
    println!("{tellings} tellings");
    assert!(tellings > 1000 / stride, "{tellings}");
}
