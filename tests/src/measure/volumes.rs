//! `cargo measure volumes`: what many pairs with nothing to do take of memory and processor.
//!
//! Lives here: how it is asked for. The pairs are those of the replicator's own tests
//! (`replicator/tests/pair/many.rs`), with real devices and TLS.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args as ClapArgs;

use crate::ui::Ui;
use crate::{build, process, simulate};

/// To compile, to bring up so many pairs, and to watch them.
const LIMIT: Duration = Duration::from_secs(3600);

/// How many, and for how long.
#[derive(Clone, Debug, ClapArgs)]
pub struct VolumesArgs {
    /// Pairs.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub count: u32,
    /// Seconds that they are watched.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
    /// Cargo profile of the replicator.
    #[arg(long, default_value = "release")]
    pub profile: String,
}

/// Brings them up and prints what both sides take.
///
/// # Errors
/// When a pair does not become Normal, or more is taken than the test allows.
pub fn volumes(args: &VolumesArgs, ui: &Ui) -> Result<()> {
    let replicator = build::measuring_replicator(&args.profile)?;
    let item = format!("{} pairs, watched for {} s", args.count, args.seconds);
    let item = ui.progress().item(&item);
    let mut test = simulate::rounds("many::idle_volumes_take_little", 1, 1);
    test.env("DRQM_REPLICATOR", replicator)
        .env("DRQM_IDLE_VOLUMES", args.count.to_string())
        .env("DRQM_IDLE_SECONDS", args.seconds.to_string());
    let finished = process::run(&mut test, LIMIT)?;
    let said = finished
        .stdout
        .lines()
        .filter(|line| line.contains("% of a core"));
    let said = said.collect::<Vec<_>>().join("\n");
    let is_good = finished.is_success() && !said.is_empty();
    ensure!(is_good, "{said}\n{}", finished.complaint());
    item.done();
    ui.print(&said);
    Ok(())
}
