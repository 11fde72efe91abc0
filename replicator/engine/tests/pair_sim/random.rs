//! Random lives of a pair.

use std::fmt;
use std::str::FromStr;

use drqm_engine::command::{Command, Initialize};
use drqm_engine::report::{Data, Gate};
use drqm_engine::role::Role;
use drqm_engine::settings::{
    Mode, OnCongestion, OnPeerLoss, SnapshotPolicy, WINDOW_BYTES, WhenPeerUnknown,
};

use crate::operator::End;
use crate::rng::Rng;
use crate::world::{Config, Device, MS, SECOND, World};

/// A life: how its pair is configured, and what happens to it. Each incident has chances of its own, so
/// that one can be left out and the others stay what they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Script {
    pub(crate) seed: u64,
    pub(crate) incidents: Vec<u64>,
}

impl Script {
    /// The life of a number.
    pub(crate) fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0xd1ce);
        let count = rng.between(2, 12);
        let incidents = (0..count).map(|_| rng.next()).collect();
        Self { seed, incidents }
    }
}

impl fmt::Display for Script {
    /// As [`Script::from_str`] reads it: the seed, then the incidents.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.seed)?;
        self.incidents
            .iter()
            .try_for_each(|incident| write!(f, ",{incident:x}"))
    }
}

impl FromStr for Script {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.trim().split(',');
        let seed = parts.next().unwrap_or_default().parse()?;
        let incidents = parts.map(|part| u64::from_str_radix(part, 16));
        Ok(Self {
            seed,
            incidents: incidents.collect::<Result<_, _>>()?,
        })
    }
}

/// Lives a life; how it ended, or what went wrong.
pub(crate) fn life(script: &Script, trace: bool) -> (Result<End, String>, World) {
    let mut rng = Rng::new(script.seed ^ 0xfeed);
    let mut own = Rng::new(script.seed ^ 0x0dd);
    let config = Config {
        size: [(40 << 16) + 3 * 4096, (150 << 16) + 4096, 9 << 16][rng.below(3) as usize],
        growth: if script.seed % 5 == 2 { 20 << 16 } else { 0 },
        mode: any_mode(&mut rng),
        when_peer_unknown: if rng.chance(80) {
            WhenPeerUnknown::Start
        } else {
            WhenPeerUnknown::Hold
        },
        errors: if rng.chance(12) { 2_000 } else { 0 },
        slow: [0, 2, 6][rng.below(3) as usize],
        pace: [8, 20, 50][rng.below(3) as usize] * MS,
        window_bytes: [60 << 10, WINDOW_BYTES][rng.below(2) as usize],
        log_bytes: [0, 150 << 10, WINDOW_BYTES][rng.below(3) as usize],
        on_peer_loss: OnPeerLoss::Continue,
        on_congestion: [OnCongestion::Block, OnCongestion::PullAhead][rng.below(2) as usize],
        snapshots: [
            SnapshotPolicy::Required,
            SnapshotPolicy::Required,
            SnapshotPolicy::BestEffort,
            SnapshotPolicy::Never,
        ][own.below(4) as usize],
        resync_rate: [None, None, Some(1 << 20)][own.below(3) as usize],
        undo_errors: [0, 0, 40][own.below(3) as usize],
        verify: (script.seed % 3 == 1).then_some(script.seed.is_multiple_of(2)),
        queue_managers: ["QM"; 2],
        lies: 0,
        trace,
    };
    let mut world = World::new(config, script.seed);
    let end = live(&mut world, &mut rng, &script.incidents);
    let failure = world.failure.clone();
    (end.ok_or_else(|| failure.unwrap_or_default()), world)
}

