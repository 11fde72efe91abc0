//! `-o rdqm`: the layout and words of rdqmstatus, labels padded to 40 columns, only the lines that
//! apply. Scripts written for rdqmstatus read it.

use drqm_api::{
    names,
    v1alpha1::{DrQueueManager, DrQueueManagerStatus, DrStatusWord, EffectiveRole},
};
use jiff::tz::TimeZone;
use kube::ResourceExt;

use super::side::Side;

/// Columns of a label.
const LABEL: usize = 40;

struct Line {
    label: &'static str,
    value: fn(&DrQueueManager, &DrQueueManagerStatus, &TimeZone) -> Option<String>,
}

const LINES: &[Line] = &[
    Line {
        label: "Node",
        value: |_, status, _| status.node.clone(),
    },
    Line {
        label: "Queue manager status",
        value: |_, status, _| {
            Some(names::queue_manager_status(status.queue_manager.status).to_owned())
        },
    },
    Line {
        label: "CPU",
        value: |_, status, _| {
            status
                .queue_manager
                .cpu
                .as_ref()
                .map(|cpu| format!("{cpu}%"))
        },
    },
    Line {
        label: "Memory",
        value: |_, status, _| {
            status
                .queue_manager
                .memory_bytes
                .map(|bytes| names::size(unsigned(bytes)))
        },
    },
    Line {
        label: "Queue manager file system",
        value: |_, status, _| match status.role {
            EffectiveRole::Primary => status.file_system.map(|usage| {
                names::file_system(unsigned(usage.used_bytes), unsigned(usage.allocated_bytes))
            }),
            EffectiveRole::Secondary | EffectiveRole::Unknown => None,
        },
    },
    Line {
        label: "DR role",
        value: |_, status, _| Some(names::effective_role(status.role).to_owned()),
    },
    Line {
        label: "DR status",
        value: |_, status, _| Some(names::dr_status(status.dr.status).to_owned()),
    },
    Line {
        label: "DR type",
        value: |object, status, _| {
            Some(names::mode(status.dr.type_.unwrap_or(object.spec.replication.mode)).to_owned())
        },
    },
    Line {
        label: "DR port",
        value: |object, status, _| {
            Some(
                status
                    .dr
                    .port
                    .unwrap_or(object.spec.replication.port)
                    .to_string(),
            )
        },
    },
    Line {
        label: "DR local IP address",
        value: |_, status, _| status.dr.local_address.clone(),
    },
    Line {
        label: "DR remote IP address",
        value: |_, status, _| match status.dr.remote_addresses.as_slice() {
            [one] => Some(host(one).to_owned()),
            [] | [_, _, ..] => None,
        },
    },
    Line {
        label: "DR remote IP address list",
        value: |_, status, _| match status.dr.remote_addresses.as_slice() {
            [] | [_] => None,
            several => {
                let hosts: Vec<&str> = several.iter().map(|address| host(address)).collect();
                Some(hosts.join(","))
            }
        },
    },
    Line {
        label: "DR current remote IP address",
        value: |_, status, _| {
            let several = status.dr.remote_addresses.len() > 1;
            let current = status.dr.current_remote_address.as_ref()?;
            several.then(|| host(current).to_owned())
        },
    },
    Line {
        label: "DR out of sync data",
        value: |_, status, _| {
            let bytes = status.dr.out_of_sync_bytes.unwrap_or_default();
            counts_out_of_sync(status.dr.status).then(|| names::kilobytes(unsigned(bytes)))
        },
    },
    Line {
        label: "DR synchronization progress",
        value: |_, status, _| {
            let percent = status.dr.sync_progress_percent.as_ref()?;
            synchronizes(status.dr.status).then(|| format!("{percent}%"))
        },
    },
    Line {
        label: "Snapshot reversion progress",
        value: |_, status, _| {
            let percent = status.dr.snapshot_reversion_percent.as_ref()?;
            Some(format!("{percent}%"))
        },
    },
    Line {
        label: "DR estimated time of completion",
        value: |_, status, zone| {
            let time = status.dr.estimated_completion_time.as_ref()?;
            synchronizes(status.dr.status).then(|| {
                time.0
                    .to_zoned(zone.clone())
                    .strftime("%Y-%m-%d %H:%M:%S")
                    .to_string()
            })
        },
    },
];

/// One block per side, an empty line between.
pub(crate) fn render(sides: &[Side], zone: &TimeZone) -> String {
    let several = sides.len() > 1;
    let blocks: Vec<String> = sides
        .iter()
        .map(|side| match &side.seen {
            Err(error) => format!("{}: {error}\n", side.context),
            Ok(seen) => {
                let mut block = String::new();
                if several {
                    // rdqmstatus speaks of one queue manager at a time; more need a name each.
                    let name = format!(
                        "{} ({}, {})",
                        seen.object.spec.queue_manager.name,
                        seen.object.name_any(),
                        side.context
                    );
                    block.push_str(&padded("Queue manager name", &name));
                }
                for line in LINES {
                    if let Some(value) = (line.value)(&seen.object, &seen.status, zone) {
                        block.push_str(&padded(line.label, &value));
                    }
                }
                block
            }
        })
        .collect();
    blocks.join("\n")
}

fn padded(label: &str, value: &str) -> String {
    format!("{:<LABEL$}{value}\n", format!("{label}:"))
}

fn unsigned(bytes: i64) -> u64 {
    u64::try_from(bytes).unwrap_or_default()
}

/// `10.0.2.15` of `10.0.2.15:7001`; rdqmstatus prints the port on a line of its own.
fn host(address: &str) -> &str {
    if let Some(bracketed) = address.strip_prefix('[') {
        return bracketed.split(']').next().unwrap_or(bracketed);
    }
    match address.split_once(':') {
        // More colons and no brackets: an IPv6 address without a port.
        Some((host, port)) if !port.contains(':') => host,
        Some(_) | None => address,
    }
}

fn counts_out_of_sync(word: DrStatusWord) -> bool {
    match word {
        DrStatusWord::RemoteUnavailable
        | DrStatusWord::Inconsistent
        | DrStatusWord::RevertingToSnapshot
        | DrStatusWord::Partitioned
        | DrStatusWord::Superseded => true,
        DrStatusWord::Normal
        | DrStatusWord::RemoteUnconfigured
        | DrStatusWord::SynchronizationInProgress
        | DrStatusWord::CatchingUp
        | DrStatusWord::Inactive
        | DrStatusWord::Unknown => false,
    }
}

fn synchronizes(word: DrStatusWord) -> bool {
    match word {
        DrStatusWord::SynchronizationInProgress | DrStatusWord::CatchingUp => true,
        DrStatusWord::Normal
        | DrStatusWord::RemoteUnavailable
        | DrStatusWord::RemoteUnconfigured
        | DrStatusWord::Inconsistent
        | DrStatusWord::RevertingToSnapshot
        | DrStatusWord::Partitioned
        | DrStatusWord::Inactive
        | DrStatusWord::Superseded
        | DrStatusWord::Unknown => false,
    }
}
