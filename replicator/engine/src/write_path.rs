//! The device user's requests: admission, ordering, completion.
//!
//! Every write goes through [`Engine::advance_writes`] in the order of arrival. It starts when
//! nothing forbids it (each reason is one line there), and completes by [`Engine::may_complete`].
//! For every write exactly one holds: it has a place in the stream and is kept until the peer has it
//! durably (the retained log), or its bits are set.
//!
//! Does not live here: the peer's side of a write ([`crate::replica`]), chunk copies
//! ([`crate::resync`]).

mod completion;
mod congestion;
mod log;

use std::collections::{BTreeMap, VecDeque};

use congestion::Congestion;

use crate::activity::extents_of;
use crate::effect::{Completion, Effect};
use crate::engine::{Engine, Job};
use crate::event::GuestRequest;
use crate::frame::{Frame, Payload, PrimaryClock, WireWrite};
use crate::guard;
use crate::ids::{Epoch, GuestId, JobId, Position, ResyncId, Seq};
use crate::role::Role;
use crate::settings::{OnPeerLoss, WINDOW_COUNT};
use crate::superblock::Then;

/// Zeros are taken in pieces of this size, so that one discard of a whole disk does not need more
/// activity-log extents than there are. 64 MiB is 16 extents.
const ZERO_PIECE: u64 = 64 << 20;

/// Requests waiting for their turn; the front-end has a bound of its own, this one is for pieces.
const PARKED_MAX: usize = 1024;

/// Keys from here on belong to writes that were not sent.
const UNSENT: Seq = Seq::NEVER;

/// Where the next write goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Route {
    /// To the peer, in order; the peer will then have everything.
    InOrder,
    /// To the peer; the bits stay set until the resync completes.
    Mirrored,
    /// Into the retained log: the peer is away, and gets it in order when it is back.
    Logged,
    /// Nowhere; the bits are set.
    Marked,
}

#[derive(Clone, Hash)]
struct InFlight {
    /// Answered when the last piece is done; `None` once answered.
    guest: Option<GuestId>,
    offset: u64,
    len: u64,
    is_flush: bool,
    /// Durable at completion.
    fua: bool,
    local: bool,
    route: Route,
    /// The session it was sent on is still the current one.
    on_session: bool,
    /// Not on the session, but part of a copy that the peer has adopted.
    covered: bool,
    /// As it was, or will be, sent: it belongs to the retained log.
    kept: Option<WireWrite>,
}

impl InFlight {
    /// Whether it counts against the bound of what is kept for the peer.
    const fn is_counted(&self) -> bool {
        self.on_session || self.kept.is_some()
    }
}

#[derive(Clone, Hash)]
struct Pieces {
    left: usize,
    failed: bool,
}

/// The Primary's requests.
#[derive(Clone, Hash, Default)]
pub(crate) struct WritePath {
    parked: VecDeque<(GuestId, GuestRequest)>,
    pieces: BTreeMap<GuestId, Pieces>,
    writes: BTreeMap<Seq, InFlight>,
    /// How many of `writes` are not on the current session.
    off_session: usize,
    /// Ranges being written locally.
    local: BTreeMap<JobId, (u64, u64)>,
    /// Ranges being read for the peer: `(reader, offset, len)`.
    pub(crate) locks: Vec<(ResyncId, u64, u64)>,
    /// Last place given in the stream to the peer.
    pub(crate) last_seq: Seq,
    /// Writes that were not sent so far; they have no place in the stream.
    unsent: u64,
    completed_seq: Seq,
    completed_flush: Seq,
    pub(crate) completed_bytes: u64,
    /// Bytes sent, or logged, and not durably acknowledged.
    pub(crate) window_bytes: u64,
    window_count: usize,
    pub(crate) peer_applied: Seq,
    pub(crate) peer_durable: Seq,
    /// The highest place that the peer has said to have applied: users were told so.
    promised: Seq,
    /// Every write after this place is kept, as far as the peer does not have it durably; none while
    /// what it lacks is told by bits.
    log_from: Option<Seq>,
    /// Where in the stream the mode was changed last; what comes before may have been completed by
    /// another rule.
    pub(crate) mode_from: Seq,
    congestion: Congestion,
    /// A bump is on its way to disk.
    bumping: bool,
    /// Last completed write that the peer may lack though it was sent (E1).
    pub(crate) tail: Option<Position>,
}

impl WritePath {
    /// Whether no local I/O of the user is under way and nobody waits.
    pub(crate) fn is_settled(&self) -> bool {
        self.is_locally_done() && self.writes.values().all(|w| w.guest.is_none())
    }

