//! `put`: a bounded number of messages under way, each sent until it is confirmed.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, StorageType};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Interval, MissedTickBehavior};

use crate::args::PutArgs;
use crate::connection::{ANSWER, Connection};
use crate::ledger::Ledger;
use crate::message;

/// How many messages may be without confirmation.
const UNDER_WAY: usize = 32;

/// How long the last confirmations may take after the end was asked for.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A server that starts answers with errors for a moment; also the rhythm without `--rate`.
const AGAIN: Duration = Duration::from_millis(100);

/// What `put` did.
#[derive(Debug, Serialize)]
struct Summary {
    /// Different messages.
    sent: u64,
    confirmed: u64,
    reconnects: u64,
    /// The number to go on with.
    next: u64,
}

/// Why no more messages are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// All are sent; each is waited for.
    Complete,
    /// Time is over or a signal came; confirmations are waited for a moment only.
    Asked,
}

pub(crate) async fn run(args: PutArgs) -> Result<ExitCode> {
    let mut ledger = Ledger::append_to(&args.stream.log)?;
    let connection = Connection::open(&args.stream).await?;
    make_stream(&connection, &args).await?;
    let mut summary = Summary {
        sent: 0,
        confirmed: 0,
        reconnects: 0,
        next: args.start,
    };
    let result = put_all(&args, &connection, &mut ledger, &mut summary).await;
    summary.reconnects = connection.losses();
    println!("{}", serde_json::to_string(&summary)?);
    result.map(|()| ExitCode::SUCCESS)
}

async fn put_all(
    args: &PutArgs,
    connection: &Connection,
    ledger: &mut Ledger,
    summary: &mut Summary,
) -> Result<()> {
    let mut terminated = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupted = signal(SignalKind::interrupt()).context("SIGINT")?;
    let mut rhythm = args.rate.map(rhythm);
    let time_is_over = tokio::time::sleep_until(far_or(args.for_seconds));
    tokio::pin!(time_is_over);
    let mut under_way = FuturesUnordered::new();
    let end = loop {
        if args.count.is_some_and(|count| summary.sent >= count) {
            break End::Complete;
        }
        let room = under_way.len() < UNDER_WAY;
        // Signals first: they are rare. A confirmation before a new message: it makes room for one.
        tokio::select! {
            biased;
            _ = terminated.recv() => break End::Asked,
            _ = interrupted.recv() => break End::Asked,
            () = &mut time_is_over => break End::Asked,
            Some(number) = under_way.next() => confirm(ledger, summary, number?)?,
            () = beat(&mut rhythm), if room => {
                under_way.push(put_until_confirmed(connection, &args.stream.stream, summary.next));
                summary.next += 1;
                summary.sent += 1;
            }
        }
    };
    let last_words = match end {
        End::Complete => None,
        End::Asked => Some(LAST_WORDS),
    };
    let limit = tokio::time::sleep_until(far_or(last_words));
    tokio::pin!(limit);
    loop {
        tokio::select! {
            biased;
            number = under_way.next() => match number {
                Some(number) => confirm(ledger, summary, number?)?,
                None => return Ok(()),
            },
            // What is not confirmed is not in the log, so it is not promised to anybody.
            () = &mut limit => return Ok(()),
            _ = terminated.recv() => return Ok(()),
            _ = interrupted.recv() => return Ok(()),
        }
    }
}

fn confirm(ledger: &mut Ledger, summary: &mut Summary, number: u64) -> Result<()> {
    summary.confirmed += 1;
    ledger.confirm(number)
}

/// Sends one message until the server has confirmed it, whichever server that is then. A message that
/// was stored and whose confirmation got lost is sent again and recognized by its id.
async fn put_until_confirmed(connection: &Connection, stream: &str, number: u64) -> Result<u64> {
    let payload = message::encode(number);
    let id = format!("{stream}-{number}");
    let mut again = rhythm_of(AGAIN);
    let started = Instant::now();
    loop {
        again.tick().await;
        connection.wait_until_up().await?;
        let losses = connection.losses();
        let message = PublishMessage::build()
            .payload(payload.clone().into())
            .message_id(&id);
        let answer = async {
            let sent = connection
                .jetstream
                .send_publish(stream.to_owned(), message);
            sent.await?.await
        };
        let answer = tokio::select! {
            answer = answer => answer,
            () = connection.wait_for_loss_after(losses) => continue,
        };
        match answer {
            Ok(confirmation) if confirmation.stream == stream => return Ok(number),
            Ok(other) => bail!("stream {} took a message for {stream}", other.stream),
            Err(error) if started.elapsed() > GIVE_UP => {
                return Err(error).with_context(|| format!("message {number} is not confirmed"));
            }
            Err(_) => {}
        }
    }
}

/// For one message over all attempts: a failover with a person in it takes a while.
const GIVE_UP: Duration = Duration::from_secs(300);

async fn make_stream(connection: &Connection, args: &PutArgs) -> Result<()> {
    let config = Config {
        name: args.stream.stream.clone(),
        subjects: vec![args.stream.stream.clone()],
        storage: StorageType::File,
        ..Config::default()
    };
    let started = Instant::now();
    let mut again = rhythm_of(AGAIN);
    loop {
        again.tick().await;
        // JetStream answers a moment later than the server's port.
        match connection
            .jetstream
            .get_or_create_stream(config.clone())
            .await
        {
            Ok(_) => return Ok(()),
            Err(error) if started.elapsed() > args.stream.give_up_after.max(ANSWER) => {
                return Err(error).with_context(|| format!("stream {}", args.stream.stream));
            }
            Err(_) => {}
        }
    }
}

async fn beat(rhythm: &mut Option<Interval>) {
    if let Some(rhythm) = rhythm {
        rhythm.tick().await;
    }
}

fn rhythm(rate: u32) -> Interval {
    rhythm_of(Duration::from_secs(1) / rate)
}

fn rhythm_of(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// The end of a limit; without one a day, which is never reached.
fn far_or(limit: Option<Duration>) -> tokio::time::Instant {
    tokio::time::Instant::now() + limit.unwrap_or(Duration::from_secs(86_400))
}
