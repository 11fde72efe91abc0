//! What a person, or the operator on their behalf, does: role changes by the decision table, and the
//! way back to a healthy pair.

use drqm_engine::Event;
use drqm_engine::command::{Command, Initialize, JudgedRequest, Keep, Refusal};
use drqm_engine::ids::{CommandId, Epoch};
use drqm_engine::report::{Data, Gate, LinkReport, Report};
use drqm_engine::role::Role;
use drqm_engine::settings::Mode;

use crate::world::{Device, MS, SECOND, World};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Normal,
    Partitioned,
}

impl World {
    fn set_role(
        &mut self,
        n: usize,
        role: Role,
        loss: &str,
        first: Option<Initialize>,
    ) -> CommandId {
        let head = self
            .report(n)
            .and_then(|r| r.lineage.first().copied())
            .unwrap_or(Epoch::NONE);
        self.note(|| format!("operator: {n} -> {role:?} (loss {loss})"));
        self.command(
            n,
            Command::SetRole {
                role,
                expected_epoch: head,
                initialize: first,
                request: JudgedRequest {
                    uid: "uid".to_owned(),
                    role,
                    max_loss: loss.to_owned(),
                    ..JudgedRequest::default()
                },
            },
        )
    }

    pub(crate) fn create(&mut self, n: usize, how: Initialize) -> CommandId {
        self.set_role(n, Role::Primary, "None", Some(how))
    }

    /// Promotes with nothing to lose: only while linked.
    pub(crate) fn promote(&mut self, n: usize) -> CommandId {
        self.set_role(n, Role::Primary, "None", None)
    }

    /// Promotes whatever that may lose.
    pub(crate) fn promote_apart(&mut self, n: usize) -> CommandId {
        self.oracle.apart += 1;
        self.set_role(n, Role::Primary, "Possible", None)
    }

    /// Takes an inconsistent copy back to its snapshot.
    pub(crate) fn revert(&mut self, n: usize) -> CommandId {
        let head = self
            .report(n)
            .and_then(|r| r.lineage.first().copied())
            .unwrap_or(Epoch::NONE);
        self.note(|| format!("operator: {n} goes back to its snapshot"));
        let expected_epoch = head;
        self.command(n, Command::Revert { expected_epoch })
    }

    /// Stops the user, then gives the role up.
    pub(crate) fn demote(&mut self, n: usize) -> Option<CommandId> {
        self.quiet_user(n);
        let role = self.report(n)?.role;
        (role == Role::Primary).then(|| self.set_role(n, Role::Secondary, "None", None))
    }

    /// The user goes, as when a StatefulSet is scaled to nothing.
    pub(crate) fn quiet_user(&mut self, n: usize) {
        self.nodes[n].guest.running = false;
        for _ in 0..300 {
            if self.nodes[n].guest.outstanding.is_empty() || !self.is_up(n) {
                return;
            }
            self.run(100 * MS);
        }
        self.fail(format!("node {n} does not finish its user's requests"));
    }

    pub(crate) fn users_go_on(&mut self) {
        for n in 0..2 {
            if self.nodes[n].device == Device::Published && !self.nodes[n].guest.running {
                self.user_goes_on(n);
            }
        }
    }

    /// Runs until the command is answered.
    pub(crate) fn answer(&mut self, n: usize, id: CommandId) -> Option<Result<(), Refusal>> {
        for _ in 0..600 {
            if let Some(result) = self.nodes[n].answers.get(&id) {
                return Some(result.clone());
            }
            if !self.is_up(n) || self.failure.is_some() {
                return None;
            }
            self.run(100 * MS);
        }
        self.fail(format!("node {n} does not answer {id:?}"));
        None
    }

    /// A person changes the mode on both sides, one after the other.
    pub(crate) fn change_mode(&mut self, mode: Mode) {
        self.note(|| format!("operator: mode {mode:?}"));
        self.config.mode = mode;
        for n in 0..2 {
            let settings = self.settings(n);
            self.step(n, Event::Configured(settings));
        }
    }

