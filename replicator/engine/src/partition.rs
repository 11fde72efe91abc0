//! The end of a partition: a person says whose history stays.
//!
//! Nothing is decided here by itself. Giving up is recorded for one history of the peer's; it takes effect when
//! the two meet ([`crate::compare`]), and never under a Primary.
//!
//! Does not live here: the copy that is kept of what is given up ([`crate::snapshot`]).

use crate::command::{Keep, Refusal};
use crate::compare::Disk;
use crate::effect::Effect;
use crate::engine::Engine;
use crate::ids::{CommandId, Epoch};
use crate::role::Role;
use crate::superblock::Then;

impl Engine {
    pub(crate) fn resolve(
        &mut self,
        id: CommandId,
        expected: Epoch,
        keep: Keep,
        out: &mut Vec<Effect>,
    ) {
        if !Self::has_work(id, self.may_resolve(expected, keep), out) {
            return;
        }
        match keep {
            // A copy that was kept need not be there any more when another word is given.
            Keep::Local => {
                self.nothing_given_up();
                self.sb.parted_from = Epoch::NONE;
            }
            Keep::Remote => self.sb.given_up_for = self.sb.parted_from,
        }
        self.persist(Then::Answer(id));
        self.compare_again("a partition is resolved", out);
    }

    /// This history stays, or is gone: nothing of it is given up any more, and a copy that was kept of it is
    /// not one of what comes next.
    pub(crate) fn nothing_given_up(&mut self) {
        self.sb.given_up_for = Epoch::NONE;
        self.sb.kept = false;
    }

    /// `Ok(true)`: record it; `Ok(false)`: nothing to resolve, or recorded already.
    fn may_resolve(&self, expected: Epoch, keep: Keep) -> Result<bool, Refusal> {
        if self.change.is_some() || self.stopping {
            return Err(Refusal::Busy);
        }
        if self.is_reverting() {
            return Err(Refusal::Reverting);
        }
        if self.link.is_target() {
            return Err(Refusal::SyncInProgress);
        }
        if self.sb.parted_from.is_none() {
            return Ok(false);
        }
        if expected != self.sb.head() {
            return Err(Refusal::StaleEpoch {
                expected,
                current: self.sb.head(),
            });
        }
        match keep {
            // It is going to be the other's, or goes back to what it was first.
            Keep::Local if self.sb.disk != Disk::Consistent => Err(Refusal::NoConsistentData),
            Keep::Local => Ok(true),
            Keep::Remote if self.sb.role == Role::Primary => Err(Refusal::IsPrimary),
            Keep::Remote => Ok(self.sb.given_up_for != self.sb.parted_from),
        }
    }
}
