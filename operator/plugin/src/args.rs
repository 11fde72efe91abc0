//! Command line of `kubectl drqm`.
//!
//! Lives here: the clap structs, their help and examples, and the parsers of single values.
//! Does not live here: what a command does (`commands`).

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

const EXAMPLES: &str = "\
Examples:
  # Both sides of a pair in one view
  kubectl drqm status qmdr --peer-context dr2

  # In the layout of rdqmstatus
  kubectl drqm status qmdr -o rdqm

  # What to apply on the other cluster
  kubectl drqm peer-manifest qmdr | kubectl --context dr2 apply -f -

  # Planned switchover from dr1 to dr2
  kubectl drqm demote qmdr --context dr1
  kubectl drqm promote qmdr --context dr2

Exit codes: 0 done, 1 failed, 2 usage, 3 refused, 4 timed out, 5 not found";

/// Watch and switch disaster-recovery pairs of queue managers.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl-drqm",
    bin_name = "kubectl drqm",
    version,
    about,
    after_help = EXAMPLES,
    disable_help_subcommand = true
)]
pub(crate) struct Args {
    /// Which cluster, and as whom.
    #[command(flatten)]
    pub(crate) kube: KubeArgs,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// kubectl's own flags; they may stand anywhere after `kubectl drqm`.
#[derive(Clone, Debug, ClapArgs)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct KubeArgs {
    /// Namespace of the queue manager; the context's namespace if absent.
    #[arg(short, long, global = true, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// Context of the kubeconfig file.
    #[arg(long, global = true, value_name = "CONTEXT")]
    pub(crate) context: Option<String>,
    /// Path of the kubeconfig file; KUBECONFIG and ~/.kube/config if absent.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// How long one request may take (30s, 2m, 1h; a bare number is seconds).
    #[arg(long, global = true, value_name = "DURATION", default_value = "15s", value_parser = parse_duration)]
    pub(crate) request_timeout: Duration,
    /// Namespace of the drqm installation, asked for exact live figures.
    #[arg(
        long,
        global = true,
        value_name = "NAMESPACE",
        env = "DRQM_OPERATOR_NAMESPACE",
        default_value = "drqm-system"
    )]
    pub(crate) operator_namespace: String,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show queue managers: role, state of the replication, what would be lost.
    Status(StatusArgs),
    /// Print what to apply on the other cluster to complete the pair.
    PeerManifest(PeerManifestArgs),
    /// Make this side Primary; its queue manager starts.
    Promote(SwitchArgs),
    /// Make this side Secondary; its queue manager stops.
    Demote(SwitchArgs),
    /// Print a completion script for a shell.
    Completion {
        /// The shell.
        shell: Shell,
    },
    /// Print the plugin's version.
    Version,
    /// Candidates for the word being typed, as kubectl asks for them.
    #[command(name = "__complete", hide = true, disable_help_flag = true)]
    Complete {
        /// The words typed so far; the last one is incomplete.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
}

/// Arguments of `status`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  # All queue managers of the namespace, then of the cluster
  kubectl drqm status
  kubectl drqm status -A -o wide

  # One, with exact live figures; then with the other side beside it
  kubectl drqm status qmdr -n mq
  kubectl drqm status qmdr -n mq --context dr1 --peer-context dr2

  # For scripts
  kubectl drqm status qmdr -o json | jq -r '.items[0].live.outOfSyncBytes'")]
pub(crate) struct StatusArgs {
    /// Name of the DrQueueManager; all of the namespace if absent.
    pub(crate) name: Option<String>,
    /// All namespaces.
    #[arg(short = 'A', long, conflicts_with = "name")]
    pub(crate) all_namespaces: bool,
    /// Context of the other side's cluster, to show both.
    #[arg(long, value_name = "CONTEXT", requires = "name")]
    pub(crate) peer_context: Option<String>,
    /// Namespace of the other side; the same as here if absent.
    #[arg(long, value_name = "NAMESPACE", requires = "peer_context")]
    pub(crate) peer_namespace: Option<String>,
    /// Form of the output.
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub(crate) output: Option<OutputFormat>,
}

