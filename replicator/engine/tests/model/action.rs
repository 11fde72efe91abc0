//! What may happen next in a world, and what it does.

use drqm_engine::command::{Command, Initialize, JudgedRequest, Keep};
use drqm_engine::ids::{Epoch, GuestId};
use drqm_engine::report::Data;
use drqm_engine::role::Role;
use drqm_engine::{Event, GuestRequest};

use crate::disk::{CHUNKS, Request, block, place};
use crate::world::{Device, Link, World};

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// The next frame reaches a side.
    Deliver(usize),
    /// The oldest request to the data ends; to the metadata.
    Data(usize),
    Meta(usize),
    /// A side learns that its session, or its round of dials, has ended.
    Notice(usize),
    DialFails(usize),
    Connect,
    Cut,
    Start(usize),
    Crash(usize, Kept),
    Write(usize, usize),
    Flush(usize),
    /// And whether it may lose something.
    Promote(usize, bool),
    Demote(usize),
    Resolve(usize),
    KeepLocal(usize),
    Revert(usize),
    Wait,
}

/// What a crash leaves: bits of the oldest requests under way to the metadata and the data, and of the chunks
/// whose content was not durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) power: bool,
    pub(crate) meta: u8,
    pub(crate) data: u8,
    pub(crate) cached: u8,
}

/// Subsets of so many things; of many only none and all.
fn subsets(count: usize) -> Vec<u8> {
    if count <= 2 {
        (0..1 << count).collect()
    } else {
        vec![0, u8::MAX]
    }
}

impl World {
    /// Everything that may happen now.
    pub(crate) fn enabled(&self) -> Vec<Action> {
        let mut all = Vec::with_capacity(16);
        for n in 0..2 {
            self.of_machines(n, &mut all);
        }
        if !self.is_linked() && self.left.connects > 0 && self.is_up(0) && self.is_up(1) {
            all.push(Action::Connect);
        }
        if self.link.is_some() && self.left.cuts > 0 {
            all.push(Action::Cut);
        }
        for n in 0..2 {
            self.of_people(n, &mut all);
            self.of_faults(n, &mut all);
        }
        if self.left.waits > 0 && self.next_timer().is_some() {
            all.push(Action::Wait);
        }
        all
    }

    pub(crate) fn of_machines(&self, n: usize, all: &mut Vec<Action>) {
        let side = &self.sides[n];
        if !self.is_up(n) {
            return all.push(Action::Start(n));
        }
        let comes = |l: &Link| side.session == Some(l.number) && !l.to[n].is_empty();
        if self.link.as_ref().is_some_and(comes) {
            all.push(Action::Deliver(n));
        }
        if !side.io.data.is_empty() {
            all.push(Action::Data(n));
        }
        if !side.io.meta.is_empty() {
            all.push(Action::Meta(n));
        }
        if self.is_lost(n) {
            all.push(Action::Notice(n));
        }
        if side.dials && !self.is_linked() {
            all.push(Action::DialFails(n));
        }
    }

    fn of_people(&self, n: usize, all: &mut Vec<Action>) {
        let (side, left) = (&self.sides[n], &self.left);
        let Some(engine) = &side.engine else { return };
        if side.device == Device::Published {
            if left.writes > 0 && engine.has_room() {
                // Chunks are alike: the first write may go to the first.
                let chunks = if self.book.is_empty() { 1 } else { CHUNKS };
                all.extend((0..chunks).map(|c| Action::Write(n, c)));
            }
            if left.flushes > 0 && engine.has_room() {
                all.push(Action::Flush(n));
            }
        }
        if side.command.is_some() {
            return;
        }
        let report = engine.report();
        if left.reverts > 0 && report.data == Data::InconsistentSnap {
            all.push(Action::Revert(n));
        }
        if left.second_thoughts > 0 && (report.given_up || report.data == Data::Diverged) {
            all.push(Action::KeepLocal(n));
        }
        if report.role == Role::Secondary {
            if left.promotions > 0 {
                all.push(Action::Promote(n, false));
            }
            if left.promotions_apart > 0 {
                all.push(Action::Promote(n, true));
            }
            if left.resolutions > 0 {
                all.push(Action::Resolve(n));
            }
        } else if left.demotions > 0 {
            all.push(Action::Demote(n));
        }
    }