    /// A person gives one side's disk all the room that the volume may grow to.
    pub(crate) fn extend(&mut self, n: usize) {
        let capacity = self.config.size + self.config.growth;
        self.note(|| format!("operator: {n} has room for {capacity}"));
        self.nodes[n].capacity = capacity;
        let len = drqm_engine::Engine::metadata_len(capacity) as usize;
        self.nodes[n].meta.raw.resize(len, 0);
        let settings = self.settings(n);
        self.step(n, Event::Configured(settings));
    }

    pub(crate) fn stop(&mut self, n: usize) {
        if self.is_up(n) {
            self.note(|| format!("operator: stops the process of {n}"));
            self.step(n, Event::StopRequested);
        }
    }

    /// Stops a process in order and waits for its end.
    pub(crate) fn stop_and_wait(&mut self, n: usize) {
        self.stop(n);
        for _ in 0..400 {
            if !self.is_up(n) || self.failure.is_some() {
                return;
            }
            self.run(100 * MS);
        }
        self.fail(format!("node {n} does not stop"));
    }

    /// Runs until something holds, at most for `limit`.
    pub(crate) fn until(&mut self, limit: u64, what: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + limit;
        while self.now < end && self.failure.is_none() {
            if what(self) {
                return true;
            }
            self.run(MS / 2);
        }
        what(self)
    }

    pub(crate) fn is_normal(&self) -> bool {
        let quiet = |n: usize| self.report(n).is_some_and(|r| r.out_of_sync_bytes == 0);
        self.is_joined() && quiet(0) && quiet(1)
    }

    /// Normal, but for what is on its way.
    pub(crate) fn is_joined(&self) -> bool {
        let (Some(a), Some(b)) = (self.report(0), self.report(1)) else {
            return false;
        };
        let good = |r: &Report| r.data == Data::UpToDate && r.link == LinkReport::Connected;
        let roles = (a.role == Role::Primary) != (b.role == Role::Primary);
        let open = [&a, &b]
            .iter()
            .all(|r| r.role == Role::Secondary || r.gate == Gate::Open);
        roles && open && good(&a) && good(&b) && a.lineage.first() == b.lineage.first()
    }

    fn is_parted(&self) -> bool {
        [0, 1]
            .iter()
            .any(|n| self.report(*n).is_some_and(|r| r.data == Data::Diverged))
    }

    /// Heals, restarts and demotes until the pair is Normal, and checks that it gets there.
    pub(crate) fn converge(&mut self) -> Option<End> {
        self.errors_on = false;
        self.swallow = None;
        if self.cut {
            self.heal_link();
        }
        let end = self.now + 240 * SECOND;
        while self.failure.is_none() && self.now < end {
            self.nurse();
            self.run(500 * MS);
            self.check_patience();
            if self.is_parted() {
                self.check_parted();
                return self.failure.is_none().then_some(End::Partitioned);
            }
            if self.is_joined() && self.rest() {
                return self.failure.is_none().then_some(End::Normal);
            }
        }
        let states: Vec<_> = (0..2).map(|n| self.describe(n)).collect();
        self.fail(format!("the pair does not become Normal: {states:#?}"));
        None
    }

    pub(crate) fn describe(&self, n: usize) -> String {
        self.report(n).map_or("down".to_owned(), |r| {
            format!(
                "{:?} {:?} {:?} {:?} out of sync {} head {:?} of {} super {:?} error {:?} sync {:?} commands {}",
                r.role,
                r.data,
                r.gate,
                r.link,
                r.out_of_sync_bytes,
                r.lineage.first(),
                r.lineage.len(),
                r.superseded_by,
                r.error,
                r.sync,
                self.nodes[n].commands.len(),
            )
        })
    }

