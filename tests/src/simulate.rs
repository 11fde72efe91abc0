//! `cargo simulate`: two engines, two disks that forget, and a bad link live random lives; an oracle
//! looks for broken promises. Or two real processes suffer random faults, which is slower and nearer to the truth.
//!
//! Lives here: the command line. Does not live here: the simulation, which is a test of the engine
//! (`replicator/engine/tests/pair_sim.rs`), the model check, which is one too (`model.rs` beside it), and the rounds,
//! which are one of the replicator (`replicator/tests/pair/campaign`).

mod rules;

use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;

use drqm_lab::packages;

use crate::build::cargo;
use crate::process;
use crate::ui::Ui;

/// What the replicator's tests run: fio, and disks that forget.
pub const PACKAGES: [&str; 3] = ["fio", "nbdkit", "libnbd-bin"];

/// Processes that are killed and stopped, links that fail, pools that are full.
pub const FAULTS: &str = "campaign::random_faults_lose_nothing_that_was_promised";

/// Power cuts on disks that forget what was not flushed.
pub const POWER_CUTS: &str = "campaign::power_cuts_lose_nothing_that_was_flushed";

/// Names the search of the model check that is wanted.
const MODEL_ENV: &str = "DRQM_MODEL";

/// All of them; without a name, the short ones.
const EVERY_SEARCH: &str = "all";

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
    /// Rounds of faults on two replicator processes instead.
    #[arg(long, value_name = "N", conflicts_with_all = ["scenarios", "script"], value_parser = clap::value_parser!(u64).range(1..))]
    pub processes: Option<u64>,
    /// Rounds of power cuts of two replicator processes instead, on disks that forget what was not flushed.
    #[arg(long, value_name = "N", conflicts_with_all = ["scenarios", "script", "processes"], value_parser = clap::value_parser!(u64).range(1..))]
    pub power_cuts: Option<u64>,
    /// Every world within stated bounds instead: the model check, with its long searches.
    #[arg(long, conflicts_with_all = ["scenarios", "seed", "script", "processes", "power_cuts"])]
    pub model: bool,
    /// Safety rules taken out, one at a time: the model check must notice each.
    #[arg(long, conflicts_with_all = ["scenarios", "seed", "script", "processes", "power_cuts", "model"])]
    pub rules: bool,
}

/// Lives them; true if every promise was kept.
///
/// # Errors
/// When cargo cannot run, or the program is interrupted.
pub fn run(args: &Args, ui: &Ui) -> Result<bool> {
    let mut test = if let Some(script) = &args.script {
        let mut test = test("a_life_can_be_lived_again");
        test.env("DRQM_SIM_SCRIPT", script);
        test
    } else if let Some(count) = args.processes {
        packages::ensure_also(&PACKAGES, ui.progress())?;
        rounds(FAULTS, count, args.seed)
    } else if let Some(count) = args.power_cuts {
        packages::ensure_also(&PACKAGES, ui.progress())?;
        rounds(POWER_CUTS, count, args.seed)
    } else if args.rules {
        return rules::run(ui);
    } else if args.model {
        let mut test = model();
        test.env(MODEL_ENV, EVERY_SEARCH);
        test
    } else {
        campaign(args.scenarios, args.seed)
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

/// The model check, which makes the short searches if it is not told more.
fn model() -> Command {
    let target = ["--package", "drqm-engine", "--test", "model"];
    test_of(&target, "no_world_within_the_bounds_breaks_a_promise")
}

/// The command that lets two processes suffer so many rounds of [`FAULTS`] or [`POWER_CUTS`].
#[must_use]
pub fn rounds(name: &str, count: u64, seed: u64) -> Command {
    // As `cargo verify` compiles it.
    let mut test = test_of(&["--workspace", "--test", "pair"], name);
    test.env("DRQM_FAULT_ROUNDS", count.to_string());
    test.env("DRQM_FAULT_SEED", seed.to_string());
    test
}

fn test(name: &str) -> Command {
    test_of(&["--package", "drqm-engine", "--test", "pair_sim"], name)
}

fn test_of(target: &[&str], name: &str) -> Command {
    let mut test = cargo();
    // A broken promise names its place; frames of the runtime would push it out of sight.
    test.env("RUST_BACKTRACE", "0");
    test.args(["test", "--quiet"]).args(target);
    test.args(["--", "--exact", "--nocapture", name]);
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
        assert!(Args::try_parse_from(["simulate", "--model", "--rules"]).is_err());
    }
}
