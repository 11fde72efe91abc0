//! Command line of the operator.
//!
//! Lives here: the clap structs; every flag has an environment name. Does not live here: what the
//! values mean, and the configuration file's content (`config`).

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args as ClapArgs, Parser, ValueEnum};

/// Operator for disaster-recovery pairs of queue managers.
#[derive(Debug, Parser)]
#[command(name = "drqm-operator", version, about)]
pub struct Args {
    /// Configuration file: the installation's namespace and how replicators are deployed.
    #[arg(long, env = "DRQM_CONFIG", default_value = "/etc/drqm/operator.yaml")]
    pub config: PathBuf,

    /// Name of the operator's own pod, shown in Events.
    #[arg(long, env = "POD_NAME", hide = true)]
    pub pod_name: Option<String>,

    /// Serving of health, metrics and live state.
    #[command(flatten)]
    pub admin: AdminArgs,

    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Where health, metrics and live state are served.
#[derive(Debug, ClapArgs)]
pub struct AdminArgs {
    /// Address of /healthz, /readyz, /metrics and /live/NAMESPACE/NAME.
    #[arg(
        long = "admin-listen",
        env = "DRQM_ADMIN_LISTEN",
        default_value = "0.0.0.0:9441"
    )]
    pub listen: SocketAddr,
}

/// How the operator logs.
#[derive(Debug, ClapArgs)]
pub struct LogArgs {
    /// Which events are logged, as in `info,drqm_operator=debug`. The client's own messages are off
    /// by default: each of its errors is logged by the call that failed.
    #[arg(
        long = "log-filter",
        env = "DRQM_LOG",
        default_value = "info,kube_client=off"
    )]
    pub filter: String,

    /// Form of a log line.
    #[arg(long = "log-format", env = "DRQM_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub format: LogFormat,
}

/// Form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For log stores.
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn args_are_consistent() {
        Args::command().debug_assert();
    }
}
