//! The session with the peer: handshake, what the two sides have joined for, heartbeat.
//!
//! ```text
//!  down ──opened──► Preparing ──state sent──► Comparing ──both decided, mirrored──► Joined(..)
//!    ▲                 │                          │                                    │
//!    └──────────────── closed, or any violation ◄─┴────────────────────────────────────┘
//! ```
//! While the two sides compare (Preparing, Comparing), guest writes and role changes wait: the states
//! that the decision is made from must not move under it.
//!
//! Lives here: the session and what is known of the peer, dispatch of frames; below, the handshake and
//! the heartbeat. Does not live here: the decision ([`crate::compare`]), copies ([`crate::resync`]).

mod handshake;
mod news;

use crate::command::Refusal;
use crate::compare::{Decision, Disk, Facts};
use crate::effect::Effect;
use crate::engine::Engine;
use crate::event::LinkFault;
use crate::frame::{Frame, PeerHello, PeerReport};
use crate::growth::Rooms;
use crate::ids::{CommandId, Epoch, Seq, SessionId};
use crate::marks::chunks_of;
use crate::resync::{Copy, Source, Target};
use crate::role::Role;
use crate::settings::{HANDSHAKE_LIMIT, PROGRESS_LOST};
use crate::time::{Mono, Wall};
use crate::write_path::Route;

/// So many sessions in a row that end before they are joined are as good as no session: the peer's
/// disk has failed, or it does not get through its handshake.
const UNJOINED_MAX: u32 = 3;

/// What the two sides have joined for.
#[derive(Clone, Hash)]
pub(crate) enum Join {
    /// Both empty.
    Idle,
    /// Equal copies; the Primary's writes follow in order.
    InOrder,
    /// As Primary: the peer takes what was sent, and gets nothing more in this session.
    Ahead,
    /// As Secondary: no more comes in this session than what is on its way.
    Behind,
    /// Copying to the peer.
    Source(Box<Source>),
    /// Copying from the peer.
    Target(Target),
    /// Connected, and nothing may be sent: superseded, superseding, partitioned, refused.
    Blocked(Decision),
}

#[derive(Clone, Hash)]
enum Phase {
    /// Waiting until what is on its way to disk has arrived.
    Preparing,
    Comparing {
        mine: Box<Facts>,
        decided: Option<Decision>,
        sent: bool,
        heard: Option<Decision>,
    },
    Joined(Join),
}

#[derive(Clone, Hash)]
struct Session {
    id: SessionId,
    hello: PeerHello,
    remote: String,
    phase: Phase,
    opened: Mono,
    heard: Mono,
    /// The first question since then.
    asked: Option<Mono>,
    pinged: Mono,
    /// What had been written then.
    pinged_seq: Seq,
    nonce: u64,
    ping_sent: Option<(u64, Mono)>,
    progress: Mono,
    theirs: Option<Box<Facts>>,
    refreshes: Vec<(u64, CommandId)>,
}

/// What is known of the peer.
#[derive(Clone, Hash, Default)]
pub(crate) struct Link {
    session: Option<Session>,
    closing: Option<SessionId>,
    /// Declared down, and why.
    pub(crate) down: Option<LinkFault>,
    pub(crate) report: Option<PeerReport>,
    pub(crate) hello: Option<PeerHello>,
    pub(crate) rooms: Rooms,
    pub(crate) peer_queue_manager: String,
    pub(crate) heard_at: Option<(Mono, Wall)>,
    pub(crate) rtt_micros: u64,
    /// Commands that wait for news of the peer.
    waiting: Vec<CommandId>,
    /// Sessions in a row that ended before the two sides had joined.
    unjoined: u32,
    /// What the peer said when it ended the last of them.
    farewell: Option<String>,
}

impl Link {
    pub(crate) const fn is_present(&self) -> bool {
        self.session.is_some() || self.closing.is_some()
    }

    pub(crate) fn remote(&self) -> &str {
        self.session.as_ref().map_or("", |s| &s.remote)
    }

    pub(crate) fn peer_node(&self) -> Option<crate::ids::NodeId> {
        self.session.as_ref().map(|s| s.hello.node)
    }

    pub(crate) fn session_id(&self) -> Option<SessionId> {
        self.session.as_ref().map(|s| s.id)
    }

    fn phase(&self) -> Option<&Phase> {
        self.session.as_ref().map(|s| &s.phase)
    }