    fn of_faults(&self, n: usize, all: &mut Vec<Action>) {
        let spared = self.bounds.only_secondary_lost && n == 0;
        if spared || !self.is_up(n) || self.left.kills + self.left.power_cuts == 0 {
            return;
        }
        let io = &self.sides[n].io;
        let under_way = subsets(io.data.len());
        for meta in subsets(io.meta.len()) {
            for data in &under_way {
                if self.left.kills > 0 {
                    let kept = Kept {
                        power: false,
                        meta,
                        data: *data,
                        cached: u8::MAX,
                    };
                    all.push(Action::Crash(n, kept));
                }
                if self.left.power_cuts > 0 {
                    let unsure = self.unsure_after(n, *data);
                    for cached in (0..=unsure).filter(|c| c & !unsure == 0) {
                        let kept = Kept {
                            power: true,
                            meta,
                            data: *data,
                            cached,
                        };
                        all.push(Action::Crash(n, kept));
                    }
                }
            }
        }
    }

    /// Chunks whose content is not durable once these requests have landed.
    fn unsure_after(&self, n: usize, landed: u8) -> u8 {
        let mut data = self.sides[n].data.clone();
        for (i, request) in self.sides[n].io.data.iter().enumerate() {
            if let Request::Write(_, change, fua) = request
                && landed >> i.min(7) & 1 == 1
            {
                data.write(change, *fua);
            }
        }
        data.unsure()
    }

    /// The next moment at which an engine wants to be called.
    pub(crate) fn next_timer(&self) -> Option<u64> {
        let engines = self.sides.iter().filter_map(|s| s.engine.as_ref());
        engines.filter_map(|e| e.next_wakeup()).map(|m| m.0).min()
    }

    /// Lets it happen, and pays for it.
    pub(crate) fn act(&mut self, action: Action) {
        if self.is_shown {
            println!("{action:?}");
        }
        let left = &mut self.left;
        let paid = match action {
            Action::Deliver(_)
            | Action::Data(_)
            | Action::Meta(_)
            | Action::Notice(_)
            | Action::DialFails(_)
            | Action::Start(_) => None,
            Action::Connect => Some(&mut left.connects),
            Action::Cut => Some(&mut left.cuts),
            Action::Crash(_, Kept { power: true, .. }) => Some(&mut left.power_cuts),
            Action::Crash(..) => Some(&mut left.kills),
            Action::Write(..) => Some(&mut left.writes),
            Action::Flush(_) => Some(&mut left.flushes),
            Action::Promote(_, false) => Some(&mut left.promotions),
            Action::Promote(_, true) => Some(&mut left.promotions_apart),
            Action::Demote(_) => Some(&mut left.demotions),
            Action::Resolve(_) => Some(&mut left.resolutions),
            Action::KeepLocal(_) => Some(&mut left.second_thoughts),
            Action::Revert(_) => Some(&mut left.reverts),
            Action::Wait => Some(&mut left.waits),
        };
        if let Some(count) = paid {
            *count = count.saturating_sub(1);
        }
        match action {
            Action::Deliver(n) => self.deliver(n),
            Action::Data(n) => self.data_ends(n),
            Action::Meta(n) => self.meta_ends(n),
            Action::Notice(n) => self.notice(n),
            Action::DialFails(n) => self.dial_fails(n),
            Action::Connect => self.connect(),
            Action::Cut => self.link = None,
            Action::Start(n) => self.start(n),
            Action::Crash(n, kept) => self.crash(n, kept),
            Action::Write(n, chunk) => self.write(n, chunk),
            Action::Flush(n) => self.flush(n),
            Action::Promote(n, may_lose) => self.set_role(n, Role::Primary, may_lose, None),
            Action::Demote(n) => self.set_role(n, Role::Secondary, false, None),
            Action::Resolve(n) => self.resolve(n),
            Action::KeepLocal(n) => self.keep_local(n),
            Action::Revert(n) => self.revert(n),
            Action::Wait => self.wait_for_timer(),
        }
        self.disks_end();
        if self.failure.is_none() && self.is_quiet() {
            self.check_quiet();
        }
    }