    /// Whether no local I/O of the user is under way, though somebody may wait for the peer.
    pub(crate) fn is_locally_done(&self) -> bool {
        self.local.is_empty() && self.writes.values().all(|w| w.local)
    }

    /// Whether anything sent has not been durably acknowledged.
    pub(crate) const fn is_outstanding(&self) -> bool {
        self.window_count > 0
    }

    /// Whether everything is done, the peer's durable acknowledgement included.
    pub(crate) fn is_drained(&self) -> bool {
        self.writes.is_empty() && self.local.is_empty()
    }

    /// Whether a range is neither being written here nor being read for the peer.
    pub(crate) fn is_free(&self, offset: u64, len: u64) -> bool {
        !self.overlaps_local(offset, len) && !self.overlaps_lock(offset, len)
    }

    /// A range that was read for the peer may be written again, whatever has become of the reader. A read of an
    /// earlier session holds no lock any more.
    pub(crate) fn unlock(&mut self, reader: ResyncId, offset: u64, len: u64) {
        self.locks.retain(|l| *l != (reader, offset, len));
    }

    fn overlaps_local(&self, offset: u64, len: u64) -> bool {
        self.local
            .values()
            .any(|(o, l)| *o < offset + len && offset < o + l)
    }

    fn overlaps_lock(&self, offset: u64, len: u64) -> bool {
        self.locks
            .iter()
            .any(|(_, o, l)| *o < offset + len && offset < o + l)
    }

    /// Whether an extent has writes that are not durable on both sides or marked.
    pub(crate) fn uses_extent(&self, extent: u64) -> bool {
        self.writes
            .values()
            .any(|w| !w.is_flush && extents_of(w.offset, w.len).contains(&extent))
    }

    /// The key of the next write: its place in the stream, or a number of its own. The stream has no
    /// gaps, and nothing in it waits for what the peer gets by a copy.
    fn place(&mut self, route: Route) -> Seq {
        if route == Route::Marked {
            self.unsent += 1;
            Seq(UNSENT.0 + self.unsent)
        } else {
            self.last_seq = self.last_seq.next();
            self.last_seq
        }
    }

    /// A new run begins: sequence numbers start anew.
    pub(crate) fn new_run(&mut self) {
        self.last_seq = Seq(0);
        self.completed_seq = Seq(0);
        self.completed_flush = Seq(0);
        self.completed_bytes = 0;
        self.peer_applied = Seq(0);
        self.peer_durable = Seq(0);
        self.promised = Seq(0);
        self.log_from = None;
        self.mode_from = Seq(0);
        self.tail = None;
    }
}

impl Engine {
    /// Takes a request of the user.
    pub(crate) fn park(&mut self, id: GuestId, request: GuestRequest, out: &mut Vec<Effect>) {
        match request {
            GuestRequest::Read { offset, len } => {
                if self.fault.is_some() || !self.device.serves() {
                    return out.push(complete(id, Completion::Error));
                }
                let job = self.job(Job::GuestRead(id));
                out.push(Effect::ReadData { job, offset, len });
            }
            GuestRequest::Zero { offset, len } => {
                let pieces = len.div_ceil(ZERO_PIECE).max(1) as usize;
                self.guest.pieces.insert(
                    id,
                    Pieces {
                        left: pieces,
                        failed: false,
                    },
                );
                for n in 0..pieces as u64 {
                    let at = offset + n * ZERO_PIECE;
                    let len = ZERO_PIECE.min(offset + len - at);
                    self.guest
                        .parked
                        .push_back((id, GuestRequest::Zero { offset: at, len }));
                }
            }
            GuestRequest::Write { .. } | GuestRequest::Flush => {
                self.guest.pieces.insert(
                    id,
                    Pieces {
                        left: 1,
                        failed: false,
                    },
                );
                self.guest.parked.push_back((id, request));
            }
        }
    }

