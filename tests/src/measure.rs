//! `cargo measure`: numbers of drqm. This file is `write`, what replication costs, as ratios of one run; [`distance`] is
//! the same with the other site far away, [`broker`] with a broker on the device, [`resync`] how fast a copy is
//! brought up to date, [`volumes`] what many idle pairs take; [`power_cut`] and [`idle`] measure on clusters.
//!
//! Lives here: the order of the runs and the table. All volumes are on tmpfs, so that the programs are
//! measured and not a disk; every contestant serves an NBD socket, and the same fio writes to each, in
//! turns, since other work on the machine comes and goes. After the runs both copies of each pair are
//! compared: a fast copy that differs is worth nothing.

pub mod broker;
mod contestant;
mod delay;
pub mod distance;
mod fio;
mod halves;
pub mod idle;
mod keys;
mod pair;
pub mod power_cut;
pub mod resync;
pub mod volumes;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args as ClapArgs;
use comfy_table::{CellAlignment, Table, presets};
use drqm_lab::packages;

use crate::build;
use crate::ui::Ui;
use contestant::{Contestant, Running};
use fio::{Run, WORKLOADS, Workload};

/// fio, and qemu-storage-daemon.
const PACKAGES: [&str; 2] = ["fio", "qemu-system-common"];

/// How long and how often.
#[derive(Clone, Debug, ClapArgs)]
pub struct RunArgs {
    /// Seconds of each run, after one to warm up.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
    /// Runs of each kind; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Cargo profile of the replicator.
    #[arg(long, default_value = "release")]
    pub profile: String,
}

/// One run, and what it took of the processor in all processes that served it.
#[derive(Clone, Copy, Debug)]
struct Sample {
    run: Run,
    micros_per_write: f64,
}

/// Every contestant, by workload; one sample per round.
type Results = Vec<(Contestant, Workload, Vec<Sample>)>;

/// A folder on tmpfs that goes at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let folder = Path::new("/dev/shm").join(format!("drqm-measure-{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left is memory of tmpfs; a failure here must not hide another one.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs all and prints the table.
///
/// # Errors
/// When a program is missing or fails, or copies differ at the end.
pub fn write(args: &RunArgs, ui: &Ui) -> Result<()> {
    packages::ensure_also(&PACKAGES, ui.progress())?;
    let replicator = build::measuring_replicator(&args.profile)?;
    let scratch = Scratch::new()?;
    let mut running = Vec::new();
    for contestant in Contestant::ALL {
        running.push(contestant.start(&replicator, &scratch.0)?);
    }
    let results = measure(args, &running, ui)?;
    for one in running {
        one.stop_and_compare()?;
    }
    ui.print("both copies of every replicated volume are equal");
    ui.print(&render(&results));
    Ok(())
}

fn measure(args: &RunArgs, running: &[Running], ui: &Ui) -> Result<Results> {
    let mut results: Results = Vec::new();
    for one in running {
        results.extend(WORKLOADS.map(|workload| (one.contestant, workload, Vec::new())));
    }
    for round in 1..=args.rounds {
        for workload in WORKLOADS {
            for one in running {
                let item = format!(
                    "round {round} of {}: {}, {}",
                    args.rounds,
                    workload.name,
                    one.contestant.name()
                );
                let item = ui.progress().item(&item);
                let sample = sample(one, workload, args.seconds)?;
                let place = results.iter_mut().find(|(contestant, other, _)| {
                    *contestant == one.contestant && other.name == workload.name
                });
                place.expect("made above").2.push(sample);
                item.done();
            }
        }
    }
    Ok(results)
}

fn sample(one: &Running, workload: Workload, seconds: u32) -> Result<Sample> {
    let before = one.processor_time()?;
    let run = fio::run(&one.socket, workload, seconds)?;
    let used = one.processor_time()? - before;
    // The time to warm up wrote as fast.
    let writes = run.rate * f64::from(seconds + fio::WARM_UP);
    Ok(Sample {
        run,
        micros_per_write: used * 1e6 / writes,
    })
}

/// The middle of a contestant's samples.
fn middle(
    results: &Results,
    contestant: Contestant,
    workload: Workload,
    what: fn(&Sample) -> f64,
) -> f64 {
    let found = results
        .iter()
        .find(|(other, one, _)| *other == contestant && one.name == workload.name);
    let samples = &found.expect("every contestant had every workload").2;
    median(&samples.iter().map(what).collect::<Vec<_>>())
}

fn render(results: &Results) -> String {
    let of = |contestant, what: fn(&Sample) -> f64| {
        WORKLOADS.map(|workload| middle(results, contestant, workload, what))
    };
    let mut rows = Vec::new();
    let mut row = |name: String, values: [f64; WORKLOADS.len()], digits: usize| {
        let cells = values.map(|value| format!("{value:.digits$}"));
        rows.push(std::iter::once(name).chain(cells).collect());
    };
    for one in Contestant::ALL {
        row(one.name().to_owned(), of(one, |s| s.run.rate), 0);
    }
    for (above, below) in [
        (Contestant::Asynchronous, Contestant::Alone),
        (Contestant::Synchronous, Contestant::Alone),
        (Contestant::Encrypted, Contestant::Asynchronous),
        (Contestant::Asynchronous, Contestant::Quorum),
        (Contestant::Synchronous, Contestant::Quorum),
        (Contestant::Alone, Contestant::StorageDaemon),
        (Contestant::Quorum, Contestant::StorageDaemon),
    ] {
        let (a, b) = (of(above, |s| s.run.rate), of(below, |s| s.run.rate));
        let ratios = std::array::from_fn(|n| a[n] / b[n]);
        row(format!("{} / {}", above.name(), below.name()), ratios, 2);
    }
    for one in Contestant::ALL {
        let name = format!("{}: p50, µs", one.name());
        row(name, of(one, |s| s.run.p50_micros), 0);
    }
    for one in Contestant::ALL {
        let name = format!("{}: processor, µs per write", one.name());
        row(name, of(one, |s| s.micros_per_write), 0);
    }
    let names = WORKLOADS.map(|workload| workload.name);
    let header: Vec<&str> = std::iter::once("writes per second").chain(names).collect();
    table(&header, rows.into_iter())
}

/// Names to the left, numbers to the right.
fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(header);
    table.add_rows(rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

fn median(rates: &[f64]) -> f64 {
    let mut rates = rates.to_vec();
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_medians() {
        let samples = |rates: &[f64]| -> Vec<Sample> {
            let sample = |rate: &f64| Sample {
                run: Run {
                    rate: *rate,
                    p50_micros: 7.0,
                },
                micros_per_write: 9.0,
            };
            rates.iter().map(sample).collect()
        };
        let rates = |contestant| match contestant {
            Contestant::Synchronous => samples(&[50.0, 40.0, 9_000.0]),
            Contestant::Alone => samples(&[100.0]),
            Contestant::Asynchronous
            | Contestant::Encrypted
            | Contestant::StorageDaemon
            | Contestant::Quorum => samples(&[25.0]),
        };
        let mut results: Results = Vec::new();
        for contestant in Contestant::ALL {
            results.extend(WORKLOADS.map(|workload| (contestant, workload, rates(contestant))));
        }
        let text = render(&results);
        assert!(text.contains("0.50") && text.contains("2.00"), "{text}");
    }
}
