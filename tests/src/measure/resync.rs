//! `cargo measure resync`: how fast a copy is brought up to date, beside what nbdcopy makes of as many bytes.
//!
//! Three cases: a secondary that was away while everything changed (its bits say so); a Primary that was killed,
//! whose activity log names everything, though both copies are equal; nbdcopy from one server to another.
//!
//! Lives here: the order of the runs, the table. How long a copy took is read in the Primary's log.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args as ClapArgs;
use drqm_lab::packages;
use jiff::Timestamp;

use super::contestant::served;
use super::halves::{self, Halves, Outlet};
use super::{Scratch, fio, median};
use crate::build;
use crate::process::{self, Background};
use crate::ui::Ui;
use crate::wait::{Look, wait_until};

/// fio; nbdkit, nbdcopy.
const PACKAGES: [&str; 3] = ["fio", "nbdkit", "libnbd-bin"];

/// Bytes of the volume.
const SIZE: u64 = 1 << 30;

/// For one copy.
const COPY: Duration = Duration::from_secs(120);

/// What the Primary's log shows of its states.
const LOG: &str = "drqm_replicator::driver=info";

/// How nbdcopy is told to copy; the best of these counts.
const NBDCOPY: [&[&str]; 3] = [
    &[],
    &["--requests=64"],
    &["--connections=4", "--requests=64"],
];

/// How often.
#[derive(Clone, Debug, ClapArgs)]
pub struct ResyncArgs {
    /// Copies of each kind; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Cargo profile of the replicator.
    #[arg(long, default_value = "release")]
    pub profile: String,
}

/// MiB per second, one of each round.
#[derive(Default)]
struct Rates {
    bitmap: Vec<f64>,
    hashes: Vec<f64>,
    nbdcopy: Vec<f64>,
}

/// Runs all and prints the table.
///
/// # Errors
/// When a program is missing or fails, or copies differ at the end.
pub fn resync(args: &ResyncArgs, ui: &Ui) -> Result<()> {
    packages::ensure_also(&PACKAGES, ui.progress())?;
    let replicator = build::measuring_replicator(&args.profile)?;
    let scratch = Scratch::new()?;
    let mut pair = Pair::start(&replicator, &scratch.0)?;
    let mut rates = Rates::default();
    for round in 1..=args.rounds {
        let item = format!("round {round} of {}", args.rounds);
        let item = ui.progress().item(&item);
        rates.bitmap.push(pair.changed_while_away()?);
        rates.hashes.push(pair.killed_while_equal()?);
        rates.nbdcopy.push(nbdcopy(&pair.copies[0], &scratch.0)?);
        item.done();
    }
    pair.stop_and_compare()?;
    ui.print("both copies are equal");
    ui.print(&render(&rates));
    Ok(())
}

/// A Primary that logs its states, and a secondary that comes and goes.
struct Pair {
    folder: PathBuf,
    copies: [PathBuf; 2],
    socket: PathBuf,
    commands: [Command; 2],
    /// The Primary, and the secondary.
    halves: [Option<Background>; 2],
}

impl Pair {
    fn start(replicator: &Path, folder: &Path) -> Result<Self> {
        let socket = folder.join("nbd");
        let halves = Halves {
            replicator,
            folder,
            size: SIZE,
        };
        let flags = ["--plaintext".into()];
        let [mut primary, secondary] = halves.pair(Outlet::Socket(&socket), &flags, None)?;
        primary.args(["--log", LOG]);
        let mut pair = Self {
            commands: [into_file(&primary, &folder.join("log")), secondary],
            folder: folder.to_owned(),
            copies: halves.copies(),
            socket,
            halves: [None, None],
        };
        pair.begin(1)?;
        pair.begin(0)?;
        Ok(pair)
    }

    fn begin(&mut self, n: usize) -> Result<()> {
        let started = Background::start(&mut self.commands[n], None)?;
        let running = self.halves[n].insert(started);
        if n == 0 {
            served("the pair", &self.socket, std::slice::from_mut(running))?;
        }
        Ok(())
    }

    fn end(&mut self, n: usize, how: fn(&Background)) -> Result<()> {
        let mut half = self.halves[n].take().context("it runs")?;
        how(&half);
        ensure!(half.wait(COPY)?.is_some(), "a half does not end");
        Ok(())
    }

    /// Everything is written while the secondary is away.
    fn changed_while_away(&mut self) -> Result<f64> {
        self.end(1, Background::terminate)?;
        fio::fill(&self.socket, SIZE)?;
        let since = self.log()?.len();
        self.begin(1)?;
        self.copied(since)
    }