/// Form of the output of `status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// More columns, more lines.
    Wide,
    /// The layout and words of rdqmstatus.
    Rdqm,
    /// The objects with their live figures, as JSON.
    Json,
    /// The objects with their live figures, as YAML.
    Yaml,
}

/// Arguments of `peer-manifest`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
The output holds the pair's key: treat it like a Secret.
Waits for the operator, which makes the key and finds this side's address.

Examples:
  kubectl drqm peer-manifest qmdr -n mq --context dr1 | kubectl --context dr2 apply -f -

Exit codes: 0 printed, 1 failed, 4 timed out, 5 not found")]
pub(crate) struct PeerManifestArgs {
    /// Name of the DrQueueManager.
    pub(crate) name: String,
    /// How the other side calls this one; the context's name if absent.
    #[arg(long, value_name = "NAME")]
    pub(crate) local_name: Option<String>,
    /// Namespace on the other cluster; the same as here if absent.
    #[arg(long, value_name = "NAMESPACE")]
    pub(crate) peer_namespace: Option<String>,
    /// How long to wait for what is still being made (90s, 15m, 1h; a bare number is seconds).
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
}

/// Arguments of `promote` and `demote`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  # Ask, and wait until it is done or refused
  kubectl drqm promote qmdr -n mq --context dr2

  # Ask only; look later
  kubectl drqm demote qmdr -n mq --context dr1 --wait=false

Asked again after a refusal, promote asks as a new request, judged on what is true now.
Exit codes: 0 done, 1 failed, 3 refused, 4 timed out (the request stands), 5 not found")]
pub(crate) struct SwitchArgs {
    /// Name of the DrQueueManager.
    pub(crate) name: String,
    /// Wait until the role is taken, refused, or the time has run out.
    #[arg(
        long,
        default_value_t = true,
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        action = clap::ArgAction::Set
    )]
    pub(crate) wait: bool,
    /// How long to wait (90s, 15m, 1h; a bare number is seconds).
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
}

/// Parses a duration as kubectl writes it: `30s`, `1m30s`, `500ms`, or bare seconds. Zero is refused:
/// every request has an end.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let explain = || format!("`{text}` is not a duration above zero such as 30s, 1m30s or 2h");
    let seconds = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let signed: jiff::SignedDuration = text.parse().map_err(|_| explain())?;
            Duration::try_from(signed).map_err(|_| explain())?
        }
    };
    if seconds.is_zero() {
        Err(explain())
    } else {
        Ok(seconds)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn args_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn durations_are_kubectls() {
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("7"), Ok(Duration::from_secs(7)));
        for bad in ["", "0", "0s", "-3s", "soon"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn wait_is_on_unless_it_is_switched_off() {
        let wait = |words: &[&str]| {
            let args =
                Args::try_parse_from(["kubectl-drqm", "promote", "qmdr"].iter().chain(words))
                    .expect("these words are right");
            match args.command {
                Command::Promote(switch) => switch.wait,
                Command::Status(_)
                | Command::PeerManifest(_)
                | Command::Demote(_)
                | Command::Completion { .. }
                | Command::Version
                | Command::Complete { .. } => panic!("not promote"),
            }
        };
        assert!(wait(&[]));
        assert!(wait(&["--wait"]));
        assert!(!wait(&["--wait=false"]));
    }

    #[test]
    fn kubectls_flags_stand_anywhere() {
        for words in [
            &["kubectl-drqm", "-n", "mq", "status", "qmdr"][..],
            &["kubectl-drqm", "status", "qmdr", "-n", "mq"][..],
        ] {
            let args = Args::try_parse_from(words).expect("these words are right");
            assert_eq!(args.kube.namespace.as_deref(), Some("mq"));
        }
    }
}
