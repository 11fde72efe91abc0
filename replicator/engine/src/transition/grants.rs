//! The peer's grant of a promotion, on both sides: asked, given, confirmed, adopted, taken back.
//!
//! Does not live here: when a promotion needs one ([`super`]).

use super::Stage;
use crate::command::Refusal;
use crate::compare::Grant;
use crate::effect::Effect;
use crate::engine::{AfterPages, Engine};
use crate::frame::Frame;
use crate::ids::{Epoch, RunId, SessionId};
use crate::link::Join;
use crate::report::TransitionKind;
use crate::role::Role;
use crate::superblock::Then;

impl Engine {
    pub(crate) fn promotion_asked(&mut self, epoch: Epoch, out: &mut Vec<Effect>) {
        let refuse = |refusal| Frame::PromoteAnswer {
            epoch,
            refusal: Some(refusal),
        };
        if self.sb.role == Role::Primary {
            return self.send(refuse(Refusal::PeerIsPrimary), out);
        }
        if let Some(change) = &self.change {
            let lower = self
                .link
                .peer_node()
                .is_some_and(|peer| peer < self.identity.node);
            if !change.asks_grant() || !lower {
                return self.send(refuse(Refusal::PeerIsPrimary), out);
            }
            // Ruling 4: crossing requests, the lower node id wins.
            if let Some(Stage::AskingGrant(own)) = self.stage() {
                self.send(Frame::PromoteCancel { epoch: own }, out);
            }
            self.refuse_change(Refusal::PeerIsPrimary, out);
        }
        match self.link.join() {
            // A target stores no grant: the source bumps alone, the completion carries the lineage.
            Some(Join::Target(_)) => self.send(
                Frame::PromoteAnswer {
                    epoch,
                    refusal: None,
                },
                out,
            ),
            // What only this side has may not be known yet (R-AL6).
            Some(Join::InOrder) if self.is_pair_in_doubt() && self.was_primary_last() => {
                self.send(refuse(Refusal::SyncInProgress), out);
            }
            // A verification has found this, and did not repair it: the peer's copy is not the one that was served.
            Some(Join::InOrder) if self.marks.base().count() > 0 => {
                self.send(refuse(Refusal::SyncInProgress), out);
                // Else what was copied is being struck off.
                if self.is_persisted() {
                    self.compare_again("what a verification found is copied", out);
                }
            }
            Some(Join::InOrder) => {
                let to = self.link.peer_node().unwrap_or_default();
                self.sb.grant = Some(Grant { epoch, to });
                // The copies are equal: bits that an earlier copy left on disk must not come back
                // beside a new Primary.
                self.sb.bits_void = true;
                if let Some(report) = &mut self.link.report {
                    report.role = Role::Primary;
                }
                self.persist(Then::Granted(epoch, self.link.session_id()));
            }
            Some(Join::Idle | Join::Ahead | Join::Behind | Join::Source(_) | Join::Blocked(_))
            | None => {
                self.send(refuse(Refusal::Busy), out);
            }
        }
    }

    /// A newer session compares what is durable; the answer belongs to the one that it was asked in.
    pub(crate) fn grant_durable(
        &mut self,
        epoch: Epoch,
        asked: Option<SessionId>,
        out: &mut Vec<Effect>,
    ) {
        if self.sb.bits_void {
            self.store_pages(AfterPages::Voided);
        }
        let same = self.link.session_id() == asked;
        if same && self.sb.grant.is_some_and(|g| g.epoch == epoch) {
            self.send(
                Frame::PromoteAnswer {
                    epoch,
                    refusal: None,
                },
                out,
            );
        }
    }

    pub(crate) fn promotion_answered(
        &mut self,
        epoch: Epoch,
        refusal: Option<Refusal>,
        out: &mut Vec<Effect>,
    ) {
        if self.stage() != Some(Stage::AskingGrant(epoch)) {
            return;
        }
        if let Some(refusal) = refusal {
            return self.refuse_change(refusal, out);
        }
        self.sb.bump(epoch);
        // Feeding a resync, the peer stores nothing and gets the head with the completion.
        let planned = (!self.link.is_source()).then_some(epoch);
        self.sb.peer_may_have_head = planned.is_some();
        self.record_primary(TransitionKind::Planned, planned);
    }

    pub(crate) fn promotion_confirmed(&mut self, epoch: Epoch, run: RunId) -> Result<(), String> {
        if self.sb.grant.is_none_or(|g| g.epoch != epoch) {
            return Err("a confirmation of a grant that was not given".to_owned());
        }
        self.sb.grant = None;
        self.sb.bump(epoch);
        self.peer_has_everything();
        self.sb.sealed = false;
        self.replica.begin(epoch, run, true);
        self.persist(Then::GrantAdopted(epoch, self.link.session_id()));
        Ok(())
    }

    pub(crate) fn grant_adopted(
        &mut self,
        epoch: Epoch,
        told: Option<SessionId>,
        out: &mut Vec<Effect>,
    ) {
        if self.link.session_id() == told {
            self.send(Frame::PromoteAdopted { epoch }, out);
        }
    }

    pub(crate) fn promotion_adopted(&mut self, epoch: Epoch, out: &mut Vec<Effect>) {
        if self.stage() == Some(Stage::Confirming(epoch)) {
            self.peer_has_everything();
            self.persist(Then::Nothing);
            self.promotion_done(out);
        }
    }

    pub(crate) fn promotion_cancelled(&mut self, epoch: Epoch) {
        if self.sb.grant.is_some_and(|g| g.epoch == epoch) {
            self.sb.grant = None;
            self.persist(Then::Nothing);
        }
    }
}
