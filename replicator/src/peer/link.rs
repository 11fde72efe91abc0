//! One task per volume that owns its connection: dials, weighs accepted connections, keeps at most
//! one session, and tells the driver in order.
//!
//! Guarantee: a session's `Opened` comes before its frames, its `Closed` after them, and `Closed`
//! of one session before `Opened` of the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use drqm_engine::event::LinkFault;
use drqm_engine::frame::{Frame, PeerHello};
use drqm_engine::ids::SessionId;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::connect::dial;
use super::crossing::{Crossing, Known, crossing};
use super::session::{self, Ended, NoHello, Outbound, OwnHello, PeerSaid, Wire};
use super::tls::{PairKeys, Shown};
use super::{LinkSettings, Security};

/// Pause after the first failed round, doubled by each.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// A session that lived shorter than this counts as a failed round: two sides that refuse each other
/// must not spin.
const SHORT_LIVED: Duration = Duration::from_secs(2);

/// A peer that declines this many rounds in a row is not just busy with another connection.
const DECLINED_ROUNDS: u32 = 3;

/// How long a refused inbound connection explains why our own dials fail.
const INBOUND_FAILURE_AGE: Duration = Duration::from_secs(30);

/// Accepted connections that wait for their Hello at once.
const PENDING_ACCEPTS: usize = 4;

/// How long the last session may take to end when the volume stops.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// What the driver is told.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    Opened {
        session: SessionId,
        hello: PeerHello,
        remote: String,
        outbound: Outbound,
    },
    Frame {
        session: SessionId,
        frame: Frame,
    },
    Closed {
        session: SessionId,
        fault: LinkFault,
    },
    DialFailed(LinkFault),
}

/// What the link is told.
#[derive(Debug)]
pub(crate) enum LinkOrder {
    DialNow,
    Close {
        session: SessionId,
        reason: String,
    },
    Settings(LinkSettings),
    /// No more sessions: the volume stops.
    Last,
}

/// What the listener brings.
pub(crate) enum Inbound {
    Stream {
        wire: Box<Wire>,
        /// What its TLS was checked with: by now the pair may have other keys.
        keys: Option<Arc<PairKeys>>,
    },
    /// TLS under this pair's name failed.
    AuthFailed(String),
}

struct Current {
    session: SessionId,
    known: Known,
    since: Instant,
    shown: Shown,
    close: Option<oneshot::Sender<String>>,
}

type Greeted = (Wire, PeerSaid);

/// The task's state.
pub(crate) struct Link {
    own: OwnHello,
    settings: LinkSettings,
    events: mpsc::Sender<LinkEvent>,
    current: Option<Current>,
    sessions: JoinSet<Ended>,
    /// One round over all addresses at most.
    dials: JoinSet<Result<Greeted, NoHello>>,
    accepts: JoinSet<Result<Greeted, NoHello>>,
    /// The dial under way has a connection and waits for Hello.
    greeting: Arc<AtomicBool>,
    backoff: Duration,
    next_dial: Instant,
    declined: u32,
    inbound_failure: Option<(LinkFault, Instant)>,
    last_session: u64,
    /// The session that there is, is the last one.
    stopping: bool,
}

impl Link {
    pub(crate) fn new(
        own: OwnHello,
        settings: LinkSettings,
        events: mpsc::Sender<LinkEvent>,
    ) -> Self {
        Self {
            own,
            settings,
            events,
            current: None,
            sessions: JoinSet::new(),
            dials: JoinSet::new(),
            accepts: JoinSet::new(),
            greeting: Arc::default(),
            backoff: BACKOFF_MIN,
            next_dial: Instant::now(),
            declined: 0,
            inbound_failure: None,
            last_session: 0,
            stopping: false,
        }
    }

    /// Runs until `stop`, then ends the session.
    pub(crate) async fn run(
        mut self,
        mut orders: mpsc::UnboundedReceiver<LinkOrder>,
        mut inbound: mpsc::Receiver<Inbound>,
        stop: CancellationToken,
    ) {
        loop {
            let may_dial = self.may_dial();
            tokio::select! {
                () = stop.cancelled() => break,
                Some(order) = orders.recv() => self.obey(order).await,
                Some(Ok(ended)) = self.sessions.join_next() => self.session_ended(&ended),
                Some(result) = self.dials.join_next() => match result {
                    Ok(Ok((wire, said))) => self.dialled(wire, said).await,
                    Ok(Err(why)) => self.dial_failed(why).await,
                    Err(_) => {}
                },
                Some(result) = self.accepts.join_next() => match result {
                    Ok(Ok((wire, said))) => self.accepted(wire, said).await,
                    Ok(Err(why)) => self.refused(why),
                    Err(_) => {}
                },
                Some(arrival) = inbound.recv() => self.arrived(arrival),
                () = sleep_until(self.next_dial), if may_dial => self.start_round(),
            }
        }
        if let Some(current) = &mut self.current {
            current.ask_to_end("stopping");
        }
        let sessions = &mut self.sessions;
        let _ = timeout(STOP_LIMIT, async {
            while sessions.join_next().await.is_some() {}
        })
        .await;
    }

