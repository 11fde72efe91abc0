//! The operator's entry: panics, crypto provider, arguments, telemetry, run, exit code. Nothing else.

use std::process::ExitCode;

use clap::Parser;
use drqm_operator::{args::Args, runtime, telemetry};

fn main() -> ExitCode {
    telemetry::end_at_panics();
    // Before anything else: rustls refuses to choose between providers on its own.
    if rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .is_err()
    {
        eprintln!("drqm-operator: a TLS provider was installed before main");
        return ExitCode::FAILURE;
    }
    let args = Args::parse();
    telemetry::install(&args.log);
    match runtime::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %telemetry::chain(&error), "the operator ends");
            ExitCode::FAILURE
        }
    }
}