    pub(crate) fn join(&self) -> Option<&Join> {
        match self.phase() {
            Some(Phase::Joined(join)) => Some(join),
            Some(Phase::Preparing | Phase::Comparing { .. }) | None => None,
        }
    }

    pub(crate) fn join_mut(&mut self) -> Option<&mut Join> {
        match self.session.as_mut().map(|s| &mut s.phase) {
            Some(Phase::Joined(join)) => Some(join),
            Some(Phase::Preparing | Phase::Comparing { .. }) | None => None,
        }
    }

    pub(crate) fn set_join(&mut self, join: Join) {
        if let Some(s) = &mut self.session {
            s.phase = Phase::Joined(join);
        }
    }

    pub(crate) fn is_joined(&self) -> bool {
        self.join().is_some()
    }

    /// Whether the two sides are comparing their states right now.
    pub(crate) fn is_comparing(&self) -> bool {
        self.session.is_some() && !self.is_joined()
    }

    pub(crate) fn is_in_order(&self) -> bool {
        matches!(self.join(), Some(Join::InOrder))
            || self.source().is_some_and(Source::is_completion_sent)
    }

    /// Whether everything has been copied and the completion is being prepared.
    pub(crate) fn is_completing(&self) -> bool {
        self.source().is_some_and(Source::is_completing)
    }

    /// Whether a completion is being prepared or on its way: our head must not move until the peer
    /// has adopted it, or the session has ended.
    pub(crate) fn awaits_adoption(&self) -> bool {
        self.source().is_some_and(Source::awaits_adoption)
    }

    /// Whether an empty union is being completed: the peer takes no data before the completion.
    pub(crate) fn completes_unannounced(&self) -> bool {
        self.source().is_some_and(Source::completes_unannounced)
    }

    pub(crate) fn is_ahead(&self) -> bool {
        matches!(self.join(), Some(Join::Ahead))
    }

    pub(crate) fn is_source(&self) -> bool {
        matches!(self.join(), Some(Join::Source(_)))
    }

    pub(crate) fn is_target(&self) -> bool {
        matches!(self.join(), Some(Join::Target(_)))
    }

    /// The copy to the peer, if that is what the two have joined for.
    pub(crate) fn source(&self) -> Option<&Source> {
        if let Some(Join::Source(source)) = self.join() {
            Some(source)
        } else {
            None
        }
    }

    /// See [`Link::source`].
    pub(crate) fn source_mut(&mut self) -> Option<&mut Source> {
        if let Some(Join::Source(source)) = self.join_mut() {
            Some(source)
        } else {
            None
        }
    }

    /// The copy from the peer, if that is what the two have joined for.
    pub(crate) fn target(&self) -> Option<&Target> {
        if let Some(Join::Target(target)) = self.join() {
            Some(target)
        } else {
            None
        }
    }

    /// See [`Link::target`].
    pub(crate) fn target_mut(&mut self) -> Option<&mut Target> {
        if let Some(Join::Target(target)) = self.join_mut() {
            Some(target)
        } else {
            None
        }
    }

    /// The decision that blocks this session, if one does.
    pub(crate) fn blocked(&self) -> Option<Decision> {
        match self.join() {
            Some(Join::Blocked(decision)) => Some(*decision),
            Some(
                Join::Idle
                | Join::InOrder
                | Join::Ahead
                | Join::Behind
                | Join::Source(_)
                | Join::Target(_),
            )
            | None => None,
        }
    }

    /// Whether a write that is not in order goes to the peer all the same: every chunk it touches has
    /// been copied already.
    pub(crate) fn mirrors(&self, offset: u64, len: u64, is_flush: bool) -> bool {
        match self.join() {
            Some(Join::Source(s)) => {
                s.copies()
                    && (is_flush || chunks_of(offset, len).all(|c| !s.walk.pending.contains(c)))
            }
            Some(
                Join::Idle
                | Join::InOrder
                | Join::Ahead
                | Join::Behind
                | Join::Target(_)
                | Join::Blocked(_),
            )
            | None => false,
        }
    }

    /// A write was not sent: what it touches must be copied (again).
    pub(crate) fn repend(&mut self, offset: u64, len: u64, route: Route) {
        if let (Route::Marked, Some(Join::Source(s))) = (route, self.join_mut()) {
            for chunk in chunks_of(offset, len) {
                s.walk.pending.insert(chunk);
            }
        }
    }

