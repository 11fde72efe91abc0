//! `check`: what is in the stream, against what was confirmed. Every number counts, not how many.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::stream::Stream;
use futures::StreamExt;
use serde::Serialize;

use crate::args::{CheckArgs, StreamArgs};
use crate::connection::{ANSWER, Connection};
use crate::ledger;
use crate::message;

/// How many numbers of a kind are named.
const NAMED: usize = 20;

/// What is in the stream.
#[derive(Debug, Default)]
struct Content {
    numbers: BTreeSet<u64>,
    /// Messages that are not what was sent.
    corrupt: u64,
}

/// What `check` found.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Report {
    /// Numbers that were confirmed, at any time.
    confirmed: usize,
    /// Confirmed numbers that are there.
    found: usize,
    /// Numbers that must be there and are not; the first ones.
    missing: Vec<u64>,
    missing_count: usize,
    corrupt: u64,
    /// Numbers that are there without a confirmation that arrived.
    extra: usize,
    /// Numbers that are not there, and need not be by the times that were given.
    tail_missing: usize,
}

/// Which confirmations count.
#[derive(Clone, Copy, Debug)]
struct Window {
    before: Option<u64>,
    after: Option<u64>,
}

impl Window {
    fn counts(self, time: u64) -> bool {
        self.before.is_none_or(|before| time < before)
            || self.after.is_some_and(|after| time >= after)
    }
}

pub(crate) async fn run(args: CheckArgs) -> Result<ExitCode> {
    let confirmed = ledger::read(&args.stream.log)?;
    let connection = Connection::open(&args.stream).await?;
    let content = read_all(&connection, &args.stream).await?;
    let window = Window {
        before: args.confirmed_before,
        after: args.confirmed_after,
    };
    let report = compare(&confirmed, &content, window);
    println!("{}", serde_json::to_string(&report)?);
    let intact = report.missing_count == 0 && report.corrupt == 0;
    Ok(if intact {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn compare(confirmed: &BTreeMap<u64, u64>, content: &Content, window: Window) -> Report {
    let lost = || {
        confirmed
            .iter()
            .filter(|(number, _)| !content.numbers.contains(number))
    };
    let missing: Vec<u64> = lost()
        .filter(|(_, time)| window.counts(**time))
        .map(|(number, _)| *number)
        .collect();
    let all_lost = lost().count();
    Report {
        confirmed: confirmed.len(),
        found: confirmed.len() - all_lost,
        missing_count: missing.len(),
        tail_missing: all_lost - missing.len(),
        missing: missing.into_iter().take(NAMED).collect(),
        corrupt: content.corrupt,
        extra: content
            .numbers
            .iter()
            .filter(|number| !confirmed.contains_key(number))
            .count(),
    }
}

async fn read_all(connection: &Connection, args: &StreamArgs) -> Result<Content> {
    let mut stream = find(connection, args).await?;
    let state = stream
        .info()
        .await
        .context("the stream's state")?
        .state
        .clone();
    let mut content = Content::default();
    if state.messages == 0 {
        return Ok(content);
    }
    let consumer = stream
        .create_consumer(pull::Config {
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::None,
            // Somebody who reads a copy for a test shall leave nothing in it.
            memory_storage: true,
            ..pull::Config::default()
        })
        .await
        .context("a consumer")?;
    let mut messages = consumer.messages().await.context("the stream's messages")?;
    loop {
        let message = match tokio::time::timeout(ANSWER, messages.next()).await {
            Ok(Some(message)) => message.context("a message of the stream")?,
            Ok(None) => bail!("the server ended the reading"),
            Err(_) => bail!(
                "the server sent nothing for {} s, {} messages before the end of the stream",
                ANSWER.as_secs(),
                state.messages.saturating_sub(content.numbers.len() as u64)
            ),
        };
        match message::decode(&message.payload) {
            Some(number) => drop(content.numbers.insert(number)),
            None => content.corrupt += 1,
        }
        let position = message
            .info()
            .map_err(|error| anyhow::anyhow!("a message without its position: {error}"))?;
        if position.stream_sequence >= state.last_sequence {
            return Ok(content);
        }
    }
}

async fn find(connection: &Connection, args: &StreamArgs) -> Result<Stream> {
    let started = Instant::now();
    let mut again = tokio::time::interval(std::time::Duration::from_millis(100));
    loop {
        again.tick().await;
        match connection.jetstream.get_stream(&args.stream).await {
            Ok(stream) => return Ok(stream),
            // JetStream answers a moment later than the server's port.
            Err(error) if started.elapsed() > ANSWER => {
                return Err(error).with_context(|| format!("stream {}", args.stream));
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYTHING: Window = Window {
        before: None,
        after: None,
    };

    fn content(numbers: impl IntoIterator<Item = u64>) -> Content {
        Content {
            numbers: numbers.into_iter().collect(),
            corrupt: 0,
        }
    }

    #[test]
    fn all_that_was_confirmed_must_be_there() {
        let confirmed = BTreeMap::from([(1, 10), (2, 20), (3, 30)]);
        let report = compare(&confirmed, &content([1, 3, 4]), EVERYTHING);
        assert_eq!((report.confirmed, report.found, report.extra), (3, 2, 1));
        assert_eq!((report.missing, report.tail_missing), (vec![2], 0));
    }

    #[test]
    fn a_gap_is_not_hidden_by_as_many_others() {
        let confirmed = BTreeMap::from([(1, 10), (2, 20)]);
        assert_eq!(
            compare(&confirmed, &content([1, 9]), EVERYTHING).missing,
            [2]
        );
    }

    #[test]
    fn between_the_recovery_point_and_the_promotion_numbers_may_be_missing() {
        let confirmed = BTreeMap::from([(1, 10), (2, 20), (3, 30)]);
        let window = Window {
            before: Some(20),
            after: Some(30),
        };
        let report = compare(&confirmed, &content([1, 3]), window);
        assert_eq!((report.missing_count, report.tail_missing), (0, 1));
        let report = compare(&confirmed, &content([]), window);
        assert_eq!((report.missing, report.tail_missing), (vec![1, 3], 1));
    }

    #[test]
    fn only_the_first_missing_numbers_are_named() {
        let confirmed: BTreeMap<u64, u64> = (0..100).map(|number| (number, 0)).collect();
        let report = compare(&confirmed, &content([]), EVERYTHING);
        assert_eq!((report.missing.len(), report.missing_count), (NAMED, 100));
    }
}
