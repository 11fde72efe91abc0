//! `cargo measure`: numbers of drqm. This file is `write`, what replication costs, as ratios of one run;
//! [`power_cut`] and [`idle`] measure on clusters.
//!
//! Lives here: the order of the runs and the table. All volumes are on tmpfs, so that the programs are
//! measured and not a disk; every contestant serves an NBD socket, and the same fio writes to each, in
//! turns, since other work on the machine comes and goes. After the runs both copies of each pair are
//! compared: a fast copy that differs is worth nothing.

mod contestant;
mod fio;
pub mod idle;
mod pair;
pub mod power_cut;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args as ClapArgs;
use comfy_table::{CellAlignment, Table, presets};
use drqm_lab::packages;

use crate::build;
use crate::ui::Ui;
use contestant::{Contestant, Running};
use fio::{WORKLOADS, Workload};

/// fio, and qemu-storage-daemon.
const PACKAGES: [&str; 2] = ["fio", "qemu-system-common"];

/// How long and how often.
#[derive(Clone, Debug, ClapArgs)]
pub struct WriteArgs {
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

/// Writes per second of every contestant, by workload; one number per round.
type Results = Vec<(Contestant, Workload, Vec<f64>)>;

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
pub fn write(args: &WriteArgs, ui: &Ui) -> Result<()> {
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

fn measure(args: &WriteArgs, running: &[Running], ui: &Ui) -> Result<Results> {
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
                let rate = fio::run(&one.socket, workload, args.seconds)?;
                let place = results.iter_mut().find(|(contestant, other, _)| {
                    *contestant == one.contestant && other.name == workload.name
                });
                place.expect("made above").2.push(rate);
                item.done();
            }
        }
    }
    Ok(results)
}

fn render(results: &Results) -> String {
    let rate = |contestant: Contestant, workload: &str| {
        let found = results
            .iter()
            .find(|(other, one, _)| *other == contestant && one.name == workload);
        median(&found.expect("every contestant had every workload").2)
    };
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    let mut header = vec!["writes per second".to_owned()];
    header.extend(WORKLOADS.map(|workload| workload.name.to_owned()));
    table.set_header(header);
    for contestant in Contestant::ALL {
        let mut row = vec![contestant.name().to_owned()];
        row.extend(WORKLOADS.map(|workload| format!("{:.0}", rate(contestant, workload.name))));
        table.add_row(row);
    }
    for (above, below) in [
        (Contestant::Asynchronous, Contestant::Alone),
        (Contestant::Synchronous, Contestant::Alone),
        (Contestant::Asynchronous, Contestant::Quorum),
        (Contestant::Synchronous, Contestant::Quorum),
        (Contestant::Quorum, Contestant::StorageDaemon),
    ] {
        let mut row = vec![format!("{} / {}", above.name(), below.name())];
        row.extend(WORKLOADS.map(|workload| {
            format!(
                "{:.2}",
                rate(above, workload.name) / rate(below, workload.name)
            )
        }));
        table.add_row(row);
    }
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
        let rates = |contestant| match contestant {
            Contestant::Synchronous => vec![50.0, 40.0, 9_000.0],
            Contestant::Alone => vec![100.0],
            Contestant::Asynchronous | Contestant::StorageDaemon | Contestant::Quorum => vec![25.0],
        };
        let mut results: Results = Vec::new();
        for contestant in Contestant::ALL {
            results.extend(WORKLOADS.map(|workload| (contestant, workload, rates(contestant))));
        }
        let text = render(&results);
        assert!(text.contains("0.50") && text.contains("2.00"), "{text}");
    }
}
