//! One session: a stream in each direction, Hello first, then frames until one side ends it.
//!
//! Lives here: the outgoing queue with its batching, the Hello exchange, the reading loop. Does not
//! live here: which connection becomes the session ([`super::link`]).
//!
//! The outgoing queue has no bound of its own: the engine's window bounds what it puts there.

use std::time::Duration;

use drqm_engine::event::LinkFault;
use drqm_engine::frame::{Frame, Payload, PeerHello, WireWrite};
use drqm_engine::ids::{NodeId, SessionId};
use drqm_engine::settings::HASHED_MAX;
use drqm_rpc::peer::v1 as pb;
use drqm_rpc::{PEER_PROTOCOL_MAX, PEER_PROTOCOL_MIN};
use futures::Stream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tonic::Streaming;
use tonic::transport::Channel;

use super::codec::{self, bounded, wide, wide_from};
use super::fault_of;
use super::link::LinkEvent;
use super::tls::Shown;

/// How long each side waits for the other's Hello.
const HELLO_LIMIT: Duration = Duration::from_secs(3);

/// How long frames that were sent before an orderly end may take to leave.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// Queued writes are put into one message up to this size, as large as one of a copy.
const BATCH_BYTES: usize = HASHED_MAX as usize;

/// How long what nobody waits for may wait for more to leave with it: each message costs both sides a turn of their
/// loops, and a broker's writes come one by one.
const LINGER: Duration = Duration::from_millis(1);

/// What goes out.
enum Out {
    Hello(pb::Hello),
    Frame { frame: Frame, awaited: bool },
    End,
}

/// The sending end of a session's queue.
#[derive(Clone, Debug)]
pub(crate) struct Outbound(mpsc::UnboundedSender<Out>);

impl Outbound {
    pub(super) fn new(Queue(queue): Queue) -> Self {
        Self(queue)
    }

    /// Queues a frame; one that nobody waits for may leave a moment later. After the session's end it goes nowhere;
    /// the engine is told of the end apart.
    pub(crate) fn send(&self, frame: Frame, awaited: bool) {
        let _ = self.0.send(Out::Frame { frame, awaited });
    }

    fn hello(&self, hello: pb::Hello) {
        let _ = self.0.send(Out::Hello(hello));
    }

    /// Ends the stream after what is queued, and waits until it has left, or for a short while.
    async fn end(&self) {
        let _ = self.0.send(Out::End);
        let _ = timeout(DRAIN_LIMIT, self.0.closed()).await;
    }
}

/// A queue that has no [`Outbound`] yet.
pub(super) struct Queue(mpsc::UnboundedSender<Out>);

impl std::fmt::Debug for Out {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Out")
    }
}

/// A queue and the stream of messages that comes out of it.
pub(super) fn outgoing() -> (Queue, impl Stream<Item = pb::Frame> + Send + 'static) {
    let (queue, items) = mpsc::unbounded_channel();
    let state = Outgoing { items, held: None };
    (
        Queue(queue),
        futures::stream::unfold(state, |mut s| async { s.next().await.map(|f| (f, s)) }),
    )
}

struct Outgoing {
    items: mpsc::UnboundedReceiver<Out>,
    /// Taken from the queue while batching, and not part of the batch.
    held: Option<Out>,
}

impl Outgoing {
    async fn next(&mut self) -> Option<pb::Frame> {
        let item = match self.held.take() {
            Some(item) => item,
            None => self.items.recv().await?,
        };
        match item {
            Out::End => None,
            Out::Hello(hello) => Some(pb::Frame {
                body: Some(pb::frame::Body::Hello(hello)),
            }),
            Out::Frame { frame, awaited } => {
                let batch = self.wait_for_more(Batch::of(frame), awaited).await;
                Some(codec::encode(batch.frame))
            }
        }
    }

    /// Adds what is queued behind a frame and can leave with it; if nobody waits, also what comes in the next moment.
    async fn wait_for_more(&mut self, mut batch: Batch, mut awaited: bool) -> Batch {
        let linger = tokio::time::sleep(LINGER);
        tokio::pin!(linger);
        while batch.room > 0 {
            let next = match self.items.try_recv() {
                Ok(next) => Some(next),
                Err(_) if awaited => None,
                Err(_) => tokio::select! {
                    biased;
                    next = self.items.recv() => next,
                    () = &mut linger => None,
                },
            };
            let Some(next) = next else { break };
            self.held = match next {
                Out::Frame {
                    frame,
                    awaited: urgent,
                } => {
                    let left = batch.add(frame);
                    awaited |= urgent;
                    left.map(|frame| Out::Frame {
                        frame,
                        awaited: urgent,
                    })
                }
                other @ (Out::Hello(_) | Out::End) => Some(other),
            };
            if self.held.is_some() {
                break;
            }
        }
        batch
    }
}

