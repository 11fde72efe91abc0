//! `cargo measure`: numbers of drqm beside those of others, in the same run.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use drqm_lab::interrupt;
use drqm_tests::measure::{self, WriteArgs};
use drqm_tests::ui::Ui;

/// Numbers of drqm beside those of others, measured in the same run and printed as ratios.
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
    Write(WriteArgs),
}

fn main() -> ExitCode {
    let args = Args::parse();
    let ui = Ui::auto();
    let result = interrupt::install().and_then(|()| match args.command {
        Command::Write(write) => measure::write(&write, &ui),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ui.say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
