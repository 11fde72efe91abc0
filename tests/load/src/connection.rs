//! One client with several addresses: which of them serves may change at any time.
//!
//! A server that dies with its host says nothing: pings find out. Addresses that servers tell about
//! (those of pods) are not used.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use async_nats::jetstream::context::{Context as JetStream, ContextBuilder};
use async_nats::{Client, ConnectOptions, Event};
use tokio::sync::watch;

use crate::args::StreamArgs;

/// Two unanswered pings end a connection.
const PING: Duration = Duration::from_secs(1);

/// For connecting to one address, which may be that of a dead host.
const CONNECT: Duration = Duration::from_secs(2);

/// Between attempts, so that a closed port is not hammered.
const RETRY: Duration = Duration::from_millis(100);

/// For one answer of the server. Longer than the loss of a replication link stalls a synchronous write.
pub(crate) const ANSWER: Duration = Duration::from_secs(10);

/// What the client has noticed.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    up: bool,
    losses: u64,
}

/// A client and what it notices about its connection.
pub(crate) struct Connection {
    pub(crate) jetstream: JetStream,
    state: watch::Receiver<State>,
    give_up_after: Duration,
}

impl Connection {
    /// Connects to whichever address answers first.
    pub(crate) async fn open(args: &StreamArgs) -> Result<Self> {
        let (sender, state) = watch::channel(State::default());
        let client = connect(args, sender).await?;
        let jetstream = ContextBuilder::new()
            .timeout(ANSWER)
            .ack_timeout(ANSWER)
            .build(client);
        Ok(Self {
            jetstream,
            state,
            give_up_after: args.give_up_after,
        })
    }

    /// Waits until there is a connection; returns at once while there is one.
    ///
    /// # Errors
    /// When there is none for as long as the command line allows.
    pub(crate) async fn wait_until_up(&self) -> Result<()> {
        let mut state = self.state.clone();
        match tokio::time::timeout(self.give_up_after, state.wait_for(|state| state.up)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => bail!("the client has ended"),
            Err(_) => bail!("no server answered for {} s", self.give_up_after.as_secs()),
        }
    }

    /// How often the connection was lost.
    pub(crate) fn losses(&self) -> u64 {
        self.state.borrow().losses
    }

    /// Returns when the connection has been lost more than `losses` times; never if the client has ended.
    /// What was sent before a loss gets no answer any more.
    ///
    /// Cancel safe: it only looks.
    pub(crate) async fn wait_for_loss_after(&self, losses: u64) {
        let mut state = self.state.clone();
        if state.wait_for(|state| state.losses > losses).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn connect(args: &StreamArgs, state: watch::Sender<State>) -> Result<Client> {
    let state = Arc::new(state);
    let options = || {
        let state = Arc::clone(&state);
        ConnectOptions::new()
            .name("drqm-load")
            .ignore_discovered_servers()
            .ping_interval(PING)
            .connection_timeout(CONNECT)
            .request_timeout(Some(ANSWER))
            .reconnect_delay_callback(|_| RETRY)
            .event_callback(move |event| {
                note(&event, &state);
                std::future::ready(())
            })
    };
    let started = Instant::now();
    let mut retry = tokio::time::interval(RETRY);
    loop {
        retry.tick().await;
        match options().connect(&args.servers).await {
            Ok(client) => return Ok(client),
            Err(error) if started.elapsed() >= args.give_up_after => {
                return Err(error)
                    .with_context(|| format!("no server answers at {}", args.servers.join(", ")));
            }
            Err(_) => {}
        }
    }
}

fn note(event: &Event, state: &watch::Sender<State>) {
    match event {
        Event::Connected => state.send_modify(|state| state.up = true),
        Event::Disconnected => state.send_modify(|state| {
            state.up = false;
            state.losses += 1;
        }),
        Event::Closed => state.send_modify(|state| state.up = false),
        Event::LameDuckMode
        | Event::Draining
        | Event::SlowConsumer(_)
        | Event::ServerError(_)
        | Event::ClientError(_) => {}
    }
}