/// Frames that leave as one.
struct Batch {
    frame: Frame,
    /// What may be added, bytes; 0: nothing.
    room: usize,
}

impl Batch {
    fn of(frame: Frame) -> Self {
        let room = if let Frame::Writes { writes, .. } = &frame {
            BATCH_BYTES.saturating_sub(weight(writes))
        } else if let Frame::Ack { .. } = &frame {
            BATCH_BYTES
        } else {
            0
        };
        Self { frame, room }
    }

    /// Adds a frame, or gives it back: writes as far as there is room; of acknowledgements, which are cumulative, the
    /// later one says all.
    fn add(&mut self, later: Frame) -> Option<Frame> {
        match (&mut self.frame, later) {
            (
                Frame::Writes { writes, clock },
                Frame::Writes {
                    writes: more,
                    clock: later,
                },
            ) if weight(&more) <= self.room => {
                self.room -= weight(&more);
                writes.extend(more);
                *clock = later;
                None
            }
            (ack @ Frame::Ack { .. }, later @ Frame::Ack { .. }) => {
                *ack = later;
                None
            }
            (_, later) => Some(later),
        }
    }
}

fn weight(writes: &[WireWrite]) -> usize {
    let weigh = |write: &WireWrite| match &write.payload {
        Payload::Data { data, .. } => data.len(),
        Payload::Zero { .. } | Payload::FlushMark => 0,
    };
    // Around 64 bytes of header on the wire.
    writes.iter().map(|write| 64 + weigh(write)).sum()
}

/// Both directions of a connection, before Hello.
pub(crate) struct Wire {
    pub(super) inbound: Streaming<pb::Frame>,
    pub(super) outbound: Outbound,
    pub(super) remote: String,
    /// What the peer was let in for.
    pub(super) shown: Shown,
    /// Keeps a dialled connection open.
    pub(super) _channel: Option<Channel>,
}

/// What this process says of itself.
#[derive(Clone, Debug)]
pub(crate) struct OwnHello {
    pub(crate) node: NodeId,
    pub(crate) boot: u128,
    pub(crate) site: String,
}

impl OwnHello {
    fn message(&self, nonce: u64) -> pb::Hello {
        pb::Hello {
            protocol_min: PEER_PROTOCOL_MIN,
            protocol_max: PEER_PROTOCOL_MAX,
            node_id: wide(self.node.0),
            boot_id: wide(self.boot),
            nonce,
            software_version: env!("CARGO_PKG_VERSION").to_owned(),
            site_name: self.site.clone(),
        }
    }
}

/// What the peer said of itself.
#[derive(Clone, Debug)]
pub(super) struct PeerSaid {
    pub(super) hello: PeerHello,
    pub(super) boot: u128,
    pub(super) nonce: u64,
}

/// Why there was no Hello.
#[derive(Debug)]
pub(super) enum NoHello {
    /// The peer ended the stream without a word: it has, or is opening, another connection to us.
    Declined,
    Fault(LinkFault),
}

impl From<LinkFault> for NoHello {
    fn from(fault: LinkFault) -> Self {
        Self::Fault(fault)
    }
}

/// Dialler: says Hello and waits for the answer.
pub(super) async fn greet(wire: &mut Wire, own: &OwnHello) -> Result<PeerSaid, NoHello> {
    let nonce = crate::entropy::random_u64();
    wire.outbound.hello(own.message(nonce));
    let said = listen_hello(wire, own).await?;
    if said.nonce == nonce {
        Ok(said)
    } else {
        let text = "the answer belongs to another connection".to_owned();
        Err(LinkFault::Violation(text).into())
    }
}

/// Acceptor: answers a Hello.
pub(super) fn answer(wire: &Wire, own: &OwnHello, said: &PeerSaid) {
    wire.outbound.hello(own.message(said.nonce));
}

/// Acceptor: refuses, saying enough for the dialler to know why.
pub(super) async fn refuse(wire: &Wire, own: &OwnHello, why: &NoHello) {
    if matches!(why, NoHello::Fault(LinkFault::ProtocolMismatch(_))) {
        wire.outbound.hello(own.message(0));
    }
    wire.outbound.end().await;
}