/// The incidents, and the way back to a healthy pair.
fn live(w: &mut World, rng: &mut Rng, incidents: &[u64]) -> Option<End> {
    suffer(w, rng, incidents);
    if w.failure.is_some() {
        return None;
    }
    w.users_go_on();
    let end = w.converge()?;
    if end == End::Normal && w.config.growth > 0 {
        grown(w);
    }
    if end == End::Partitioned && rng.chance(70) {
        let loser = rng.below(2) as usize;
        w.resolve(loser);
        w.users_go_on();
        match w.converge()? {
            End::Normal => {}
            End::Partitioned => w.fail("a resolved partition comes back"),
        }
    }
    w.failure.is_none().then_some(end)
}

/// Whoever has room for a larger volume gets it.
fn grown(w: &mut World) {
    w.extend(0);
    w.extend(1);
    let size = w.config.size + w.config.growth;
    let has = |w: &World| [0, 1].map(|n| w.report(n).is_some_and(|r| r.size == size)) == [true; 2];
    if !w.until(20 * SECOND, has) {
        w.fail("a volume does not grow");
    }
    w.users_go_on();
    w.run(SECOND);
    w.converge();
}

/// What happens to a pair.
pub(crate) fn suffer(w: &mut World, rng: &mut Rng, incidents: &[u64]) {
    w.run(rng.between(0, 4 * SECOND));
    let how = if rng.chance(50) {
        Initialize::WithPeer
    } else {
        Initialize::WithoutPeer
    };
    w.create(0, how);
    w.run(rng.between(0, 5 * SECOND));
    for (turn, seed) in incidents.iter().enumerate() {
        if w.config.growth > 0 && turn % 2 == 1 {
            w.extend(turn / 2 % 2);
        }
        if w.failure.is_some() {
            return;
        }
        let rng = &mut Rng::new(*seed);
        incident(w, rng);
        let pause = match rng.below(4) {
            0 => rng.between(0, 50 * MS),
            1 => rng.between(0, SECOND),
            _ => rng.between(0, 6 * SECOND),
        };
        w.run(pause);
        w.check_patience();
        tend(w, rng);
    }
}

/// What the operator does by itself: stops users of superseded devices, restarts what runs again.
fn tend(w: &mut World, rng: &mut Rng) {
    for n in 0..2 {
        if !w.is_up(n) {
            continue;
        }
        if w.gate(n) == Some(Gate::Superseded) && rng.chance(60) {
            w.nodes[n].guest.running = false;
        }
        if w.report(n).is_some_and(|r| r.data == Data::Failed) && rng.chance(50) {
            w.crash(n, rng.chance(50));
        }
    }
    if rng.chance(70) && w.nodes.iter().all(|n| n.commands.is_empty()) {
        for n in 0..2 {
            if w.gate(n) == Some(Gate::Open) && w.nodes[n].device == Device::Published {
                w.users_go_on();
            }
        }
    }
}

fn incident(w: &mut World, rng: &mut Rng) {
    let n = rng.below(2) as usize;
    match rng.below(100) {
        0..=19 => {
            if w.cut {
                w.heal_link();
            } else {
                w.cut_link();
            }
        }
        20..=33 => {
            if w.is_up(n) {
                w.crash(n, rng.chance(60));
            } else {
                w.start(n);
            }
        }
        34..=41 => {
            w.start(0);
            w.start(1);
        }
        42..=49 => w.stop(n),
        50..=64 => {
            demote(w, rng);
        }
        65..=79 => promote(w, n, rng),
        80..=84 => {
            demote(w, rng);
            w.run(rng.between(0, 3 * SECOND));
            promote(w, n, rng);
        }
        85..=87 => {
            for n in [n, 1 - n] {
                promote(w, n, rng);
                w.run(rng.between(0, 3 * MS));
            }
        }
        88..=90 if rng.chance(60) => {
            // A disk that is slow for a while.
            w.drag[n] = rng.between(20 * MS, 700 * MS);
            w.run(rng.between(0, 8 * SECOND));
            w.drag[n] = 0;
        }
        88..=90 => {
            if w.is_up(n) {
                w.command(n, Command::Refresh);
            }
        }
        91..=93 if rng.chance(70) => interrupted_copy(w, rng),
        91..=95 => {
            w.cut_link();
            w.run(rng.between(0, 2 * SECOND));
            w.heal_link();
        }
        96 => {
            let mode = any_mode(rng);
            w.change_mode(mode);
        }
        97..=98 => double_disaster(w, rng),
        _ => {
            w.break_session();
        }
    }
}

