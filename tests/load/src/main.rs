//! `drqm-load`: puts numbered messages into a JetStream stream and checks that every confirmed one is there.
//!
//! A process of its own, so that a test can run it wherever clients are. It knows nothing of drqm.
//!
//! | module | lives here |
//! |---|---|
//! | `args` | the command line |
//! | `connection` | one client with several addresses, and what it notices about its connection |
//! | `message` | a number, padding and a checksum as bytes |
//! | `ledger` | the file of confirmed numbers and their times |
//! | `put`, `check` | the two subcommands |

mod args;
mod check;
mod connection;
mod ledger;
mod message;
mod put;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use args::{Args, Command};

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        match args.command {
            Command::Put(put) => put::run(put).await,
            Command::Check(check) => check::run(check).await,
        }
    })
}
