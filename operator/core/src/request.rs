//! Role requests over time: new, known or stale; latches; policies.
//!
//! A request is {uid, generation, role, requestId}. The last one judged is stored with the data, so
//! that neither a restart nor an old backup of the API objects makes it look new.
//!
//! Lives here: what a request means now, given how it was judged before. Does not live here: the
//! decision table (`role`), the creation table (`creation`), the order of steps (`plan`).
//!
//! Invariants
//! - A request that was refused or told to wait never proceeds while the pair is apart (E6), and never
//!   beyond the loss that its first judgement allowed (R1).
//! - A stale request changes nothing; it is recorded as the base line for later ones.

use std::time::Duration;

use drqm_api::conditions::reason;
use drqm_api::v1alpha1::{
    DataWord, DrStatusWord, MaxLoss, PromoteWhenPeerUnknown, Role, VerdictWord,
};
use jiff::Timestamp;

use crate::creation::{self, Beginning};
use crate::observed::{Judged, LinkState, RefusalCode, StepRefusal, Volume};
use crate::plan::Judgement;
use crate::role::explain::{Names, explain};
use crate::role::{self, LinkView, Row, Situation};
use crate::validate::Valid;

/// How a request stands to the last one that was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing<'a> {
    /// Not judged yet.
    New,
    /// Judged.
    Known(&'a Judged),
    /// Older than what was judged, or of another object over data that exists.
    Stale,
}

/// What is to be done for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Begin the pair here.
    Initialize {
        /// Without the peer's word.
        without_peer: bool,
    },
    /// Become Primary.
    Promote,
    /// Become Secondary.
    Demote,
}

/// A judged request: what to say, whether to store it, what to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What to say.
    pub judgement: Judgement,
    /// The request as it is, or is to be, stored.
    pub judged: Judged,
    /// It has to be stored.
    pub record: bool,
    /// What to do.
    pub act: Option<Act>,
}

/// How the request of `valid` stands to the one stored with the data.
#[must_use]
pub fn standing<'a>(valid: &Valid, volume: &'a Volume) -> Standing<'a> {
    let has_data = volume.data != DataWord::Empty;
    let changes_nothing = valid.role == volume.role;
    let Some(judged) = &volume.judged else {
        // Data of which no request is known: promoting it on the word of an object that was never
        // seen before would be a guess.
        return if has_data && !changes_nothing {
            Standing::Stale
        } else {
            Standing::New
        };
    };
    if judged.cr_uid != valid.uid {
        // A re-created object may ask for Secondary over old data: that serves nothing. It may not
        // promote, and what it asks for at first is only the base line.
        let harmless = changes_nothing || valid.role == Role::Secondary;
        return if has_data && !harmless {
            Standing::Stale
        } else {
            Standing::New
        };
    }
    let same = judged.asks_for(valid.role, &valid.request_id);
    if valid.generation < judged.generation || (valid.generation == judged.generation && !same) {
        Standing::Stale
    } else if same {
        Standing::Known(judged)
    } else {
        Standing::New
    }
}

/// The id of the command that carries the request out, equal for the same request on the same data.
#[must_use]
pub fn command_id(judged: &Judged, step: &str, epoch: &str) -> String {
    format!(
        "{}/{}/{}/{step}/{epoch}",
        judged.cr_uid, judged.generation, judged.request_id
    )
}

/// Judges the request of `valid`.
#[must_use]
pub fn judge(
    valid: &Valid,
    volume: &Volume,
    refused: Option<&StepRefusal>,
    now: Timestamp,
) -> Decision {
    let situation = role::situation(valid.role, volume);
    let row = role::table(situation);
    let standing = standing(valid, volume);
    let case = Case {
        valid,
        volume,
        situation,
        row,
        standing,
        now,
    };
    let decision = match standing {
        Standing::Stale => case.stale(),
        Standing::New | Standing::Known(_) if case.is_creation() => case.creation(),
        Standing::New => case.fresh(),
        Standing::Known(judged) => case.known(judged),
    };
    match refused {
        Some(refusal) => case.after_refusal(decision, refusal),
        None => decision,
    }
}

struct Case<'a> {
    valid: &'a Valid,
    volume: &'a Volume,
    situation: Situation,
    row: Row,
    standing: Standing<'a>,
    now: Timestamp,
}