    /// One look of the operator at both sides.
    fn nurse(&mut self) {
        for n in 0..2 {
            self.start(n);
            if self.report(n).is_some_and(|r| r.data == Data::Failed) {
                self.crash(n, false);
                self.start(n);
            }
        }
        let idle = self.nodes.iter().all(|n| n.commands.is_empty());
        let (Some(a), Some(b)) = (self.report(0), self.report(1)) else {
            return;
        };
        for (n, r) in [(0, &a), (1, &b)] {
            if r.role == Role::Primary && r.gate == Gate::Superseded && idle {
                self.demote(n);
                return;
            }
        }
        let linked = a.link == LinkReport::Connected && b.link == LinkReport::Connected;
        if a.role == Role::Secondary && b.role == Role::Secondary && idle && linked {
            if a.data == Data::Empty && b.data == Data::Empty {
                self.create(0, Initialize::WithPeer);
            } else if a.data == Data::UpToDate && b.data == Data::UpToDate {
                let n = self.rng.below(2) as usize;
                self.promote(n);
            }
        }
    }

    /// Stops the users; if the pair is still Normal when all is quiet, the copies must be equal.
    pub(crate) fn rest(&mut self) -> bool {
        self.quiet_user(0);
        self.quiet_user(1);
        self.until(60 * SECOND, Self::is_normal);
        self.run(3 * SECOND);
        if self.failure.is_some() || !self.is_normal() {
            self.users_go_on();
            return false;
        }
        if let Some(block) = self.nodes[0].data.difference(&self.nodes[1].data) {
            self.fail(format!("Normal and quiet, and block {block} differs"));
        }
        true
    }

    /// A person gives up what one side has: it must end as a copy of the other, and what it had is kept.
    pub(crate) fn resolve(&mut self, loser: usize) {
        self.note(|| format!("operator: {loser} gives its history up"));
        for n in 0..2 {
            self.start(n);
        }
        let known = |w: &Self| w.report(loser).is_some_and(|r| r.data == Data::Diverged);
        if !self.until(60 * SECOND, known) {
            return self.fail("the side to be given up does not say that it is partitioned");
        }
        if let Some(id) = self.demote(loser) {
            self.answer(loser, id);
        }
        self.until(60 * SECOND, known);
        let had = self.nodes[loser]
            .data
            .read(0, self.config.size + self.config.growth);
        let head = self.report(loser).and_then(|r| r.lineage.first().copied());
        let id = self.command(
            loser,
            Command::Resolve {
                expected_epoch: head.unwrap_or(Epoch::NONE),
                keep: Keep::Remote,
            },
        );
        match self.answer(loser, id) {
            Some(Ok(())) | None => {}
            Some(Err(why)) => self.fail(format!("giving up is refused: {why}")),
        }
        if self.rng.chance(50) {
            let pause = self.rng.between(0, 300 * MS);
            self.run(pause);
            let power = self.rng.chance(50);
            self.crash(loser, power);
            self.start(loser);
        }
        let over = |w: &Self| !w.is_parted();
        if !self.until(120 * SECOND, over) {
            return self.fail("a partition that was resolved stays");
        }
        if self.nodes[loser].kept.take() != Some(had) {
            self.fail("what was given up is not kept");
        }
    }

    /// A partition needs two sides that were promoted apart, and no one ends it.
    fn check_parted(&mut self) {
        if self.oracle.apart == 0 {
            return self.fail("Partitioned although nobody was promoted apart");
        }
        let heads = |w: &Self| [0, 1].map(|n| w.report(n).map(|r| r.lineage));
        self.quiet_user(0);
        self.quiet_user(1);
        self.run(5 * SECOND);
        let before = heads(self);
        for n in 0..2 {
            let power = self.rng.chance(50);
            self.crash(n, power);
            self.start(n);
            self.run(20 * SECOND);
        }
        if before.iter().flatten().count() == 2 && !self.is_parted() {
            self.fail("a partition has resolved itself");
        }
    }
}