    fn reachable(&self) -> bool {
        !self.settings.addresses.is_empty() && self.settings.security != Security::None
    }

    fn accepts(&self) -> bool {
        self.settings.has_peer && self.settings.security != Security::None && !self.stopping
    }

    fn may_dial(&self) -> bool {
        !self.stopping && self.current.is_none() && self.dials.is_empty() && self.reachable()
    }

    async fn obey(&mut self, order: LinkOrder) {
        match order {
            LinkOrder::DialNow => {
                // A round under way ends after this order: its outcome is news enough.
                self.next_dial = Instant::now();
                self.backoff = BACKOFF_MIN;
                if !self.reachable() {
                    let text = "no address or no keys of the peer".to_owned();
                    self.tell(LinkEvent::DialFailed(LinkFault::Lost(text)))
                        .await;
                }
            }
            LinkOrder::Last => {
                self.stopping = true;
                self.dials.shutdown().await;
                self.accepts.shutdown().await;
            }
            LinkOrder::Close { session, reason } => {
                if let Some(current) = self.current.as_mut().filter(|c| c.session == session) {
                    current.ask_to_end(&reason);
                }
            }
            LinkOrder::Settings(settings) => {
                if settings != self.settings {
                    let before = std::mem::replace(&mut self.settings, settings);
                    // What was begun under the old settings ends: keys that are taken back let
                    // nobody in, however far a connection has come.
                    self.dials.shutdown().await;
                    self.accepts.shutdown().await;
                    if !self.keeps_session(&before) {
                        self.end_current("the configuration changed").await;
                    }
                    self.next_dial = Instant::now();
                    self.backoff = BACKOFF_MIN;
                }
            }
        }
    }

    /// Whether the session goes on under the present settings: nothing but keys has changed, and the peer
    /// would be let in by what it has shown.
    fn keeps_session(&self, before: &LinkSettings) -> bool {
        let shown = self.current.as_ref().map(|c| c.shown.as_slice());
        let keys = self.settings.security.keys();
        let trusted = keys
            .zip(shown)
            .is_some_and(|(keys, shown)| keys.trusts(shown));
        let same_name = keys.map(|k| &k.name) == before.security.keys().map(|k| &k.name);
        let rest = LinkSettings {
            security: before.security.clone(),
            ..self.settings.clone()
        };
        trusted && same_name && rest == *before
    }

    fn start_round(&mut self) {
        self.greeting.store(false, Ordering::Relaxed);
        let (settings, own) = (self.settings.clone(), self.own.clone());
        let greeting = self.greeting.clone();
        self.dials.spawn(async move {
            let mut worst = NoHello::Declined;
            for address in &settings.addresses {
                let tried = async {
                    let mut wire = dial(address, &settings).await?;
                    greeting.store(true, Ordering::Relaxed);
                    let said = session::greet(&mut wire, &own).await?;
                    Ok((wire, said))
                };
                match tried.await {
                    Ok(greeted) => return Ok(greeted),
                    Err(why) => worst = more_telling(worst, why),
                }
                greeting.store(false, Ordering::Relaxed);
            }
            Err(worst)
        });
    }

    async fn dialled(&mut self, wire: Wire, said: PeerSaid) {
        let new = Known {
            boot: said.boot,
            dialled: true,
        };
        let old = self.current.as_ref().map(|c| c.known);
        match crossing(self.own.node, said.hello.node, old, new) {
            Crossing::Replace => self.open(wire, said, new).await,
            Crossing::KeepOld => {}
        }
    }

    async fn dial_failed(&mut self, why: NoHello) {
        self.greeting.store(false, Ordering::Relaxed);
        let pause = self
            .backoff
            .mul_f64(0.5 + fraction(crate::entropy::random_u64()) / 2.0);
        self.next_dial = Instant::now() + pause;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        if self.current.is_some() {
            return;
        }
        let fault = match why {
            NoHello::Declined => {
                self.declined += 1;
                if self.declined < DECLINED_ROUNDS {
                    // The other connection is on its way: look again soon.
                    self.next_dial = Instant::now() + BACKOFF_MIN;
                    return;
                }
                LinkFault::Lost("the peer declines every connection".to_owned())
            }
            NoHello::Fault(fault) => self.with_inbound_failure(fault),
        };
        tracing::debug!(?fault, "every address of the peer failed");
        self.tell(LinkEvent::DialFailed(fault)).await;
    }

    fn with_inbound_failure(&self, fault: LinkFault) -> LinkFault {
        match (&fault, &self.inbound_failure) {
            (LinkFault::Lost(_), Some((inbound, at))) if at.elapsed() < INBOUND_FAILURE_AGE => {
                inbound.clone()
            }
            (_, _) => fault,
        }
    }

