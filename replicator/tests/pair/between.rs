//! Somebody between two real replicators, with a certificate of the pair, who does with their frames what a test
//! wants.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use drqm_rpc::peer::v1 as peer;
use futures::Stream;
use peer::replication_client::ReplicationClient;
use peer::replication_server::Replication;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::pki::{Ca, PAIR_NAME};
use crate::stranger::{channel, listen};

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the side that dialled to the one that was meant.
    There,
    /// From that one.
    Back,
}

/// What becomes of a frame.
pub(crate) enum Fate {
    /// These go on instead of it; none: it is withheld.
    Pass(Vec<peer::Frame>),
    /// The connection ends before it.
    End,
    /// Nothing more is read from whoever sent it.
    Stall,
}

/// Told of each frame, in its order; the number counts a session's frames of both ways.
type Rule = Box<dyn FnMut(Way, u64, peer::Frame) -> Fate + Send>;

/// The somebody. Lives as long as the test.
pub(crate) struct Between {
    /// Who dials this port reaches the other side.
    pub(crate) port: u16,
    rule: Arc<Mutex<Rule>>,
}

impl Between {
    /// Lets everything pass.
    pub(crate) async fn new(ca: Arc<Ca>, target: u16) -> Self {
        let rule: Arc<Mutex<Rule>> = Arc::new(Mutex::new(Box::new(|_, _, frame| pass(frame))));
        let service = Service {
            target,
            leaf: ca.leaf(PAIR_NAME),
            rule: rule.clone(),
            ca,
        };
        let port = listen(&service.ca.clone(), service).await;
        Self { port, rule }
    }

    /// From now on.
    pub(crate) fn rule(&self, rule: impl FnMut(Way, u64, peer::Frame) -> Fate + Send + 'static) {
        *self.rule.lock().unwrap() = Box::new(rule);
    }

    /// Everything passes again, in new sessions; those that stand still do so until they end.
    pub(crate) fn let_pass(&self) {
        self.rule(|_, _, frame| pass(frame));
    }
}

/// As it came.
pub(crate) fn pass(frame: peer::Frame) -> Fate {
    Fate::Pass(vec![frame])
}

struct Service {
    target: u16,
    ca: Arc<Ca>,
    leaf: (String, String),
    rule: Arc<Mutex<Rule>>,
}

type Frames = ReceiverStream<Result<peer::Frame, Status>>;

#[tonic::async_trait]
impl Replication for Service {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<peer::Frame, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<peer::Frame>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let lost = |_| Status::unavailable("the other side is away");
        let channel = channel(self.target, &self.leaf, &self.ca).await;
        let mut client = ReplicationClient::new(channel.map_err(lost)?);
        let (there, going) = mpsc::channel(4);
        let (back, coming) = mpsc::channel(4);
        let answers = client.session(ReceiverStream::new(going)).await?;
        let count = Arc::new(Mutex::new(0));
        let end = tokio_util::sync::CancellationToken::new();
        let carry = |way, from, to| {
            let (rule, count, end) = (self.rule.clone(), count.clone(), end.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = carry(way, from, to, rule, count) => end.cancel(),
                    () = end.cancelled() => {}
                }
            });
        };
        carry(Way::There, request.into_inner(), To::Peer(there));
        carry(Way::Back, answers.into_inner(), To::Dialler(back));
        let coming: Frames = ReceiverStream::new(coming);
        Ok(Response::new(Box::pin(coming)))
    }
}

enum To {
    Peer(mpsc::Sender<peer::Frame>),
    Dialler(mpsc::Sender<Result<peer::Frame, Status>>),
}

impl To {
    async fn send(&self, frame: peer::Frame) -> bool {
        match self {
            Self::Peer(to) => to.send(frame).await.is_ok(),
            Self::Dialler(to) => to.send(Ok(frame)).await.is_ok(),
        }
    }
}

/// Until one side ends, or the rule does.
async fn carry(
    way: Way,
    mut from: Streaming<peer::Frame>,
    to: To,
    rule: Arc<Mutex<Rule>>,
    count: Arc<Mutex<u64>>,
) {
    while let Some(Ok(frame)) = from.next().await {
        let number = {
            let mut count = count.lock().unwrap();
            *count += 1;
            *count
        };
        let fate = rule.lock().unwrap()(way, number, frame);
        match fate {
            Fate::Pass(frames) => {
                for frame in frames {
                    if !to.send(frame).await {
                        return;
                    }
                }
            }
            Fate::End => return,
            Fate::Stall => std::future::pending().await,
        }
    }
}
