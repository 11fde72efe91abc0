//! Counters of the process and gauges per volume, in the text form of OpenMetrics.
//!
//! Lives here: names, labels, the gauges' computation from reports. Does not live here: HTTP.

use std::sync::LazyLock;

use drqm_engine::GuestRequest;
use drqm_engine::report::{Data, Gate, LinkReport, Report};
use drqm_engine::role::Role;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::pool::VolumeKey;

/// Counters of the process.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) violations: Counter,
    pub(crate) rejected_connections: Counter,
    pub(crate) guest_errors: Counter,
    pub(crate) commands: Counter,
    pub(crate) commands_refused: Counter,
    guest_reads: Counter,
    guest_writes: Counter,
    guest_zeros: Counter,
    guest_flushes: Counter,
    guest_written_bytes: Counter,
}

/// The one instance.
pub(crate) static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::default);

impl Metrics {
    pub(crate) fn count_guest(&self, request: &GuestRequest) {
        match request {
            GuestRequest::Read { .. } => self.guest_reads.inc(),
            GuestRequest::Write { data, .. } => {
                self.guest_written_bytes.inc_by(data.len() as u64);
                self.guest_writes.inc()
            }
            GuestRequest::Zero { .. } => self.guest_zeros.inc(),
            GuestRequest::Flush => self.guest_flushes.inc(),
        };
    }

    fn register(&self, registry: &mut Registry) {
        for (name, help, counter) in [
            (
                "peer_violations",
                "Frames or connections of a peer that broke the protocol",
                &self.violations,
            ),
            (
                "peer_connections_rejected",
                "Connections that did not get past TLS",
                &self.rejected_connections,
            ),
            (
                "guest_errors",
                "Requests of device users answered with an error",
                &self.guest_errors,
            ),
            ("commands", "Commands of the operator", &self.commands),
            (
                "commands_refused",
                "Commands of the operator that were refused",
                &self.commands_refused,
            ),
            ("guest_reads", "Reads of device users", &self.guest_reads),
            ("guest_writes", "Writes of device users", &self.guest_writes),
            (
                "guest_zeros",
                "Discards and zeroings of device users",
                &self.guest_zeros,
            ),
            (
                "guest_flushes",
                "Flushes of device users",
                &self.guest_flushes,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        registry.register_with_unit(
            "guest_written",
            "Bytes written by device users",
            Unit::Bytes,
            self.guest_written_bytes.clone(),
        );
    }
}

/// Gauges of volumes, computed when they are asked for.
#[derive(Debug)]
struct Volumes(Vec<(VolumeKey, Box<Report>)>);

type Value = fn(&Report) -> f64;

const GAUGES: [(&str, &str, Value); 7] = [
    ("volume_primary", "1 while the volume is Primary", |r| {
        f64::from(r.role == Role::Primary)
    }),
    ("volume_connected", "1 while the peer is connected", |r| {
        f64::from(matches!(r.link, LinkReport::Connected))
    }),
    ("volume_device_open", "1 while the device is there", |r| {
        f64::from(r.gate == Gate::Open)
    }),
    (
        "volume_failed",
        "1 while the disk failed or the volume is fenced",
        |r| f64::from(r.data == Data::Failed),
    ),
    (
        "volume_out_of_sync_bytes",
        "Bytes that the peer may lack",
        |r| r.out_of_sync_bytes as f64,
    ),
    ("volume_epochs", "Length of the lineage", |r| {
        r.lineage.len() as f64
    }),
    (
        "volume_rtt_seconds",
        "Round trip of the last heartbeat",
        |r| r.rtt_micros as f64 / 1e6,
    ),
];

impl Collector for Volumes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (name, help, value) in GAUGES {
            let gauge = ConstGauge::new(0.0);
            let mut family = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            for (key, report) in &self.0 {
                let labels = [
                    ("namespace", key.namespace.as_str()),
                    ("name", key.name.as_str()),
                ];
                let gauge = ConstGauge::new(value(report));
                gauge.encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// Everything as text.
pub(crate) fn render(volumes: Vec<(VolumeKey, Box<Report>)>) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("drqm_replicator");
    METRICS.register(&mut registry);
    registry.register_collector(Box::new(Volumes(volumes)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}
