//! The way back: from wherever a life has ended, processes that run, a link and an operator that does the obvious
//! make the pair Normal again.

use drqm_engine::command::Initialize;
use drqm_engine::report::{Data, Gate, LinkReport, Report};
use drqm_engine::role::Role;

use crate::action::Action;
use crate::bounds::Bounds;
use crate::world::World;

impl World {
    /// A pair in sync, side 0 serving, that may suffer what the bounds say.
    pub(crate) fn at_home(bounds: Bounds) -> Result<Self, String> {
        let mut world = Self::new(bounds);
        world.goes_home()?;
        world.left = bounds.budget;
        Ok(world)
    }

    /// Goes on, without new faults, until the pair is Normal.
    pub(crate) fn goes_home(&mut self) -> Result<(), String> {
        for _ in 0..60 {
            self.comes_to_rest();
            if let Some(why) = &self.failure {
                return Err(why.clone());
            }
            let asked = self.sides.iter().any(|s| s.command.is_some());
            if self.is_normal() && self.is_quiet() && !asked {
                self.check_quiet();
                return self.failure.clone().map_or(Ok(()), Err);
            }
            if !self.looks_after() {
                self.act(Action::Wait);
            }
        }
        let states = [0, 1].map(|n| self.report(n));
        Err(format!("no way back to Normal: {states:#?}"))
    }

    /// Lets everything that is under way happen.
    fn comes_to_rest(&mut self) {
        for _ in 0..3_000 {
            let mut all = Vec::new();
            for n in 0..2 {
                self.of_machines(n, &mut all);
            }
            if self.failure.is_some() || all.is_empty() {
                return;
            }
            for action in all {
                if self.may(action) {
                    self.act(action);
                }
            }
        }
        self.fail("does not come to rest");
    }

    fn may(&self, action: Action) -> bool {
        let mut now = Vec::new();
        for n in 0..2 {
            self.of_machines(n, &mut now);
        }
        now.contains(&action)
    }

    /// One look of the operator; whether it did something.
    fn looks_after(&mut self) -> bool {
        if !self.is_linked() {
            self.act(Action::Connect);
            return true;
        }
        let (Some(a), Some(b)) = (self.report(0), self.report(1)) else {
            return false;
        };
        if self.sides.iter().any(|s| s.command.is_some()) {
            return false;
        }
        let connected = |r: &Report| r.link == LinkReport::Connected;
        let parted = |r: &Report| r.data == Data::Diverged;
        if parted(&a) && parted(&b) {
            let loser = usize::from(a.role == Role::Primary);
            let role = if loser == 0 { a.role } else { b.role };
            self.act(match role {
                Role::Primary => Action::Demote(loser),
                Role::Secondary => Action::Resolve(loser),
            });
            return true;
        }
        for (n, r) in [(0, &a), (1, &b)] {
            if r.role == Role::Primary && r.gate == Gate::Superseded {
                self.act(Action::Demote(n));
                return true;
            }
        }
        if a.role == Role::Primary || b.role == Role::Primary || !connected(&a) || !connected(&b) {
            return false;
        }
        if a.data == Data::Empty && b.data == Data::Empty {
            self.set_role(0, Role::Primary, false, Some(Initialize::WithPeer));
        } else if a.data == Data::UpToDate && b.data == Data::UpToDate {
            self.act(Action::Promote(0, false));
        } else {
            return false;
        }
        true
    }
}
