//! `cargo simulate`: two engines, two disks that forget, and a bad link live random lives; an oracle
//! looks for broken promises.
//!
//! Lives here: the command line. Does not live here: the simulation, which is a test of the engine
//! (`replicator/engine/tests/pair_sim.rs`).

use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;

use crate::build::cargo;
use crate::process;
use crate::ui::Ui;

/// A campaign of a million lives takes hours.
const CAMPAIGN: Duration = Duration::from_secs(48 * 3_600);

/// Random lives of a pair of engines; exit code 0 only if none broke a promise.
#[derive(Debug, Parser)]
#[command(name = "cargo simulate", bin_name = "cargo simulate")]
pub struct Args {
    /// How many lives.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub scenarios: u64,
    /// The number of the first one: equal numbers give equal lives.
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// Show one life with its trace, as a failure names it.
    #[arg(long, value_name = "SCRIPT", conflicts_with_all = ["scenarios", "seed"])]
    pub script: Option<String>,
}

/// Lives them; true if every promise was kept.
///
/// # Errors
/// When cargo cannot run, or the program is interrupted.
pub fn run(args: &Args, ui: &Ui) -> Result<bool> {
    let mut test = match &args.script {
        Some(script) => {
            let mut test = test("a_life_can_be_lived_again");
            test.env("DRQM_SIM_SCRIPT", script);
            test
        }
        None => campaign(args.scenarios, args.seed),
    };
    Ok(process::run_shown(&mut test, CAMPAIGN, ui)?.is_success())
}

/// The command that lives so many lives.
#[must_use]
pub fn campaign(scenarios: u64, seed: u64) -> Command {
    let mut test = test("random_lives_keep_every_promise");
    test.env("DRQM_SIM_SCENARIOS", scenarios.to_string());
    test.env("DRQM_SIM_SEED", seed.to_string());
    test
}

fn test(name: &str) -> Command {
    let mut test = cargo();
    // A broken promise names its place; frames of the runtime would push it out of sight.
    test.env("RUST_BACKTRACE", "0");
    test.args(["test", "--quiet", "--package", "drqm-engine", "--test"]);
    test.args(["pair_sim", "--", "--exact", "--nocapture", name]);
    test
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn args_are_consistent() {
        Args::command().debug_assert();
        assert!(Args::try_parse_from(["simulate", "--scenarios", "0"]).is_err());
        assert!(Args::try_parse_from(["simulate", "--script", "1,2", "--seed", "3"]).is_err());
    }
}
