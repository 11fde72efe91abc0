//! Objects to text for people; pure.
//!
//! Lives here: lines that several views share, and ages. Does not live here: reading and printing.
//! A label or column header and its cell come from one definition (`block::LINES`, `list::COLUMNS`,
//! `rdqm::LINES`).

pub(crate) mod block;
pub(crate) mod list;
pub(crate) mod rdqm;
pub(crate) mod side;
#[cfg(test)]
mod tests;

use std::time::Duration;

use drqm_api::{
    names,
    v1alpha1::{DrQueueManager, DrQueueManagerStatus, RecoveryPoint, TransitionKind},
};
use kube::ResourceExt;

/// How much is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    /// What matters every day.
    Plain,
    /// Everything.
    Wide,
}

/// `qmdr in mq: Secondary, Normal, Ended immediately`: where a switch starts from.
pub(crate) fn one_line(object: &DrQueueManager) -> String {
    let place = format!(
        "{} in {}",
        object.name_any(),
        object.namespace().unwrap_or_default()
    );
    match &object.status {
        None => format!("{place}: no status yet"),
        Some(status) => format!(
            "{place}: {}, {}, queue manager {}",
            names::effective_role(status.role),
            names::dr_status(status.dr.status),
            names::queue_manager_status(status.queue_manager.status)
        ),
    }
}

/// What an unplanned promotion may have lost; nothing for any other transition.
pub(crate) fn loss_of_last_transition(status: &DrQueueManagerStatus) -> Option<String> {
    let transition = status.last_transition.as_ref()?;
    match transition.kind {
        TransitionKind::Unplanned => {
            let point = transition
                .recovery_point
                .as_ref()
                .or(status.recovery_point.as_ref())?;
            Some(format!(
                "promoted without the peer; recovery point {}",
                recovery_point(point)
            ))
        }
        TransitionKind::Creation | TransitionKind::Planned | TransitionKind::Demotion => None,
    }
}

/// `2026-11-23T14:00:01Z, at least 1520KB behind`.
pub(crate) fn recovery_point(point: &RecoveryPoint) -> String {
    let time = point
        .time
        .as_ref()
        .map_or_else(|| "unknown".to_owned(), |time| stamp(time.0));
    match u64::try_from(point.behind_bytes) {
        Ok(bytes) if bytes > 0 => format!("{time}, at least {} behind", names::kilobytes(bytes)),
        Ok(_) | Err(_) => time,
    }
}

/// A point in time to the second, in UTC: the two sides may sit in two zones.
pub(crate) fn stamp(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A span as kubectl prints ages: `45s`, `5m30s`, `47m`, `5h12m`, `3d`.
pub(crate) fn age(span: Duration) -> String {
    let seconds = span.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    let pair = |large: u64, unit: &str, small: u64, small_unit: &str| {
        if small == 0 {
            format!("{large}{unit}")
        } else {
            format!("{large}{unit}{small}{small_unit}")
        }
    };
    if seconds < 120 {
        format!("{seconds}s")
    } else if minutes < 10 {
        pair(minutes, "m", seconds % 60, "s")
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        pair(hours, "h", minutes % 60, "m")
    } else if hours < 48 {
        format!("{hours}h")
    } else if days < 8 {
        pair(days, "d", hours % 24, "h")
    } else {
        format!("{days}d")
    }
}

/// Time from `then` to `now`; zero when the clocks disagree.
pub(crate) fn since(then: jiff::Timestamp, now: jiff::Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}