/// A verdict before it is put into words.
struct Finding {
    verdict: VerdictWord,
    reason: String,
    max_loss: MaxLoss,
    act: Option<Act>,
}

impl Case<'_> {
    fn changes_role(&self) -> bool {
        self.valid.role != self.volume.role
    }

    fn is_promotion(&self) -> bool {
        self.changes_role() && self.valid.role == Role::Primary
    }

    /// A first Primary: nothing was ever held here, and this object has asked for nothing else.
    fn is_creation(&self) -> bool {
        let never_secondary =
            self.volume.judged.as_ref().is_none_or(|judged| {
                judged.cr_uid != self.valid.uid || judged.role == Role::Primary
            });
        self.is_promotion() && self.volume.data == DataWord::Empty && never_secondary
    }

    fn stale(&self) -> Decision {
        if self.changes_role() {
            self.decide(Finding {
                verdict: VerdictWord::Hold,
                reason: reason::STALE_ROLE_REQUEST.to_owned(),
                max_loss: MaxLoss::None,
                act: None,
            })
        } else {
            self.decide(self.by_table(None))
        }
    }

    fn creation(&self) -> Decision {
        let Beginning {
            verdict,
            reason,
            without_peer,
        } = creation::beginning(self.volume, self.valid.bootstrap, self.since(), self.now);
        // What was refused is asked for again by a new request only, and what a living peer held
        // back does not begin because that peer has gone.
        let latched = match self.standing {
            Standing::Known(judged) => match judged.verdict {
                VerdictWord::Refuse => Some(judged),
                VerdictWord::Hold if without_peer => Some(judged),
                VerdictWord::Hold
                | VerdictWord::Wait
                | VerdictWord::Proceed
                | VerdictWord::Steady => None,
            },
            Standing::New | Standing::Stale => None,
        };
        self.decide(match latched {
            Some(judged) => self.keep(judged.verdict, &judged.reason, MaxLoss::None),
            None => Finding {
                verdict,
                reason: reason.to_owned(),
                max_loss: MaxLoss::None,
                act: (verdict == VerdictWord::Proceed).then_some(Act::Initialize { without_peer }),
            },
        })
    }

    fn fresh(&self) -> Decision {
        if self.changes_role() && self.still_asking() {
            let mut decision = self.decide(Finding {
                verdict: VerdictWord::Wait,
                reason: reason::ASKING_PEER.to_owned(),
                max_loss: MaxLoss::None,
                act: None,
            });
            // Not judged yet, so nothing is stored that would latch.
            decision.record = false;
            return decision;
        }
        self.decide(self.by_table(self.policy()))
    }

    /// A promotion is judged on an answer of the peer that is newer than the request, or on a link
    /// declared down; a demotion only needs to know which of the two it is.
    fn still_asking(&self) -> bool {
        match self.volume.link.state {
            LinkState::Unconfigured => false,
            LinkState::Connecting => true,
            LinkState::Connected
            | LinkState::Down
            | LinkState::AuthFailed
            | LinkState::ProtocolMismatch
            | LinkState::Refused => self.is_promotion() && !self.volume.refreshed,
        }
    }

    fn known(&self, judged: &Judged) -> Decision {
        if !self.changes_role() {
            return self.decide(self.by_table(None));
        }
        let timed_out = self.is_promotion()
            && judged.verdict == VerdictWord::Wait
            && !self.within_timeout(judged);
        let finding = if timed_out {
            self.keep(VerdictWord::Refuse, reason::TIMED_OUT, judged.max_loss)
        } else if judged.verdict == VerdictWord::Hold && judged.reason == reason::STALE_ROLE_REQUEST
        {
            self.keep(judged.verdict, &judged.reason, judged.max_loss)
        } else if self.row.verdict == VerdictWord::Proceed {
            self.proceed_or_stay(judged)
        } else {
            self.not_now(judged)
        };
        self.decide(finding)
    }

    /// The table says Proceed now; may this request, judged before, still do it?
    fn proceed_or_stay(&self, judged: &Judged) -> Finding {
        let linked = self.situation.link == LinkView::Up;
        let lossless = self.row.loss() == MaxLoss::None;
        let free = match judged.verdict {
            VerdictWord::Steady | VerdictWord::Proceed => self.row.loss() <= judged.max_loss,
            VerdictWord::Wait | VerdictWord::Hold => linked && lossless,
            VerdictWord::Refuse => {
                linked && lossless && (!self.is_promotion() || self.handed_over(judged))
            }
        };
        if free {
            Finding {
                max_loss: judged.max_loss,
                ..self.by_table(None)
            }
        } else {
            match judged.verdict {
                // Judged while linked, and the link went before it was carried out.
                VerdictWord::Steady | VerdictWord::Proceed => {
                    self.keep(VerdictWord::Refuse, reason::PEER_UNKNOWN, judged.max_loss)
                }
                VerdictWord::Wait | VerdictWord::Hold | VerdictWord::Refuse => {
                    self.keep(judged.verdict, &judged.reason, judged.max_loss)
                }
            }
        }
    }

    /// The table does not say Proceed. A refusal stays what it was; anything else follows the table.
    fn not_now(&self, judged: &Judged) -> Finding {
        if judged.verdict == VerdictWord::Refuse {
            self.keep(judged.verdict, &judged.reason, judged.max_loss)
        } else {
            Finding {
                max_loss: judged.max_loss,
                ..self.by_table(None)
            }
        }
    }

    /// The peer was demoted cleanly while linked, soon enough after the request (both roles swapped by
    /// one commit).
    fn handed_over(&self, judged: &Judged) -> bool {
        let sealed = self
            .volume
            .peer
            .as_ref()
            .is_some_and(|peer| peer.sealed && peer.role == Some(Role::Secondary));
        sealed && self.within_timeout(judged)
    }

    fn within_timeout(&self, judged: &Judged) -> bool {
        let limit = Duration::from_secs(u64::from(self.valid.promotion.timeout_seconds));
        // A clock that went backwards is no reason to time out.
        Duration::try_from(self.now.duration_since(judged.requested_at))
            .map_or(true, |waited| waited <= limit)
    }

    /// Refusals that are a matter of policy, for a new request.
    fn policy(&self) -> Option<&'static str> {
        if !self.is_promotion()
            || self.row.verdict != VerdictWord::Proceed
            || self.row.loss() == MaxLoss::None
        {
            return None;
        }
        match self.valid.promotion.when_peer_unknown {
            PromoteWhenPeerUnknown::RequireForce => Some(reason::PEER_UNKNOWN),
            PromoteWhenPeerUnknown::Allow if self.previous_switch_unprotected() => {
                Some(reason::PREVIOUS_SWITCH_NOT_PROTECTED)
            }
            PromoteWhenPeerUnknown::Allow => None,
        }
    }

    /// R7: this side was demoted, has heard the peer since, and was never in sync since. What the peer
    /// wrote in between would be lost. Asking again after exactly this refusal accepts that.
    fn previous_switch_unprotected(&self) -> bool {
        let accepted = self.volume.judged.as_ref().is_some_and(|judged| {
            judged.verdict == VerdictWord::Refuse
                && judged.reason == reason::PREVIOUS_SWITCH_NOT_PROTECTED
                && judged.request_id != self.valid.request_id
        });
        let demoted = self
            .volume
            .last_transition
            .as_ref()
            .filter(|transition| transition.to == Role::Secondary)
            .and_then(|transition| transition.finished);
        let (Some(demoted), false, false) = (demoted, accepted, self.volume.sealed) else {
            return false;
        };
        let heard = self.volume.peer.as_ref().and_then(|peer| peer.heard_at);
        let in_sync = self
            .volume
            .recovery_point
            .as_ref()
            .and_then(|point| point.last_in_sync);
        heard.is_some_and(|heard| heard > demoted)
            && in_sync.is_none_or(|in_sync| in_sync < demoted)
    }

    fn by_table(&self, policy: Option<&'static str>) -> Finding {
        match policy {
            Some(reason) => Finding {
                verdict: VerdictWord::Refuse,
                reason: reason.to_owned(),
                max_loss: MaxLoss::None,
                act: None,
            },
            None => Finding {
                verdict: self.row.verdict,
                reason: self.row.reason.to_owned(),
                max_loss: if self.row.verdict == VerdictWord::Proceed {
                    self.row.loss()
                } else {
                    MaxLoss::None
                },
                act: self.act(),
            },
        }
    }

    fn act(&self) -> Option<Act> {
        (self.row.verdict == VerdictWord::Proceed).then_some(match self.valid.role {
            Role::Primary => Act::Promote,
            Role::Secondary => Act::Demote,
        })
    }

    fn keep(&self, verdict: VerdictWord, reason: &str, max_loss: MaxLoss) -> Finding {
        Finding {
            verdict,
            reason: reason.to_owned(),
            max_loss,
            act: None,
        }
    }

    /// When the request was first judged.
    fn since(&self) -> Timestamp {
        match self.standing {
            Standing::Known(judged) => judged.requested_at,
            Standing::New | Standing::Stale => self.now,
        }
    }

    fn decide(&self, finding: Finding) -> Decision {
        let Finding {
            verdict,
            reason,
            max_loss,
            act,
        } = finding;
        let message = explain(
            &reason,
            Names {
                peer: self.valid.peer.as_ref().map(|peer| peer.name.as_str()),
                verdict,
            },
        );
        let known = match self.standing {
            Standing::Known(judged) => Some(judged),
            Standing::New | Standing::Stale => None,
        };
        let unchanged = known.is_some_and(|judged| {
            !self.changes_role() || (judged.verdict == verdict && judged.reason == reason)
        });
        let judged = Judged {
            cr_uid: self.valid.uid.clone(),
            // The generation in which the request was made: later changes of other fields do not make
            // it another command.
            generation: known.map_or(self.valid.generation, |judged| judged.generation),
            role: self.valid.role,
            request_id: self.valid.request_id.clone(),
            verdict,
            reason: reason.clone(),
            message: message.clone(),
            max_loss,
            requested_at: self.since(),
        };
        Decision {
            judgement: Judgement {
                desired: self.valid.role,
                verdict,
                reason,
                message,
                dr_status: self.dr_status(),
                max_loss,
                since: judged.requested_at,
                generation: judged.generation,
                latched: unchanged,
            },
            judged,
            record: !unchanged,
            act,
        }
    }

    /// The state of the pair depends on the role that is, not on the one that is asked for.
    fn dr_status(&self) -> DrStatusWord {
        role::table(role::situation(self.volume.role, self.volume)).dr_status
    }

    /// The replicator refused to carry the decision out.
    fn after_refusal(&self, decision: Decision, refusal: &StepRefusal) -> Decision {
        let Some(act) = decision.act else {
            return decision;
        };
        if refusal.command_id != act_id(act, &decision.judged, self.volume) {
            return decision;
        }
        use VerdictWord::{Hold, Refuse, Wait};
        let (verdict, reason) = match refusal.code {
            RefusalCode::PeerIsPrimary => (Refuse, reason::PEER_IS_PRIMARY),
            RefusalCode::NeverSynchronized => (Refuse, reason::NEVER_SYNCHRONIZED),
            RefusalCode::NoConsistentData => (Refuse, reason::NO_CONSISTENT_DATA),
            RefusalCode::SplitBrainUnresolved => (Refuse, reason::SPLIT_BRAIN_UNRESOLVED),
            RefusalCode::PeerHasData => (Refuse, reason::PEER_HAS_DATA),
            RefusalCode::PeerUnknown => (Refuse, reason::PEER_UNKNOWN),
            RefusalCode::SyncInProgress => (Wait, reason::SYNC_IN_PROGRESS),
            RefusalCode::DiskFailed => (Hold, reason::DISK_FAILED),
            // The world has moved on, or somebody is busy: look again, and try again if it still holds.
            RefusalCode::StaleEpoch
            | RefusalCode::StaleRequest
            | RefusalCode::DeviceHeld
            | RefusalCode::AlreadyInitialized
            | RefusalCode::TimedOut
            | RefusalCode::Busy
            | RefusalCode::Reverting
            | RefusalCode::IsPrimary
            | RefusalCode::Unknown => return decision,
        };
        self.decide(self.keep(verdict, reason, decision.judged.max_loss))
    }
}

/// The id of the command for an act.
#[must_use]
pub fn act_id(act: Act, judged: &Judged, volume: &Volume) -> String {
    let step = match act {
        Act::Initialize { .. } => "initialize",
        Act::Promote if volume.data == DataWord::InconsistentSnap => "revert",
        Act::Promote => "promote",
        Act::Demote => "demote",
    };
    command_id(judged, step, &volume.epoch)
}

#[cfg(test)]
mod tests;