    /// Whether the peer is a primary whose users wait for our word.
    pub(crate) fn peer_waits_for_acks(&self) -> bool {
        self.report
            .is_some_and(|r| r.mode.flushes_both() && r.role == Role::Primary)
    }

    /// The peer's role as last heard, while connected.
    pub(crate) fn peer_role(&self) -> Option<Role> {
        self.session.as_ref()?;
        self.report.map(|r| r.role)
    }

    /// The peer's state of the running handshake.
    pub(crate) fn theirs(&self) -> Option<&Facts> {
        self.session.as_ref().and_then(|s| s.theirs.as_deref())
    }

    /// The peer's copy is no longer in doubt.
    pub(crate) fn peer_was_compared(&mut self) {
        if let Some(facts) = self.session.as_mut().and_then(|s| s.theirs.as_mut()) {
            facts.in_doubt = false;
        }
    }

    /// Whether the peer was Primary under one of these epochs.
    pub(crate) fn peer_has_served(&self, lineage: &[Epoch]) -> bool {
        self.theirs()
            .is_some_and(|facts| lineage.contains(&facts.role_epoch))
    }

    /// Whether the peer's copy is in doubt (R-AL6).
    pub(crate) fn peer_is_in_doubt(&self) -> bool {
        self.theirs().is_some_and(|facts| facts.in_doubt)
    }
}

impl Engine {
    pub(crate) fn session_opened(
        &mut self,
        id: SessionId,
        hello: PeerHello,
        remote: String,
        out: &mut Vec<Effect>,
    ) {
        // Fence: what an old session still brings is nobody's any more.
        self.end_session(out);
        let now = self.now.mono;
        if self.link.unjoined < UNJOINED_MAX {
            self.link.down = None;
        }
        self.link.farewell = None;
        self.link.hello = Some(hello.clone());
        self.link.session = Some(Session {
            id,
            hello,
            remote,
            phase: Phase::Preparing,
            opened: now,
            heard: now,
            asked: None,
            pinged: now,
            pinged_seq: Seq::NEVER,
            nonce: 0,
            ping_sent: None,
            progress: now,
            theirs: None,
            refreshes: Vec::new(),
        });
        if self.fault.is_some() {
            self.close_session("the local disk failed", out);
        } else if self.stopping {
            self.close_session("this replicator stops", out);
        } else if self.is_reverting() {
            self.close_session("this copy goes back to its snapshot", out);
        }
    }

    pub(crate) fn session_closed(&mut self, id: SessionId, out: &mut Vec<Effect>) {
        if self.link.closing == Some(id) {
            self.link.closing = None;
        }
        if self.link.session.as_ref().is_some_and(|s| s.id == id) {
            self.end_session(out);
        }
    }

    pub(crate) fn dial_failed(&mut self, fault: LinkFault, out: &mut Vec<Effect>) {
        if self.link.session.is_none() {
            self.link.down = Some(fault);
            self.answer_waiting(out);
        }
    }

    /// Ends the current session, if there is one, on our own account.
    pub(crate) fn close_session(&mut self, reason: &str, out: &mut Vec<Effect>) {
        self.leave_session(reason, false, out);
    }

    fn leave_session(&mut self, reason: &str, is_violation: bool, out: &mut Vec<Effect>) {
        if let Some(s) = &self.link.session {
            let session = s.id;
            out.push(Effect::Send {
                session,
                frame: Frame::Bye {
                    text: reason.to_owned(),
                },
            });
            out.push(Effect::CloseSession {
                session,
                reason: reason.to_owned(),
                is_violation,
            });
            self.link.closing = Some(session);
            self.end_session(out);
        }
    }

    /// Closes the session so that the two sides compare again: something that the decision depended
    /// on has changed.
    pub(crate) fn compare_again(&mut self, reason: &str, out: &mut Vec<Effect>) {
        if self.link.session.is_some() {
            self.close_session(reason, out);
            out.push(Effect::DialNow);
        }
    }