/// Waits for the peer's Hello and checks it.
pub(super) async fn listen_hello(wire: &mut Wire, own: &OwnHello) -> Result<PeerSaid, NoHello> {
    let first = timeout(HELLO_LIMIT, wire.inbound.message())
        .await
        .map_err(|_| LinkFault::Lost(format!("{}: no Hello in {HELLO_LIMIT:?}", wire.remote)))?;
    let first = first.map_err(|status| match is_malformed(&status) {
        true => LinkFault::Violation(status.message().to_owned()),
        false => fault_of(&status),
    });
    let hello = match first? {
        Some(pb::Frame {
            body: Some(pb::frame::Body::Hello(hello)),
        }) => hello,
        Some(_) => {
            return Err(LinkFault::Violation("the first frame is not Hello".to_owned()).into());
        }
        None => return Err(NoHello::Declined),
    };
    if hello.protocol_min > PEER_PROTOCOL_MAX || hello.protocol_max < PEER_PROTOCOL_MIN {
        let (min, max) = (hello.protocol_min, hello.protocol_max);
        let text = format!(
            "the peer speaks protocol {min} to {max}, this side {PEER_PROTOCOL_MIN} to {PEER_PROTOCOL_MAX}"
        );
        return Err(LinkFault::ProtocolMismatch(text).into());
    }
    let said = said_from(hello).map_err(|v| LinkFault::Violation(v.to_string()))?;
    if said.boot == own.boot {
        let text = "the peer's address leads to this replicator itself".to_owned();
        return Err(LinkFault::Violation(text).into());
    }
    Ok(said)
}

fn said_from(hello: pb::Hello) -> Result<PeerSaid, codec::Violation> {
    Ok(PeerSaid {
        boot: wide_from(&hello.boot_id, "boot id")?,
        nonce: hello.nonce,
        hello: PeerHello {
            node: NodeId(wide_from(&hello.node_id, "node id")?),
            version: bounded(hello.software_version, "the version")?,
            site: bounded(hello.site_name, "the site's name")?,
        },
    })
}

/// How a session ended, besides the fault that the driver is told.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) session: SessionId,
    /// The peer ended it on purpose: dial again at once.
    pub(super) orderly: bool,
}

/// Carries frames of one session to the driver until it ends, then reports the end, in this order.
///
/// Assumption: the driver drains its channel, whatever it is doing.
pub(super) async fn run(
    session: SessionId,
    mut wire: Wire,
    events: mpsc::Sender<LinkEvent>,
    mut close: oneshot::Receiver<String>,
) -> Ended {
    let mut bye = None;
    let (fault, orderly) = loop {
        let message = tokio::select! {
            // An order to end that got lost with its sender is an order too.
            reason = &mut close => {
                wire.outbound.end().await;
                break (LinkFault::Lost(reason.unwrap_or_else(|_| "stopping".to_owned())), false);
            }
            message = wire.inbound.message() => message,
        };
        let frame = match message {
            Ok(Some(frame)) => frame,
            Ok(None) => {
                let text = bye
                    .take()
                    .unwrap_or_else(|| "the peer ended the session".to_owned());
                break (LinkFault::Lost(text), true);
            }
            Err(status) if is_malformed(&status) => {
                break (LinkFault::Violation(status.message().to_owned()), false);
            }
            Err(status) => break (fault_of(&status), bye.is_some()),
        };
        match codec::decode(frame) {
            Ok(frame) => {
                if let Frame::Bye { text } = &frame {
                    bye = Some(text.clone());
                }
                if events
                    .send(LinkEvent::Frame { session, frame })
                    .await
                    .is_err()
                {
                    break (LinkFault::Lost("stopping".to_owned()), false);
                }
            }
            Err(violation) => break (LinkFault::Violation(violation.0), false),
        }
    };
    if matches!(fault, LinkFault::Violation(_)) {
        crate::metrics::METRICS.violations.inc();
    }
    drop(wire);
    let _ = events.send(LinkEvent::Closed { session, fault }).await;
    Ended { session, orderly }
}

