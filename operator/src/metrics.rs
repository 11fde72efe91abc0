//! What the operator counts.
//!
//! Lives here: families, label enums (no free strings, no object names), the text of /metrics.
//! Does not live here: the HTTP server (`admin`).

use std::{
    sync::atomic::AtomicU64,
    time::{Duration, Instant},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};

/// How a pass ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum PassOutcome {
    /// Everything was done that could be done.
    Done,
    /// A deletion goes on.
    Deleting,
    /// A step failed and is retried.
    Failed,
}

/// A call of the control service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Call {
    /// `GetNode`
    GetNode,
    /// `GetState`
    GetState,
    /// `Configure`
    Configure,
    /// `SetRole`
    SetRole,
    /// `Revert`
    Revert,
    /// `Resolve`
    Resolve,
    /// `RecordVerdict`
    RecordVerdict,
    /// `DeleteVolume`
    DeleteVolume,
    /// `HealDevice`
    HealDevice,
    /// `Watch`
    Watch,
}

/// How a call, a write or an Event ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum WriteOutcome {
    /// It was done.
    Ok,
    /// It failed.
    Failed,
    /// The replicator refused.
    Refused,
    /// The replicator does not know the volume.
    NotFound,
}

/// Labels of passes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PassLabels {
    outcome: PassOutcome,
    kind: &'static str,
}

/// Labels of control calls.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CallLabels {
    call: Call,
    outcome: WriteOutcome,
}

/// Labels of writes to the API server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WriteLabels {
    outcome: WriteOutcome,
}

/// All metrics of the operator.
pub struct Metrics {
    registry: Registry,
    passes: Family<PassLabels, Counter>,
    pass_seconds: Histogram,
    calls: Family<CallLabels, Counter>,
    applies: Family<WriteLabels, Counter>,
    status_patches: Family<WriteLabels, Counter>,
    events: Family<WriteLabels, Counter>,
    watch_errors: Counter,
    replicator_streams: Gauge,
    failing_objects: Gauge,
    last_success: Gauge<f64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers every family.
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("drqm_operator"),
            passes: Family::default(),
            // From 1 ms to 33 s: a pass may wait for a replicator that drains.
            pass_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            calls: Family::default(),
            applies: Family::default(),
            status_patches: Family::default(),
            events: Family::default(),
            watch_errors: Counter::default(),
            replicator_streams: Gauge::default(),
            failing_objects: Gauge::default(),
            last_success: Gauge::default(),
        };
        let r = &mut metrics.registry;
        r.register(
            "build",
            "Version",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        r.register(
            "reconciles",
            "Passes by outcome and kind of error",
            metrics.passes.clone(),
        );
        r.register_with_unit(
            "reconcile_duration",
            "Length of a pass",
            Unit::Seconds,
            metrics.pass_seconds.clone(),
        );
        r.register(
            "control_calls",
            "Calls to replicators",
            metrics.calls.clone(),
        );
        r.register(
            "applies",
            "Objects written by server-side apply",
            metrics.applies.clone(),
        );
        r.register(
            "status_patches",
            "Status writes",
            metrics.status_patches.clone(),
        );
        r.register("events", "Events published", metrics.events.clone());
        r.register(
            "watch_errors",
            "Errors of watches",
            metrics.watch_errors.clone(),
        );
        r.register(
            "replicator_streams",
            "Open streams",
            metrics.replicator_streams.clone(),
        );
        r.register(
            "failing_objects",
            "Objects in retry",
            metrics.failing_objects.clone(),
        );
        r.register_with_unit(
            "last_success_timestamp",
            "When a pass last succeeded",
            Unit::Seconds,
            metrics.last_success.clone(),
        );
        metrics
    }

    /// A pass ended; `kind` is the error's, or empty.
    pub fn pass(&self, outcome: PassOutcome, kind: &'static str, began: Instant, now: f64) {
        self.passes
            .get_or_create(&PassLabels { outcome, kind })
            .inc();
        self.pass_seconds.observe(began.elapsed().as_secs_f64());
        match outcome {
            PassOutcome::Done | PassOutcome::Deleting => {
                self.last_success.set(now);
            }
            PassOutcome::Failed => {}
        }
    }

    /// A call to a replicator ended.
    pub fn call(&self, call: Call, outcome: WriteOutcome, took: Duration) {
        self.calls
            .get_or_create(&CallLabels { call, outcome })
            .inc();
        tracing::trace!(?call, ?outcome, ?took, "control call");
    }

    /// An object was applied, or not.
    pub fn apply(&self, outcome: WriteOutcome) {
        self.applies.get_or_create(&WriteLabels { outcome }).inc();
    }

    /// A status was written, or not.
    pub fn status_patch(&self, outcome: WriteOutcome) {
        self.status_patches
            .get_or_create(&WriteLabels { outcome })
            .inc();
    }

    /// An Event was published, or not.
    pub fn event(&self, outcome: WriteOutcome) {
        self.events.get_or_create(&WriteLabels { outcome }).inc();
    }

    /// A watch failed; it goes on after a delay.
    pub fn watch_error(&self) {
        self.watch_errors.inc();
    }

    /// A replicator's event stream opened (1) or closed (-1).
    pub fn replicator_stream(&self, change: i64) {
        self.replicator_streams.inc_by(change);
    }

    /// How many objects are in retry.
    pub fn failing(&self, objects: usize) {
        self.failing_objects
            .set(i64::try_from(objects).unwrap_or(i64::MAX));
    }

    /// The text of /metrics.
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a String cannot fail");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_the_prefix_and_labels_are_words() {
        let metrics = Metrics::new();
        metrics.pass(
            PassOutcome::Failed,
            "ReplicatorUnreachable",
            Instant::now(),
            1.0,
        );
        metrics.call(Call::SetRole, WriteOutcome::Refused, Duration::ZERO);
        let text = metrics.text();
        for expected in [
            "drqm_operator_reconciles_total{outcome=\"Failed\",kind=\"ReplicatorUnreachable\"} 1",
            "drqm_operator_control_calls_total{call=\"SetRole\",outcome=\"Refused\"} 1",
            "drqm_operator_reconcile_duration_seconds_count 1",
        ] {
            assert!(text.contains(expected), "{expected} is missing in\n{text}");
        }
    }
}
