//! `cargo demo`: the main job.

use std::process::ExitCode;

use clap::Parser;
use drqm_lab::interrupt::{self, Interrupted};
use drqm_tests::demo::options::{Args, Command};
use drqm_tests::demo::{Ending, preparation, run};
use drqm_tests::ui::Ui;

/// What shells report of a program that SIGINT ended.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let args = Args::parse();
    let ui = Ui::auto();
    let ending = interrupt::install().and_then(|()| match args.command {
        Some(Command::Down(contexts)) => {
            preparation::take_down(&contexts, &ui).map(|()| Ending::Held)
        }
        None => run(&args.options, &ui),
    });
    match ending {
        Ok(Ending::Held) => ExitCode::SUCCESS,
        Ok(Ending::Failed) => ExitCode::FAILURE,
        Ok(Ending::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) if error.is::<Interrupted>() => ExitCode::from(INTERRUPTED),
        Err(error) => {
            ui.say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
