//! Failures of a pass: a stable word for each, and what to do about it.
//!
//! Lives here: the step errors and their classes. Does not live here: texts of conditions
//! (`drqm_core::status`).

use std::time::Duration;

use drqm_core::outcome::{ErrorClass, StepFailure};

use crate::{api_server::ApiError, replicator_client::CallError, telemetry::chain};

/// Why a pass ends without having done everything.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster could not be read.
    #[error("failed to observe")]
    Observe(#[source] ApiError),
    /// The status could not be written.
    #[error("failed to publish the status")]
    PublishStatus(#[source] ApiError),
    /// Something that the deletion needs could not be removed.
    #[error("failed to clean up")]
    Cleanup(#[source] ApiError),
    /// A step failed; the status says so already.
    #[error("{kind}: {message}")]
    Step {
        /// Stable word.
        kind: &'static str,
        /// For people.
        message: String,
    },
    /// The deletion goes on in a later pass; not a failure.
    #[error("the deletion goes on")]
    CleanupPending {
        /// When to look again.
        after: Duration,
    },
}

impl Error {
    /// Stable label for metrics and logs.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Observe(_) => "ObserveFailed",
            Self::PublishStatus(_) => "PublishStatusFailed",
            Self::Cleanup(_) => "CleanupFailed",
            Self::Step { kind, .. } => kind,
            Self::CleanupPending { .. } => "CleanupPending",
        }
    }
}

/// A failed write of a child object, as a value for the status.
pub fn apply_failure(error: &ApiError) -> StepFailure {
    let transient = error.is_transient();
    StepFailure {
        kind: "ApplyFailed",
        class: if transient {
            ErrorClass::Transient
        } else {
            ErrorClass::Permanent
        },
        // The sources of a transient failure change from attempt to attempt; status text must not.
        message: if transient {
            error.to_string()
        } else {
            chain(error)
        },
    }
}

/// A failed command, as a value for the status.
pub fn call_failure(error: &CallError) -> StepFailure {
    StepFailure {
        kind: error.kind(),
        class: ErrorClass::Transient,
        message: error.to_string(),
    }
}