/// Whether the stream broke because of what was in it.
fn is_malformed(status: &tonic::Status) -> bool {
    match status.code() {
        // What tonic reports for a message that is too large or does not decode.
        tonic::Code::OutOfRange | tonic::Code::Internal | tonic::Code::ResourceExhausted => {
            std::error::Error::source(status).is_none()
        }
        tonic::Code::Ok
        | tonic::Code::Cancelled
        | tonic::Code::Unknown
        | tonic::Code::InvalidArgument
        | tonic::Code::DeadlineExceeded
        | tonic::Code::NotFound
        | tonic::Code::AlreadyExists
        | tonic::Code::PermissionDenied
        | tonic::Code::FailedPrecondition
        | tonic::Code::Aborted
        | tonic::Code::Unimplemented
        | tonic::Code::Unavailable
        | tonic::Code::DataLoss
        | tonic::Code::Unauthenticated => false,
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A session whose frames nobody gets.
    pub(crate) fn nowhere() -> Outbound {
        Outbound::new(outgoing().0)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use drqm_engine::frame::PrimaryClock;
    use drqm_engine::ids::Seq;
    use drqm_engine::time::Wall;
    use futures::StreamExt;

    use super::*;

    fn writes(seq: u64, len: usize) -> Frame {
        let payload = Payload::Data {
            offset: 0,
            data: Bytes::from(vec![1; len]),
        };
        let (dep_seq, dep_flush) = (Seq(0), Seq(0));
        let write = WireWrite {
            seq: Seq(seq),
            dep_seq,
            dep_flush,
            fua: false,
            resync: false,
            payload,
        };
        let clock = PrimaryClock {
            wall: Wall(seq as i64),
            last_seq: Seq(seq),
            completed_bytes: 0,
        };
        Frame::Writes {
            writes: vec![write],
            clock,
        }
    }

    #[tokio::test]
    async fn queued_writes_leave_in_one_message_and_in_order() {
        let (queue, stream) = outgoing();
        let outbound = Outbound::new(queue);
        (1..=3).for_each(|seq| outbound.send(writes(seq, 4096), true));
        outbound.send(Frame::BitmapStored, true);
        outbound.send(writes(4, 4096), true);
        drop(outbound);
        let messages: Vec<_> = stream.map(|m| m.body.unwrap()).collect().await;
        let [
            pb::frame::Body::Writes(first),
            pb::frame::Body::BitmapStored(_),
            pb::frame::Body::Writes(last),
        ] = messages.as_slice()
        else {
            panic!("{messages:?}")
        };
        assert_eq!(
            first.writes.iter().map(|w| w.seq).collect::<Vec<_>>(),
            [1, 2, 3]
        );
        assert_eq!(
            (first.wall_unix_ms, first.last_seq, last.writes.len()),
            (3, 3, 1)
        );
    }

    #[tokio::test]
    async fn of_acknowledgements_in_a_row_the_last_one_leaves() {
        let (queue, stream) = outgoing();
        let outbound = Outbound::new(queue);
        let ack = |applied, durable| Frame::Ack {
            applied: Seq(applied),
            durable: Seq(durable),
        };
        for frame in [ack(1, 0), ack(2, 1), Frame::BitmapStored, ack(3, 1)] {
            outbound.send(frame, true);
        }
        drop(outbound);
        let messages: Vec<_> = stream.map(|m| m.body.unwrap()).collect().await;
        let [
            pb::frame::Body::Ack(first),
            pb::frame::Body::BitmapStored(_),
            pb::frame::Body::Ack(last),
        ] = messages.as_slice()
        else {
            panic!("{messages:?}")
        };
        assert_eq!((first.applied, first.durable), (2, 1));
        assert_eq!((last.applied, last.durable), (3, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_waits_for_leaves_with_what_comes_in_the_next_moment() {
        let (queue, stream) = outgoing();
        let outbound = Outbound::new(queue);
        let mut stream = std::pin::pin!(stream);
        let mut sizes = Vec::new();
        for (awaited, rest) in [
            (false, Duration::ZERO),
            (false, 2 * LINGER),
            (false, Duration::ZERO),
            (true, Duration::ZERO),
        ] {
            outbound.send(writes(1, 4096), awaited);
            let end = tokio::time::Instant::now() + rest;
            while let Ok(Some(message)) = tokio::time::timeout_at(end, stream.next()).await {
                match message.body {
                    Some(pb::frame::Body::Writes(batch)) => sizes.push(batch.writes.len()),
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(sizes, [2, 2]);
    }

    #[tokio::test]
    async fn a_batch_stays_below_its_limit() {
        let (queue, stream) = outgoing();
        let outbound = Outbound::new(queue);
        (1..=5).for_each(|seq| outbound.send(writes(seq, 80 << 10), true));
        drop(outbound);
        let sizes: Vec<_> = stream
            .map(|m| match m.body {
                Some(pb::frame::Body::Writes(batch)) => batch.writes.len(),
                other => panic!("{other:?}"),
            })
            .collect()
            .await;
        assert_eq!(sizes, [2, 2, 1]);
    }
}
