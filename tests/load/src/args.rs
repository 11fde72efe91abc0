//! Command line of `drqm-load`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand};

/// Numbered, checksummed messages for NATS JetStream, and the proof that none is lost.
#[derive(Debug, Parser)]
#[command(name = "drqm-load", version)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Put messages and write down each one that the server has confirmed.
    ///
    /// Goes on through the loss of the connection, with the other address; what was not confirmed is sent
    /// again. Ends after --count messages, after --for-seconds, or on SIGTERM, whichever comes first, and
    /// prints {sent, confirmed, reconnects, next} as JSON.
    Put(PutArgs),
    /// Read the whole stream and compare it with what was confirmed.
    ///
    /// Prints {confirmed, found, missing, corrupt, extra, tail_missing} as JSON; exit code 1 if a message
    /// that must be there is missing, or one is corrupt.
    Check(CheckArgs),
}

/// Where the stream is.
#[derive(Debug, ClapArgs)]
pub(crate) struct StreamArgs {
    /// Addresses of the servers as host:port, with commas between them; one of them serves at a time.
    #[arg(
        long = "server",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        required = true
    )]
    pub(crate) servers: Vec<String>,
    /// Name of the stream; its subject is the same.
    #[arg(long, value_name = "NAME")]
    pub(crate) stream: String,
    /// The file of confirmed numbers: one line `NUMBER UNIX_MILLISECONDS` each.
    #[arg(long, value_name = "FILE")]
    pub(crate) log: PathBuf,
    /// How long to go on without any sign of a server.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub(crate) give_up_after: Duration,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PutArgs {
    #[command(flatten)]
    pub(crate) stream: StreamArgs,
    /// How many messages; without it until --for-seconds or SIGTERM.
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// Number of the first message.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) start: u64,
    /// At most so many messages per second.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,
    /// End after so many seconds.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) for_seconds: Option<Duration>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) stream: StreamArgs,
    /// Only what was confirmed before this time must be there (milliseconds since 1970).
    #[arg(long, value_name = "UNIX_MS")]
    pub(crate) confirmed_before: Option<u64>,
    /// What was confirmed at this time or later must be there, too.
    #[arg(long, value_name = "UNIX_MS", requires = "confirmed_before")]
    pub(crate) confirmed_after: Option<u64>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u64>() {
        Ok(0) | Err(_) => Err(format!("`{text}` is not a number of seconds above zero")),
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
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
    fn several_servers_are_one_argument() {
        let args = [
            "drqm-load",
            "put",
            "--server",
            "a:1,b:2",
            "--stream",
            "s",
            "--log",
            "f",
        ];
        match Args::try_parse_from(args)
            .expect("these words are right")
            .command
        {
            Command::Put(put) => assert_eq!(put.stream.servers, ["a:1", "b:2"]),
            Command::Check(check) => panic!("{check:?}"),
        }
    }

    #[test]
    fn zero_seconds_are_refused() {
        assert!(seconds("0").is_err());
        assert!(seconds("soon").is_err());
        assert_eq!(seconds("7"), Ok(Duration::from_secs(7)));
    }
}