    fn end_session(&mut self, out: &mut Vec<Effect>) {
        if self.link.is_in_order() && self.sb.role == Role::Primary {
            self.begin_log();
        }
        let Some(session) = self.link.session.take() else {
            return;
        };
        self.link
            .waiting
            .extend(session.refreshes.into_iter().map(|(_, id)| id));
        if matches!(session.phase, Phase::Joined(_)) {
            self.link.unjoined = 0;
        } else {
            self.link.unjoined = self.link.unjoined.saturating_add(1);
        }
        if self.link.unjoined >= UNJOINED_MAX {
            let mut why = "the peer answers, and completes no handshake".to_owned();
            if let Some(said) = self.link.farewell.take() {
                why = format!("{why}; it says: {said}");
            }
            self.link.down = Some(LinkFault::Lost(why));
            self.answer_waiting(out);
        }
        self.guest.locks.clear();
        self.verification_lost_session();
        self.replica.forget_questions();
        self.writes_lost_session(out);
        self.replica.record_now();
        self.change_lost_session(out);
    }

    pub(crate) fn send(&mut self, frame: Frame, out: &mut Vec<Effect>) {
        if let Some(s) = &self.link.session {
            out.push(Effect::Send {
                session: s.id,
                frame,
            });
        }
    }

    /// The peer broke the protocol: the session ends, nothing else does.
    fn violation(&mut self, what: &str, out: &mut Vec<Effect>) {
        self.leave_session(&format!("protocol violation: {what}"), true, out);
    }

    pub(crate) fn frame_received(&mut self, id: SessionId, frame: Frame, out: &mut Vec<Effect>) {
        if self.link.session_id() != Some(id) {
            return;
        }
        self.peer_heard(self.now.mono);
        self.link.heard_at = Some((self.now.mono, self.now.wall));
        let what = match frame {
            Frame::State(facts) => self.state_heard(facts, out),
            Frame::Decision(decision) => self.decision_heard(decision),
            Frame::Ping {
                nonce,
                clock,
                report,
                sync_done_chunks,
            } => {
                self.report_heard(report);
                if self.link.is_joined() {
                    self.clock_heard(clock);
                }
                self.sync_progress_heard(sync_done_chunks);
                let report = self.own_report();
                self.send(Frame::Pong { nonce, report }, out);
                Ok(())
            }
            Frame::Pong { nonce, report } => {
                self.report_heard(report);
                self.pong_heard(nonce, out);
                Ok(())
            }
            Frame::Report(report) => {
                self.report_heard(report);
                Ok(())
            }
            Frame::Capacity(bytes) if self.link.is_joined() => {
                self.capacity_heard(bytes, out);
                Ok(())
            }
            Frame::Grow(size)
                if matches!(self.link.join(), Some(Join::InOrder)) && self.may_receive() =>
            {
                self.growth_asked(size)
            }
            Frame::Grown(size) if self.link.is_joined() => self.growth_heard(size),
            Frame::Compared if self.may_receive() => {
                self.no_longer_in_doubt();
                Ok(())
            }
            Frame::Bye { text } => {
                self.link.farewell = Some(text);
                self.close_session("the peer ended the session", out);
                Ok(())
            }
            Frame::LeftBehind
                if matches!(self.link.join(), Some(Join::InOrder)) && self.may_receive() =>
            {
                self.link.set_join(Join::Behind);
                Ok(())
            }
            Frame::Writes { writes, clock } if self.may_receive() => {
                self.writes_arrived(writes, clock)
            }
            Frame::Ack { applied, durable } if self.link.is_joined() => {
                if self
                    .change
                    .as_ref()
                    .is_some_and(crate::transition::Change::renumbers)
                {
                    // Of the stream before the new run: the peer learns of that with the confirmation.
                    Ok(())
                } else if applied > self.guest.last_seq || durable > applied {
                    Err(format!(
                        "acknowledgement of {} after {}",
                        applied.0, self.guest.last_seq.0
                    ))
                } else {
                    self.progress_heard();
                    self.resync_acknowledged(applied);
                    self.acknowledged(applied, durable, out);
                    Ok(())
                }
            }
            Frame::Bitmap { runs, union: true } if self.link.is_target() => self.union_heard(&runs),
            Frame::Bitmap { runs, union: false } if self.link.is_source() => {
                self.own_bits_heard(&runs, out)
            }
            Frame::BitmapStored if self.link.is_source() => self.bitmap_stored(out),
            Frame::ResyncBegin { id, total_chunks } if self.link.is_target() => {
                self.resync_began(id, total_chunks)
            }
            Frame::ResyncReady { id } if self.link.is_source() => self.resync_ready(id),
            Frame::Hashes {
                after,
                offset,
                len,
                key,
                hashes,
            } if self.may_receive() => self.hashes_arrived(after, (offset, len), key, hashes),
            Frame::Differs {
                key,
                offset,
                blocks,
            } if self.link.is_joined() => self.differences_heard(key, (offset, &blocks), out),
            Frame::ResyncComplete {
                id,
                lineage,
                seq,
                volume,
            } if self.link.is_target() => self.completion_heard(id, lineage, seq, volume),
            Frame::ResyncAdopted { id } if self.link.is_source() => self.adopted_heard(id, out),
            Frame::PromoteRequest { epoch } if self.link.is_joined() => {
                self.promotion_asked(epoch, out);
                Ok(())
            }
            Frame::PromoteAnswer { epoch, refusal } if self.link.is_joined() => {
                self.promotion_answered(epoch, refusal, out);
                Ok(())
            }
            Frame::PromoteConfirm { epoch, run } if self.link.is_joined() => {
                self.promotion_confirmed(epoch, run)
            }
            Frame::PromoteAdopted { epoch } if self.link.is_joined() => {
                self.promotion_adopted(epoch, out);
                Ok(())
            }
            Frame::PromoteCancel { epoch } if self.link.is_joined() => {
                self.promotion_cancelled(epoch);
                Ok(())
            }
            Frame::Writes { .. }
            | Frame::LeftBehind
            | Frame::Capacity(_)
            | Frame::Grow(_)
            | Frame::Grown(_)
            | Frame::Compared
            | Frame::Ack { .. }
            | Frame::Bitmap { .. }
            | Frame::BitmapStored
            | Frame::ResyncBegin { .. }
            | Frame::ResyncReady { .. }
            | Frame::Hashes { .. }
            | Frame::Differs { .. }
            | Frame::ResyncComplete { .. }
            | Frame::ResyncAdopted { .. }
            | Frame::PromoteRequest { .. }
            | Frame::PromoteAnswer { .. }
            | Frame::PromoteConfirm { .. }
            | Frame::PromoteAdopted { .. }
            | Frame::PromoteCancel { .. } => {
                Err("a frame that this state does not allow".to_owned())
            }
        };
        if let Err(what) = what {
            self.violation(&what, out);
        }
    }

