//! What became of a pass: a value, so that status is written also after a failure.
//!
//! Lives here: the value, the classes of failures. Does not live here: the error enums of the I/O
//! steps (they convert into [`StepFailure`]).

use std::time::Duration;

use crate::plan::Plan;
use crate::retry::{RetryPolicy, jittered, retry_delay};
use crate::validate::{Valid, ValidationError};

/// What became of a pass.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The spec cannot be carried out as it is; nothing was changed.
    Rejected(ValidationError),
    /// It was planned; applying or driving may have failed.
    Planned {
        /// The validated spec.
        valid: Box<Valid>,
        /// The plan.
        plan: Box<Plan>,
        /// The first step that failed.
        failure: Option<StepFailure>,
    },
}

/// A step that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepFailure {
    /// Which step and how, as one CamelCase word (also a metric label).
    pub kind: &'static str,
    /// What to do about it.
    pub class: ErrorClass,
    /// For people; stable text without addresses and request ids.
    pub message: String,
}

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// Try again soon, with growing delays.
    Transient,
    /// Nothing changes until somebody changes something.
    Permanent,
}

impl Outcome {
    /// One CamelCase word for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Rejected(error) => error.kind(),
            Self::Planned {
                failure: Some(failure),
                ..
            } => failure.kind,
            Self::Planned { failure: None, .. } => "Done",
        }
    }

    /// When to look again. `failures` counts the failed passes in a row, this one included.
    #[must_use]
    pub fn look_again_after(&self, policy: &RetryPolicy, failures: u32, jitter: f64) -> Duration {
        match self {
            // Nothing changes until the spec does, and that triggers a pass.
            Self::Rejected(_) => jittered(RESYNC, jitter),
            Self::Planned {
                failure: Some(failure),
                plan,
                ..
            } => match failure.class {
                ErrorClass::Transient => retry_delay(failures, policy, jitter),
                ErrorClass::Permanent => plan.recheck_after.max(PERMANENT),
            },
            Self::Planned {
                failure: None,
                plan,
                ..
            } if plan.recheck_after >= RESYNC => jittered(plan.recheck_after, jitter),
            Self::Planned {
                failure: None,
                plan,
                ..
            } => plan.recheck_after,
        }
    }
}

/// How often to look when nothing is in motion: a watch can die silently.
pub const RESYNC: Duration = Duration::from_secs(600);

/// How often to look at something that only a person can mend.
const PERMANENT: Duration = Duration::from_secs(60);