    fn arrived(&mut self, arrival: Inbound) {
        match arrival {
            Inbound::AuthFailed(text) => {
                tracing::warn!(%text, "a connection under this pair's name failed TLS");
                self.inbound_failure = Some((LinkFault::AuthFailed(text), Instant::now()));
            }
            Inbound::Stream { .. } if self.accepts.len() >= PENDING_ACCEPTS || !self.accepts() => {}
            Inbound::Stream { keys, .. } if keys.as_ref() != self.settings.security.keys() => {}
            Inbound::Stream { mut wire, .. } => {
                let own = self.own.clone();
                self.accepts.spawn(async move {
                    match session::listen_hello(&mut wire, &own).await {
                        Ok(said) => Ok((*wire, said)),
                        Err(why) => {
                            tracing::info!(remote = wire.remote, ?why, "connection refused");
                            session::refuse(&wire, &own, &why).await;
                            Err(why)
                        }
                    }
                });
            }
        }
    }

    fn refused(&mut self, why: NoHello) {
        match why {
            NoHello::Fault(LinkFault::Violation(_)) => {
                crate::metrics::METRICS.violations.inc();
            }
            NoHello::Fault(mismatch @ LinkFault::ProtocolMismatch(_)) => {
                self.inbound_failure = Some((mismatch, Instant::now()));
            }
            NoHello::Fault(LinkFault::Lost(_) | LinkFault::AuthFailed(_)) | NoHello::Declined => {}
        }
    }

    async fn accepted(&mut self, wire: Wire, said: PeerSaid) {
        let (own, peer) = (self.own.node, said.hello.node);
        let new = Known {
            boot: said.boot,
            dialled: false,
        };
        let old = self.current.as_ref().map(|c| c.known);
        // Our own connection will win as soon as the peer has answered: no session in between.
        let ours_wins =
            own < peer && !self.dials.is_empty() && self.greeting.load(Ordering::Relaxed);
        if ours_wins || crossing(own, peer, old, new) == Crossing::KeepOld {
            tracing::debug!(
                remote = wire.remote,
                "declined in favour of our own connection"
            );
            session::refuse(&wire, &self.own, &NoHello::Declined).await;
            return;
        }
        session::answer(&wire, &self.own, &said);
        self.dials.shutdown().await;
        self.open(wire, said, new).await;
    }

    async fn open(&mut self, wire: Wire, said: PeerSaid, known: Known) {
        self.end_current("replaced by a newer connection").await;
        self.last_session += 1;
        let session = SessionId(self.last_session);
        self.declined = 0;
        self.inbound_failure = None;
        tracing::info!(
            session = session.0,
            remote = wire.remote,
            dialled = known.dialled,
            "session opened"
        );
        self.tell(LinkEvent::Opened {
            session,
            hello: said.hello,
            remote: wire.remote.clone(),
            outbound: wire.outbound.clone(),
        })
        .await;
        let (close, closing) = oneshot::channel();
        let since = Instant::now();
        self.current = Some(Current {
            session,
            known,
            since,
            shown: wire.shown.clone(),
            close: Some(close),
        });
        self.sessions
            .spawn(session::run(session, wire, self.events.clone(), closing));
    }

    /// Ends the session, if there is one, and waits until the driver has been told.
    async fn end_current(&mut self, reason: &str) {
        if let Some(mut current) = self.current.take() {
            current.ask_to_end(reason);
            while let Some(ended) = self.sessions.join_next().await {
                if ended.is_ok_and(|e| e.session == current.session) {
                    break;
                }
            }
        }
    }

    fn session_ended(&mut self, ended: &Ended) {
        let Some(current) = self.current.take_if(|c| c.session == ended.session) else {
            return;
        };
        let lived = current.since.elapsed();
        tracing::info!(
            session = ended.session.0,
            orderly = ended.orderly,
            ?lived,
            "session ended"
        );
        if lived >= SHORT_LIVED {
            self.backoff = BACKOFF_MIN;
            self.next_dial = Instant::now();
        } else {
            self.next_dial = Instant::now() + self.backoff;
            self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        }
    }

    async fn tell(&self, event: LinkEvent) {
        // The driver is gone only when the volume stops.
        let _ = self.events.send(event).await;
    }
}

impl Current {
    fn ask_to_end(&mut self, reason: &str) {
        if let Some(close) = self.close.take() {
            let _ = close.send(reason.to_owned());
        }
    }
}

fn fraction(random: u64) -> f64 {
    (random >> 11) as f64 / (1_u64 << 53) as f64
}

fn more_telling(a: NoHello, b: NoHello) -> NoHello {
    const fn rank(why: &NoHello) -> u8 {
        match why {
            NoHello::Declined => 0,
            NoHello::Fault(LinkFault::Lost(_)) => 1,
            NoHello::Fault(LinkFault::Violation(_)) => 2,
            NoHello::Fault(LinkFault::ProtocolMismatch(_)) => 3,
            NoHello::Fault(LinkFault::AuthFailed(_)) => 4,
        }
    }
    if rank(&b) >= rank(&a) { b } else { a }
}