    /// Everything is written, the copies are equal, and the Primary is killed.
    fn killed_while_equal(&mut self) -> Result<f64> {
        fio::fill(&self.socket, SIZE)?;
        wait_until("the copies are equal", COPY, || {
            Ok(match halves::difference(&self.copies)? {
                None => Look::Holds(()),
                Some(difference) => Look::NotYet(difference),
            })
        })?;
        let since = self.log()?.len();
        self.end(0, Background::kill)?;
        self.begin(0)?;
        self.copied(since)
    }

    fn log(&self) -> Result<String> {
        let path = self.folder.join("log");
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    /// Waits for the end of the copy that begins after so many bytes of the log; MiB per second.
    fn copied(&self, since: usize) -> Result<f64> {
        let took = wait_until("the copy is up to date", COPY, || {
            let log = self.log()?;
            let new = log.get(since..).unwrap_or_default();
            Ok(match length_of_copy(new) {
                Some(took) => Look::Holds(took),
                None => Look::NotYet(new.lines().last().unwrap_or_default().to_owned()),
            })
        })?;
        Ok(rate(took))
    }

    fn stop_and_compare(mut self) -> Result<()> {
        self.end(0, Background::terminate)?;
        self.end(1, Background::terminate)?;
        halves::compare("the pair", Some(&self.copies))
    }
}

/// The command with its standard error at the end of a file.
fn into_file(command: &Command, file: &Path) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", "log=$1; shift; exec \"$@\" 2>>\"$log\"", "sh"]);
    shell.arg(file).arg(command.get_program());
    shell.args(command.get_args());
    shell
}

/// From the first line that says that the Primary is the source of a copy to the next that says that it is not.
fn length_of_copy(log: &str) -> Option<Duration> {
    let mut lines = log.lines().filter(|line| line.contains("state="));
    let begun = moment(lines.find(|line| line.contains("Primary SyncSource"))?)?;
    let ended = moment(lines.find(|line| line.contains("Primary UpToDate"))?)?;
    Duration::try_from(ended.duration_since(begun)).ok()
}

fn moment(line: &str) -> Option<Timestamp> {
    line.split_whitespace().next()?.parse().ok()
}

/// The best of nbdcopy, MiB per second.
fn nbdcopy(from: &Path, scratch: &Path) -> Result<f64> {
    let mut best = Duration::MAX;
    for options in NBDCOPY {
        let to = scratch.join("nbdcopy");
        fs::File::create(&to)?.set_len(SIZE)?;
        let (source, target) = (scratch.join("source"), scratch.join("target"));
        let mut servers = Vec::new();
        for (socket, file) in [(&source, from), (&target, to.as_path())] {
            let mut nbdkit = Command::new("nbdkit");
            nbdkit.args(["--foreground", "--unix"]).arg(socket);
            nbdkit.arg("file").arg(file);
            let mut server = [Background::start(&mut nbdkit, None)?];
            served("nbdkit", socket, &mut server)?;
            servers.extend(server);
        }
        let uri = |socket: &Path| format!("nbd+unix:///?socket={}", socket.display());
        let begun = Instant::now();
        process::output(
            Command::new("nbdcopy")
                .args(options)
                .args([uri(&source), uri(&target)]),
            COPY,
        )?;
        best = best.min(begun.elapsed());
        drop(servers);
        for file in [&to, &source, &target] {
            fs::remove_file(file).with_context(|| file.display().to_string())?;
        }
    }
    Ok(rate(best))
}

fn rate(took: Duration) -> f64 {
    (SIZE >> 20) as f64 / took.as_secs_f64()
}

fn render(rates: &Rates) -> String {
    let best = median(&rates.nbdcopy);
    let rows = [
        (
            "everything changed while the secondary was away",
            &rates.bitmap,
        ),
        ("a killed Primary, equal copies", &rates.hashes),
        ("nbdcopy", &rates.nbdcopy),
    ];
    let rows = rows.map(|(name, rates)| {
        let rate = median(rates);
        let all = rates.iter().map(|r| format!("{r:.0}"));
        vec![
            name.to_owned(),
            format!("{rate:.0}"),
            format!("{:.2}", rate / best),
            all.collect::<Vec<_>>().join(" "),
        ]
    });
    let header = ["copy of 1 GiB", "MiB/s", "/ nbdcopy", "each"];
    super::table(&header, rows.into_iter())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_lasts_from_its_first_line_to_the_next_state() {
        let line = |second: &str, state: &str| {
            format!(
                "2026-01-01T00:00:{second}Z  INFO drqm: volume=v state=\"{state}\" error=\"\"\n"
            )
        };
        let before = line("01.0", "Primary UpToDate gate Open");
        let begun = line("02.5", "Primary SyncSource gate Open");
        let ended = line("03.25", "Primary UpToDate gate Open");
        assert_eq!(length_of_copy(&(before.clone() + &begun)), None);
        assert_eq!(length_of_copy(&(begun.clone() + &before)), None);
        let took = length_of_copy(&(before + &begun + &ended));
        assert_eq!(took, Some(Duration::from_millis(750)));
    }
}
