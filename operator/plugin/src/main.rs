//! `kubectl-drqm`: the plugin's entry point. Everything else is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    // kube and rustls find the provider here; a second one in the process would make them panic.
    if rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .is_err()
    {
        eprintln!("error: a TLS provider is already installed");
        return ExitCode::FAILURE;
    }
    kubectl_drqm::run(std::env::args_os())
}