    /// Whether ordered data may arrive: we receive, and are not Primary.
    pub(crate) fn may_receive(&self) -> bool {
        let receives = match self.link.join() {
            Some(Join::InOrder | Join::Behind) => true,
            Some(Join::Target(t)) => t.receives(),
            Some(Join::Idle | Join::Ahead | Join::Source(_) | Join::Blocked(_)) | None => false,
        };
        receives && self.sb.role == Role::Secondary
    }

    fn report_heard(&mut self, report: PeerReport) {
        // A grant that is open makes the peer Primary until it says otherwise by a handshake (E2).
        let granted = self.sb.grant.is_some();
        let role = if granted { Role::Primary } else { report.role };
        self.link.report = Some(PeerReport { role, ..report });
    }

    pub(crate) fn progress_heard(&mut self) {
        if let Some(s) = &mut self.link.session {
            s.progress = self.now.mono;
        }
    }

    pub(crate) fn link_wakeup(&self) -> Option<Mono> {
        let s = self.link.session.as_ref()?;
        let limit = if self.link.is_joined() {
            self.next_heartbeat()
        } else {
            Some(s.opened.after(HANDSHAKE_LIMIT))
        };
        let stuck = self
            .is_outstanding()
            .then(|| s.progress.after(PROGRESS_LOST));
        [limit, self.lost_at(), stuck].into_iter().flatten().min()
    }

    /// Whether the peer answered, and says that it is empty.
    pub(crate) fn peer_is_empty(&self) -> Result<(), Refusal> {
        match self.link.theirs() {
            Some(facts) if self.link.is_joined() && facts.disk == Disk::Empty => Ok(()),
            Some(_) if self.link.is_joined() => Err(Refusal::PeerHasData),
            Some(_) | None => Err(Refusal::PeerUnknown),
        }
    }

    /// Progress of the copy, for status: chunks.
    pub(crate) fn copy(&self) -> Option<Copy> {
        match self.link.join() {
            Some(Join::Source(s)) => s.copy(),
            Some(Join::Target(t)) => t.copy(),
            Some(Join::Idle | Join::InOrder | Join::Ahead | Join::Behind | Join::Blocked(_))
            | None => None,
        }
    }
}