    /// Starts what may start, in order.
    pub(crate) fn advance_writes(&mut self, out: &mut Vec<Effect>) {
        if self.fault.is_some() || !self.device.serves() {
            return self.fail_guest(out);
        }
        self.bound_log();
        while let Some((_, request)) = self.guest.parked.front() {
            let (offset, len, is_flush) = match request {
                GuestRequest::Write { offset, data, .. } => (*offset, data.len() as u64, false),
                GuestRequest::Zero { offset, len } => (*offset, *len, false),
                GuestRequest::Flush | GuestRequest::Read { .. } => (0, 0, true),
            };
            if !is_flush && !self.guard_allows() {
                self.answer_refused(out);
                continue;
            }
            let route = self.route(offset, len, is_flush);
            let waits = self.is_frozen()
                || route != Route::Marked && (self.window_is_full() || self.is_slowed_down())
                || !is_flush && self.guest.overlaps_local(offset, len)
                || !is_flush && self.guest.overlaps_lock(offset, len)
                || !is_flush && self.must_bump(route)
                || !is_flush && !self.activity.covers(offset, len);
            if waits {
                break;
            }
            let (id, request) = self
                .guest
                .parked
                .pop_front()
                .expect("the front was just looked at");
            self.start(id, request, route, out);
            if route != Route::Marked {
                self.slow_down();
            }
            self.bound_log();
        }
        self.bump_for_waiting();
    }

    /// Refuses the request in front if it would destroy the file system's signature.
    fn guard_allows(&mut self) -> bool {
        let (Some(fs), Some((id, request))) = (self.sb.fs, self.guest.parked.front()) else {
            return true;
        };
        let keeps = match request {
            GuestRequest::Write { offset, data, .. } => guard::write_keeps(&fs, *offset, data),
            GuestRequest::Zero { offset, len } => guard::zero_keeps(&fs, *offset, *len),
            GuestRequest::Read { .. } | GuestRequest::Flush => true,
        };
        if !keeps {
            let id = *id;
            self.guest.parked.pop_front();
            self.device.format_blocked += 1;
            self.device.refused.push(id);
        }
        keeps
    }

    fn window_is_full(&self) -> bool {
        self.guest.window_bytes >= self.settings.window_bytes
            || self.guest.window_count >= WINDOW_COUNT
    }

    /// Whether requests of the user should be taken.
    pub(crate) fn takes_requests(&self) -> bool {
        let fits = !self.window_is_full() || self.link.is_ahead();
        fits && self.guest.parked.len() < PARKED_MAX
    }

    /// Whether writes wait for a peer that has held everything and is not in step now.
    pub(crate) fn is_suspended(&self) -> bool {
        self.settings.on_peer_loss == OnPeerLoss::SuspendIo
            && self.settings.has_peer
            && self.sb.role == Role::Primary
            && self.sb.peer_may_have_head
            && !self.link.is_in_order()
            && !self.link.is_completing()
    }

    fn route(&self, offset: u64, len: u64, is_flush: bool) -> Route {
        if self.link.is_in_order() {
            Route::InOrder
        } else if self.link.mirrors(offset, len, is_flush) {
            Route::Mirrored
        } else if self.guest.log_from.is_some() && !self.link.is_joined() {
            Route::Logged
        } else {
            Route::Marked
        }
    }

    /// Whether the peer may hold our head and will not get this write in order: then a new epoch must
    /// be durable first (ruling 3). Starts it.
    fn must_bump(&mut self, route: Route) -> bool {
        if route == Route::InOrder || self.link.is_completing() {
            return self.guest.bumping;
        }
        if self.sb.peer_may_have_head {
            self.start_bump();
        }
        self.guest.bumping
    }

    fn start_bump(&mut self) {
        if !self.guest.bumping {
            let head = Epoch(self.draw_id());
            self.sb.bump(head);
            self.sb.role_epoch = head;
            self.guest.bumping = true;
            self.persist(Then::ResumeWrites);
        }
    }

    pub(crate) fn bump_durable(&mut self, out: &mut Vec<Effect>) {
        self.guest.bumping = false;
        self.complete_ready(out);
    }

    /// Writes that ended locally and were to be completed by the peer's word wait for a bump when the
    /// session is gone. Never under a comparison, and never under a completion, which carries the
    /// head: its adoption completes them.
    fn bump_for_waiting(&mut self) {
        if self.guest.off_session == 0 {
            return;
        }
        let alone = self.guest.writes.values().any(|w| {
            w.guest.is_some()
                && w.local
                && !w.on_session
                && !w.covered
                && !(w.is_flush && self.guest.tail.is_none())
        });
        let still = self.is_suspended()
            || self.link.is_comparing()
            || self.link.awaits_adoption()
            || self.sb.role != Role::Primary
            || !self.sb.superseded_by.is_none();
        if alone && self.sb.peer_may_have_head && !still {
            self.start_bump();
        }
    }

    /// The peer has adopted our head: what was written beside the session was copied.
    pub(crate) fn alone_writes_covered(&mut self, out: &mut Vec<Effect>) {
        for w in self.guest.writes.values_mut() {
            w.covered |= !w.on_session;
        }
        self.complete_ready(out);
    }

