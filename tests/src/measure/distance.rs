//! `cargo measure distance`: what replication costs when the other site is far away. The same path without
//! distance is in the same run.
//!
//! Lives here: distances, the order of the runs, the table. Does not live here: the path ([`super::delay`]), the
//! programs ([`super::contestant`]).

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use drqm_lab::packages;

use super::contestant::{Contestant, Running};
use super::fio::{self, Run, WORKLOADS, Workload};
use super::{PACKAGES, RunArgs, Scratch, median};
use crate::build;
use crate::ui::Ui;

/// A pair at a distance, and how it is written to.
struct Case {
    mode: Contestant,
    round_trip: Duration,
    workload: Workload,
    runs: Vec<Run>,
}

const fn case(mode: Contestant, millis: u64, workload: Workload) -> Case {
    Case {
        mode,
        round_trip: Duration::from_millis(millis),
        workload,
        runs: Vec::new(),
    }
}

impl Case {
    fn name(&self) -> String {
        let millis = self.round_trip.as_millis();
        format!("{}, {millis} ms, {}", self.mode.name(), self.workload.name)
    }

    fn middle(&self, what: impl Fn(&Run) -> f64) -> f64 {
        median(&self.runs.iter().map(what).collect::<Vec<_>>())
    }
}

fn cases() -> Vec<Case> {
    let [one, many, _] = WORKLOADS;
    let near = [0, 2, 5].map(|millis| case(Contestant::Synchronous, millis, one));
    let far = [0, 50, 200].map(|millis| case(Contestant::Asynchronous, millis, many));
    near.into_iter().chain(far).collect()
}

/// Runs all and prints the table.
///
/// # Errors
/// When a program is missing or fails, or copies differ at the end.
pub fn distance(args: &RunArgs, ui: &Ui) -> Result<()> {
    packages::ensure_also(&PACKAGES, ui.progress())?;
    let replicator = build::measuring_replicator(&args.profile)?;
    let scratch = Scratch::new()?;
    let mut cases = cases();
    let mut running = Vec::new();
    for (n, case) in cases.iter().enumerate() {
        let folder: PathBuf = scratch.0.join(format!("distance-{n}"));
        running.push(
            case.mode
                .start_apart(&replicator, &folder, case.round_trip)?,
        );
    }
    for round in 1..=args.rounds {
        for (case, pair) in cases.iter_mut().zip(&running) {
            let item = format!("round {round} of {}: {}", args.rounds, case.name());
            let item = ui.progress().item(&item);
            case.runs
                .push(fio::run(&pair.socket, case.workload, args.seconds)?);
            item.done();
        }
    }
    running
        .into_iter()
        .try_for_each(Running::stop_and_compare)?;
    ui.print("both copies of every replicated volume are equal");
    ui.print(&render(&cases));
    Ok(())
}

/// Each case beside the one of its kind without distance.
fn render(cases: &[Case]) -> String {
    let near = |case: &Case| {
        cases
            .iter()
            .find(|c| c.mode == case.mode && c.round_trip.is_zero())
            .map_or(f64::NAN, |c| c.middle(|r| r.rate))
    };
    let rows = cases.iter().map(|case| {
        let rate = case.middle(|r| r.rate);
        let p50 = case.middle(|r| r.p50_micros);
        // Only a synchronous write waits for the other side.
        let beyond = match case.mode {
            Contestant::Synchronous => {
                let waited = p50 - case.round_trip.as_secs_f64() * 1e6;
                format!("{waited:.0}")
            }
            Contestant::Asynchronous
            | Contestant::Encrypted
            | Contestant::Alone
            | Contestant::StorageDaemon
            | Contestant::Quorum => String::new(),
        };
        vec![
            case.name(),
            format!("{rate:.0}"),
            format!("{:.2}", rate / near(case)),
            format!("{p50:.0}"),
            beyond,
        ]
    });
    let header = [
        "round trip",
        "writes per second",
        "/ without distance",
        "p50, µs",
        "p50 - round trip, µs",
    ];
    super::table(&header, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_compared_with_itself_without_distance() {
        let mut cases = cases();
        for (n, case) in cases.iter_mut().enumerate() {
            case.runs.push(Run {
                rate: 1000.0 / (n + 1) as f64,
                p50_micros: 5_100.0,
            });
        }
        let text = render(&cases);
        assert!(text.contains("0.33") && text.contains(" 100 "), "{text}");
    }
}
