//! Messages put and found again, by `drqm-load`.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::process::Finished;
use crate::repository;
use crate::wait::{Look, wait_until};

/// The stream of the demonstration.
const STREAM: &str = "orders";

/// Everything that was put into a stream so far.
#[derive(Debug)]
pub struct Load {
    servers: String,
    stream: String,
    ledger: PathBuf,
    next: u64,
    window: Option<Window>,
}

/// Times between which a confirmed message may be missing: after the recovery point that an asynchronous
/// copy states, and before the other side served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// What was confirmed before must be there.
    pub from: u64,
    /// What was confirmed from here on must be there.
    pub until: u64,
}

/// What `put` says at its end.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Put {
    /// Messages that the broker has confirmed.
    pub confirmed: u64,
    /// How often the connection was lost.
    pub reconnects: u64,
    next: u64,
}

/// What `check` says.
#[derive(Clone, Debug, Deserialize)]
pub struct Found {
    /// Messages that were ever confirmed.
    pub confirmed: u64,
    /// Confirmed ones that are there.
    pub found: u64,
    /// The first ones that are missing and must not be.
    pub missing: Vec<u64>,
    /// How many of these.
    pub missing_count: u64,
    /// Messages that are not what was sent.
    pub corrupt: u64,
    /// Missing ones that were confirmed between recovery point and promotion.
    pub tail_missing: u64,
}

impl Load {
    /// Nothing yet; clients know both addresses. The file of confirmed messages is named from the root of
    /// the checkout.
    #[must_use]
    pub fn new(servers: String, ledger: PathBuf) -> Self {
        Self {
            servers,
            stream: STREAM.to_owned(),
            ledger,
            next: 0,
            window: None,
        }
    }

    /// Leaves what was put so far and begins another stream, from its first message.
    ///
    /// # Errors
    /// When what an earlier run noted of a stream of this name cannot be removed.
    pub fn begin_stream(&mut self, name: &str) -> Result<()> {
        let ledger = self.ledger.with_file_name(format!("confirmed-{name}.log"));
        let path = repository::root().join(&ledger);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| path.display().to_string());
            }
            Ok(()) | Err(_) => {}
        }
        *self = Self {
            stream: name.to_owned(),
            ..Self::new(self.servers.clone(), ledger)
        };
        Ok(())
    }

    /// The command that puts messages, beginning with the next number.
    #[must_use]
    pub fn put_line(&self, limits: &str) -> String {
        format!(
            "drqm-load put {} --start {} {limits}",
            self.place(),
            self.next
        )
    }

    /// The command that checks all of them.
    #[must_use]
    pub fn check_line(&self) -> String {
        let window = self.window.map_or_else(String::new, |window| {
            format!(
                " --confirmed-before {} --confirmed-after {}",
                window.from, window.until
            )
        });
        format!("drqm-load check {}{window}", self.place())
    }

    fn place(&self) -> String {
        format!(
            "--server {} --stream {} --log {}",
            self.servers,
            self.stream,
            self.ledger.display()
        )
    }

    /// Takes what a put said; the next one goes on from there.
    ///
    /// # Errors
    /// When it failed.
    pub fn took(&mut self, finished: &Finished) -> Result<Put> {
        let put: Put = report(finished)?;
        ensure!(
            finished.is_success(),
            "drqm-load put: {}",
            finished.complaint()
        );
        self.next = put.next;
        Ok(put)
    }

    /// From now on, messages confirmed in between may be missing.
    pub fn forgive(&mut self, window: Window) {
        self.window = Some(window);
    }

    /// Confirmed messages so far, also of a put that still runs.
    #[must_use]
    pub fn confirmed(&self) -> usize {
        // Before the first confirmation there is no file.
        fs::read_to_string(repository::root().join(&self.ledger))
            .map_or(0, |text| text.lines().count())
    }

    /// Waits until so many messages are confirmed.
    ///
    /// # Errors
    /// See [`wait_until`].
    pub fn wait_until_confirmed(&self, count: usize, deadline: Duration) -> Result<()> {
        wait_until(&format!("{count} confirmed messages"), deadline, || {
            let confirmed = self.confirmed();
            Ok(if confirmed >= count {
                Look::Holds(())
            } else {
                Look::NotYet(format!("{confirmed} confirmed"))
            })
        })
    }
}

/// What a check found, which must be everything.
///
/// # Errors
/// When a message is missing that must be there, or one is corrupt.
pub fn intact(finished: &Finished) -> Result<Found> {
    let found: Found = report(finished)?;
    ensure!(
        found.missing_count == 0,
        "{} confirmed messages are missing, the first: {:?}",
        found.missing_count,
        found.missing
    );
    ensure!(
        found.corrupt == 0,
        "{} messages are not what was sent",
        found.corrupt
    );
    ensure!(
        finished.is_success(),
        "drqm-load check: {}",
        finished.complaint()
    );
    Ok(found)
}

fn report<T: for<'a> Deserialize<'a>>(finished: &Finished) -> Result<T> {
    let line = finished.stdout.lines().next_back().unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("drqm-load: {}", finished.complaint()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_part_of_the_check() {
        let mut load = Load::new("a:1,b:2".into(), "l".into());
        assert!(!load.check_line().contains("confirmed"));
        load.forgive(Window { from: 5, until: 9 });
        assert!(
            load.check_line()
                .ends_with(" --confirmed-before 5 --confirmed-after 9")
        );
        assert!(
            load.put_line("--count 3")
                .starts_with("drqm-load put --server a:1,b:2 ")
        );
    }
}