/// The secondary loses its process, or its power, at some moment under load, perhaps comes back and
/// catches up for a while, and then the primary goes: what was promised
/// of both sides must be on what the secondary had made durable.
fn double_disaster(w: &mut World, rng: &mut Rng) {
    let is_primary = |n: &usize| w.report(*n).is_some_and(|r| r.role == Role::Primary);
    let Some(primary) = [0, 1].into_iter().find(is_primary) else {
        return;
    };
    let secondary = 1 - primary;
    w.users_go_on();
    w.run(rng.between(0, 300 * MS));
    w.crash(secondary, rng.chance(80));
    if rng.chance(50) {
        w.start(secondary);
        w.run(rng.between(0, 3 * SECOND));
    }
    w.crash(primary, rng.chance(50));
    w.start(secondary);
    w.run(rng.between(SECOND, 8 * SECOND));
    if w.report(secondary)
        .is_some_and(|r| r.role == Role::Secondary)
        && w.nodes[secondary].commands.is_empty()
    {
        w.promote_apart(secondary);
    }
}

/// The link is lost in the middle of a copy, or the target with it, and the copy is what there is.
fn interrupted_copy(w: &mut World, rng: &mut Rng) {
    w.cut_link();
    w.users_go_on();
    w.run(rng.between(0, 12 * SECOND));
    w.heal_link();
    let syncs = |w: &World| [0, 1].map(|n| w.report(n).is_some_and(|r| r.data == Data::Syncing));
    w.until(10 * SECOND, |w| syncs(w).contains(&true));
    let Some(target) = syncs(w).iter().position(|s| *s) else {
        return;
    };
    let span = [10, 60, 400][rng.below(3) as usize];
    w.run(rng.between(0, span * MS));
    w.cut_link();
    if rng.chance(40) {
        w.run(rng.between(0, 100 * MS));
        w.crash(target, rng.chance(60));
        w.start(target);
    }
    w.run(rng.between(0, 6 * SECOND));
    for _ in 0..rng.between(1, 4) {
        promote(w, target, rng);
        w.run(rng.between(0, 300 * MS));
        if rng.chance(30) {
            w.crash(target, rng.chance(60));
            w.start(target);
        }
    }
    w.run(rng.between(0, 2 * SECOND));
    promote(w, target, rng);
}

fn any_mode(rng: &mut Rng) -> Mode {
    let modes = [
        Mode::Asynchronous,
        Mode::Synchronous,
        Mode::FlushSynchronous,
    ];
    modes[rng.below(3) as usize]
}

fn demote(w: &mut World, rng: &mut Rng) {
    for n in 0..2 {
        let primary = w.report(n).is_some_and(|r| r.role == Role::Primary);
        if primary && w.nodes[n].commands.is_empty() && rng.chance(80) {
            w.demote(n);
        }
    }
}

fn promote(w: &mut World, n: usize, rng: &mut Rng) {
    let Some(report) = w.report(n) else { return };
    if report.role == Role::Primary || !w.nodes[n].commands.is_empty() {
        return;
    }
    if report.data == Data::InconsistentSnap {
        w.revert(n);
        w.run(rng.between(0, SECOND));
        if w.report(n).is_none_or(|r| r.data == Data::InconsistentSnap) {
            return;
        }
    }
    let down = matches!(report.link, drqm_engine::report::LinkReport::Down(_));
    if down || rng.chance(25) {
        w.promote_apart(n);
    } else {
        w.promote(n);
    }
}