    fn start(&mut self, id: GuestId, request: GuestRequest, route: Route, out: &mut Vec<Effect>) {
        let seq = self.guest.place(route);
        let (offset, len, is_flush, fua, payload) = match request {
            GuestRequest::Write { offset, data, fua } => {
                let job = self.job(Job::GuestWrite(seq));
                self.guest.local.insert(job, (offset, data.len() as u64));
                out.push(Effect::WriteData {
                    job,
                    offset,
                    data: data.clone(),
                    fua,
                });
                (
                    offset,
                    data.len() as u64,
                    false,
                    fua,
                    Payload::Data { offset, data },
                )
            }
            GuestRequest::Zero { offset, len } => {
                let job = self.job(Job::GuestWrite(seq));
                self.guest.local.insert(job, (offset, len));
                out.push(Effect::ZeroData { job, offset, len });
                (offset, len, false, false, Payload::Zero { offset, len })
            }
            GuestRequest::Flush | GuestRequest::Read { .. } => {
                let job = self.job(Job::GuestFlush(seq));
                out.push(Effect::FlushData { job });
                (0, 0, true, false, Payload::FlushMark)
            }
        };
        if matches!(route, Route::Marked | Route::Mirrored) && !is_flush {
            self.marks.mark(offset, len);
            self.link.repend(offset, len, route);
        }
        let on_session = matches!(route, Route::InOrder | Route::Mirrored);
        let wire = (route != Route::Marked).then(|| self.wire(seq, fua, payload));
        if let (true, Some(write)) = (on_session, &wire) {
            self.send_write(write.clone(), out);
        }
        let write = InFlight {
            guest: Some(id),
            offset,
            len,
            is_flush,
            fua,
            local: false,
            route,
            on_session,
            covered: false,
            kept: wire.filter(|_| route != Route::Mirrored),
        };
        self.enter(seq, write);
    }

    fn wire(&self, seq: Seq, fua: bool, payload: Payload) -> WireWrite {
        WireWrite {
            seq,
            dep_seq: self.guest.completed_seq,
            dep_flush: self.guest.completed_flush,
            fua,
            resync: false,
            payload,
        }
    }

    fn enter(&mut self, seq: Seq, write: InFlight) {
        if write.is_counted() {
            self.guest.window_bytes += write.len;
            self.guest.window_count += 1;
        }
        if write.kept.is_some() {
            self.guest.log_from.get_or_insert(Seq(seq.0 - 1));
        }
        self.guest.off_session += usize::from(!write.on_session);
        self.guest.writes.insert(seq, write);
    }

    /// A flush of our own at the end of a run: when it is durable at the peer, everything is.
    pub(crate) fn send_drain_mark(&mut self, out: &mut Vec<Effect>) {
        let seq = self.guest.place(Route::InOrder);
        let wire = self.wire(seq, false, Payload::FlushMark);
        self.send_write(wire.clone(), out);
        let write = InFlight {
            guest: None,
            offset: 0,
            len: 0,
            is_flush: true,
            fua: false,
            local: true,
            route: Route::InOrder,
            on_session: true,
            covered: false,
            kept: Some(wire),
        };
        self.enter(seq, write);
    }

    /// How far this side is, for the peer's recovery point.
    pub(crate) fn primary_clock(&self) -> PrimaryClock {
        PrimaryClock {
            wall: self.now.wall,
            last_seq: self.guest.last_seq,
            completed_bytes: self.guest.completed_bytes,
        }
    }

    pub(crate) fn send_write(&mut self, write: WireWrite, out: &mut Vec<Effect>) {
        let frame = Frame::Writes {
            writes: vec![write],
            clock: self.primary_clock(),
        };
        self.send(frame, out);
    }

    /// Whether new writes wait: the two sides compare states, an empty union is being completed, a
    /// demotion drains, the process stops, or the peer holds a descendant of our data.
    fn is_frozen(&self) -> bool {
        self.link.is_comparing()
            || self.link.completes_unannounced()
            // A device that is being formatted is waited for.
            || self.stopping && !self.device.is_changing()
            || !self.sb.superseded_by.is_none()
            || self.is_suspended()
            || self
                .change
                .as_ref()
                .is_some_and(crate::transition::Change::freezes)
            || self.sb.role != Role::Primary
    }
}

fn complete(id: GuestId, completion: Completion) -> Effect {
    Effect::CompleteGuest { id, completion }
}