    /// Where that is so, everything that disks are doing ends, in order.
    fn disks_end(&mut self) {
        for _ in 0..1_000 {
            let busy = (0..2).find(|n| {
                let io = &self.sides[*n].io;
                self.bounds.is_coarse[*n] && (!io.data.is_empty() || !io.meta.is_empty())
            });
            let Some(n) = busy.filter(|_| self.failure.is_none()) else {
                return;
            };
            if self.sides[n].io.data.is_empty() {
                self.meta_ends(n);
            } else {
                self.data_ends(n);
            }
        }
        self.fail("its disks do not come to rest");
    }

    fn crash(&mut self, n: usize, kept: Kept) {
        let side = &mut self.sides[n];
        let lands = |mask: u8, i: usize| mask >> i.min(7) & 1 == 1;
        for (i, (_, offset, data)) in std::mem::take(&mut side.io.meta).iter().enumerate() {
            if lands(kept.meta, i) {
                side.meta.put(*offset, data);
            }
        }
        for (i, request) in std::mem::take(&mut side.io.data).iter().enumerate() {
            match request {
                Request::Write(_, change, fua) if lands(kept.data, i) => {
                    side.data.write(change, *fua);
                }
                Request::UndoWrite(_, offset, data) if lands(kept.data, i) => {
                    side.undo.put(*offset, data);
                }
                Request::UndoEmpty(_) if lands(kept.data, i) => side.undo.clear(),
                Request::Write(..)
                | Request::UndoWrite(..)
                | Request::UndoEmpty(_)
                | Request::Flush(..)
                | Request::UndoFlush(_)
                | Request::Keep(_) => {}
            }
        }
        if kept.power {
            side.data.power_cut(kept.cached);
        }
        let left = self.sides[n].data.image();
        self.book.crashed(n, kept.power, left);
        self.ended(n);
    }

    fn write(&mut self, n: usize, chunk: usize) {
        let id = self.next_guest(n);
        if let Some(value) = self.book.write(n, id, chunk) {
            let request = GuestRequest::Write {
                offset: place(chunk),
                data: block(value),
                fua: false,
            };
            let id = GuestId(id);
            self.step(n, Event::Guest { id, request });
        }
    }

    fn flush(&mut self, n: usize) {
        let id = self.next_guest(n);
        self.book.flush(n, id);
        let request = GuestRequest::Flush;
        let id = GuestId(id);
        self.step(n, Event::Guest { id, request });
    }

    fn head(&self, n: usize) -> Epoch {
        let report = self.report(n);
        report
            .and_then(|r| r.lineage.first().copied())
            .unwrap_or(Epoch::NONE)
    }

    /// A side is told its role, as the operator does.
    pub(crate) fn set_role(
        &mut self,
        n: usize,
        role: Role,
        may_lose: bool,
        initialize: Option<Initialize>,
    ) {
        let max_loss = if may_lose { "Possible" } else { "None" };
        self.book.may_lose(n, may_lose);
        let command = Command::SetRole {
            role,
            expected_epoch: self.head(n),
            initialize,
            request: JudgedRequest {
                uid: "uid".to_owned(),
                role,
                max_loss: max_loss.to_owned(),
                ..JudgedRequest::default()
            },
        };
        self.command(n, command);
    }

    fn resolve(&mut self, n: usize) {
        let [own, other] = [n, 1 - n].map(|n| self.sides[n].data.image());
        self.book.gives_up(n, own, other);
        let command = Command::Resolve {
            expected_epoch: self.head(n),
            keep: Keep::Remote,
        };
        self.command(n, command);
    }

    fn keep_local(&mut self, n: usize) {
        self.book.takes_back(n);
        let command = Command::Resolve {
            expected_epoch: self.head(n),
            keep: Keep::Local,
        };
        self.command(n, command);
    }

    fn revert(&mut self, n: usize) {
        let expected_epoch = self.head(n);
        self.command(n, Command::Revert { expected_epoch });
    }

    fn wait_for_timer(&mut self) {
        if let Some(at) = self.next_timer() {
            self.now = self.now.max(at);
        }
        for n in 0..2 {
            self.step(n, Event::Tick);
        }
    }
}
