//! `cargo measure`: numbers of drqm.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use drqm_lab::interrupt;
use drqm_tests::measure::broker;
use drqm_tests::measure::distance;
use drqm_tests::measure::idle::{self, IdleArgs};
use drqm_tests::measure::power_cut::{self, PowerCutArgs};
use drqm_tests::measure::resync::{self, ResyncArgs};
use drqm_tests::measure::volumes::{self, VolumesArgs};
use drqm_tests::measure::{self, RunArgs};
use drqm_tests::ui::Ui;

/// Numbers of drqm: beside those of others in the same run, and of pairs on the lab's clusters.
#[derive(Debug, Parser)]
#[command(
    name = "cargo measure",
    bin_name = "cargo measure",
    arg_required_else_help = true
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Writes through NBD sockets: replicated, alone, and qemu-storage-daemon's quorum.
    Write(RunArgs),
    /// The same at distances: a path that takes time lies between the halves.
    Distance(RunArgs),
    /// Messages that a broker on the device confirms: replicated, and alone.
    Broker(RunArgs),
    /// How fast a copy is brought up to date, beside nbdcopy.
    Resync(ResyncArgs),
    /// Many pairs with nothing to do, on two nodes: memory, processor time.
    Volumes(VolumesArgs),
    /// Power cuts of the primary under load: every confirmed message is looked for.
    PowerCut(PowerCutArgs),
    /// A pair with nothing to do: writes to the API, memory, processor time.
    Idle(IdleArgs),
}

fn main() -> ExitCode {
    let args = Args::parse();
    let ui = Ui::auto();
    let result = interrupt::install().and_then(|()| match args.command {
        Command::Write(write) => measure::write(&write, &ui),
        Command::Distance(distance) => distance::distance(&distance, &ui),
        Command::Broker(broker) => broker::broker(&broker, &ui),
        Command::Resync(resync) => resync::resync(&resync, &ui),
        Command::Volumes(many) => volumes::volumes(&many, &ui),
        Command::PowerCut(series) => power_cut::power_cut(&series, &ui),
        Command::Idle(interval) => idle::idle(&interval, &ui),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ui.say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
