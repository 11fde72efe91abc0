//! `cargo verify`: every check of the repository.

use std::process::ExitCode;

use clap::Parser;
use drqm_lab::interrupt;
use drqm_tests::ui::Ui;
use drqm_tests::verify::{Args, run};

fn main() -> ExitCode {
    let args = Args::parse();
    let ui = Ui::auto();
    match interrupt::install().and_then(|()| run(&args, &ui)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            ui.say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
