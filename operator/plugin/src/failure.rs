//! Why a command did not do what was asked, and the exit code that says so.
//!
//! Lives here: the exit codes (a contract with scripts) and the words for the API server's errors.
//! Does not live here: printing (`output`).

use std::time::Duration;

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Anything that has no code of its own.
    Failed(anyhow::Error),
    /// The operator judged the request and refused it.
    Refused {
        /// Reason, a stable word.
        reason: String,
        /// What happened and what to do.
        message: String,
    },
    /// Not done in the time given.
    TimedOut {
        /// The time given.
        after: Duration,
        /// What holds now, and the last thing heard.
        last: String,
    },
    /// No such object.
    NotFound(String),
}

impl Failure {
    /// The process' exit code. 0 is for success alone, 2 for usage: clap leaves with it.
    #[must_use]
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Refused { .. } => 3,
            Self::TimedOut { .. } => 4,
            Self::NotFound(_) => 5,
        }
    }

    /// The line for stderr.
    #[must_use]
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Failed(error) => format!("error: {}", sentence(error)),
            Self::Refused { reason, message } if message.is_empty() => format!("refused: {reason}"),
            Self::Refused { reason, message } => format!("refused: {reason}: {message}"),
            Self::TimedOut { after, last } => {
                format!("timed out after {}s: {last}", after.as_secs())
            }
            Self::NotFound(text) => format!("error: {text}"),
        }
    }

    /// The words for an object that is not there; RDQM says it the same way.
    #[must_use]
    pub(crate) fn absent(name: &str, namespace: &str) -> Self {
        Self::NotFound(format!(
            "DrQueueManager {name} does not exist in namespace {namespace}"
        ))
    }
}

/// The chain of causes without repetition: some libraries print their source, and name it too.
pub(crate) fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_a_contract() {
        let failures = [
            (Failure::Failed(anyhow::anyhow!("x")), 1),
            (
                Failure::Refused {
                    reason: "PeerIsPrimary".into(),
                    message: String::new(),
                },
                3,
            ),
            (
                Failure::TimedOut {
                    after: Duration::from_secs(1),
                    last: "x".into(),
                },
                4,
            ),
            (Failure::absent("qmdr", "mq"), 5),
        ];
        for (failure, code) in failures {
            assert_eq!(failure.exit_code(), code, "{failure:?}");
        }
    }

    #[test]
    fn a_cause_that_is_printed_already_is_not_repeated() {
        let error = anyhow::anyhow!("no such file").context("cannot read x: no such file");
        assert_eq!(
            Failure::Failed(error.context("stopped")).text(),
            "error: stopped: cannot read x: no such file"
        );
    }

    #[test]
    fn an_absent_queue_manager_is_named_with_its_namespace() {
        assert_eq!(
            Failure::absent("qmdr", "mq").text(),
            "error: DrQueueManager qmdr does not exist in namespace mq"
        );
    }
}
