//! `cargo simulate`: random lives of a pair of engines.

use std::process::ExitCode;

use clap::Parser;
use drqm_lab::interrupt;
use drqm_tests::simulate::{Args, run};
use drqm_tests::ui::Ui;

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
