//! One side of a pair as it was read: the object, with the exact figures laid over its status.

use std::time::Duration;

use drqm_api::{
    labels,
    live::LiveState,
    v1alpha1::{DrQueueManager, DrQueueManagerStatus},
};
use jiff::Timestamp;

use super::since;

/// One side: a context, and what was found there.
#[derive(Debug)]
pub(crate) struct Side {
    /// Name of the context.
    pub(crate) context: String,
    /// The queue manager, or why it could not be read.
    pub(crate) seen: Result<Seen, String>,
}

/// Where the figures come from.
#[derive(Debug)]
pub(crate) enum Figures {
    /// From the operator, exact.
    Live(Box<LiveState>),
    /// From `.status`, in steps.
    Status {
        /// Why not from the operator.
        why: String,
    },
}

/// A queue manager as it was read.
#[derive(Debug)]
pub(crate) struct Seen {
    /// As the API server has it.
    pub(crate) object: DrQueueManager,
    /// Its status, with live figures where there are any.
    pub(crate) status: DrQueueManagerStatus,
    /// The live figures.
    pub(crate) live: Option<LiveState>,
    /// Why there are no live figures.
    pub(crate) why_not_live: Option<String>,
}

impl Seen {
    /// Lays live figures over the status.
    pub(crate) fn new(object: DrQueueManager, figures: Figures) -> Self {
        let mut status = object.status.clone().unwrap_or_default();
        match figures {
            Figures::Live(live) => {
                live.as_ref().clone().overlay(&mut status);
                Self {
                    object,
                    status,
                    live: Some(*live),
                    why_not_live: None,
                }
            }
            Figures::Status { why } => Self {
                object,
                status,
                live: None,
                why_not_live: Some(why),
            },
        }
    }

    /// How old the figures are. A status is as old as its last write: an idle pair writes none.
    pub(crate) fn figures_age(&self, now: Timestamp) -> Option<Duration> {
        if let Some(live) = &self.live {
            return Some(Duration::from_millis(live.age_millis));
        }
        self.object
            .metadata
            .managed_fields
            .iter()
            .flatten()
            .filter(|entry| entry.manager.as_deref() == Some(labels::STATUS_FIELD_MANAGER))
            .filter_map(|entry| entry.time.as_ref())
            .map(|time| since(time.0, now))
            .min()
    }
}
