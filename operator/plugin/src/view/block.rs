//! One queue manager as lines of label and value; the two sides of a pair as two columns.

use drqm_api::{
    conditions::condition,
    names,
    v1alpha1::{EffectiveRole, PeerState, Role, SyncDirection, VerdictWord},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use super::{
    Detail, age, recovery_point,
    side::{Seen, Side},
    since, stamp,
};
use crate::output::table;

struct Line {
    label: &'static str,
    detail: Detail,
    value: fn(&Seen, Timestamp) -> Option<String>,
}

const LINES: &[Line] = &[
    plain("DrQueueManager", |seen, _| {
        Some(format!(
            "{}/{}",
            seen.object.namespace().unwrap_or_default(),
            seen.object.name_any()
        ))
    }),
    plain("Queue manager", |seen, _| {
        Some(seen.object.spec.queue_manager.name.clone())
    }),
    plain("Queue manager status", |seen, _| {
        Some(names::queue_manager_status(seen.status.queue_manager.status).to_owned())
    }),
    plain("Role", role),
    plain("Last request", request),
    plain("DR status", |seen, _| {
        Some(names::dr_status(seen.status.dr.status).to_owned())
    }),
    plain("DR type", dr_type),
    plain("Link", link),
    plain("Data", |seen, _| {
        seen.status
            .dr
            .local_data
            .map(|data| names::data(data).to_owned())
    }),
    plain("Out of sync data", |seen, _| {
        seen.status.dr.out_of_sync_bytes.map(kilobytes)
    }),
    plain("Synchronization", synchronization),
    plain("Going back", |seen, _| {
        let percent = seen.status.dr.snapshot_reversion_percent.as_ref()?;
        Some(format!("{percent}%"))
    }),
    plain("Snapshot", snapshot),
    plain("Verification", verification),
    plain("Kept copies", |seen, _| {
        let kept = &seen.status.volume.as_ref()?.kept_copies;
        (!kept.is_empty()).then(|| kept.join(", "))
    }),
    plain("Recovery point", |seen, _| {
        seen.status.recovery_point.as_ref().map(recovery_point)
    }),
    plain("Peer", peer),
    plain("Last transition", transition),
    plain("Crashed tail", |seen, _| {
        let bytes = seen.status.last_transition.as_ref()?.crashed_tail_bytes?;
        (bytes > 0).then(|| format!("up to {} that nobody else has", kilobytes(bytes)))
    }),
    plain("Node", |seen, _| seen.status.node.clone()),
    plain("Memory", |seen, _| {
        seen.status
            .queue_manager
            .memory_bytes
            .map(|bytes| names::size(unsigned(bytes)))
    }),
    plain("CPU", |seen, _| {
        seen.status
            .queue_manager
            .cpu
            .as_ref()
            .map(|cpu| format!("{cpu}%"))
    }),
    plain("File system", |seen, _| {
        seen.status.file_system.map(|usage| {
            names::file_system(unsigned(usage.used_bytes), unsigned(usage.allocated_bytes))
        })
    }),
    wide("Size", |seen, _| {
        Some(seen.object.spec.storage.size.0.clone())
    }),
    wide("Device", |seen, _| {
        seen.status.volume.as_ref()?.device.clone()
    }),
    wide("Front-end", |seen, _| {
        seen.status.volume.as_ref()?.front_end.clone()
    }),
    wide("Local address", |seen, _| {
        let address = seen.status.dr.local_address.as_ref()?;
        let port = seen
            .status
            .dr
            .port
            .unwrap_or(seen.object.spec.replication.port);
        Some(format!("{address}, port {port}"))
    }),
    wide("Remote addresses", |seen, _| {
        let addresses = &seen.status.dr.remote_addresses;
        (!addresses.is_empty()).then(|| addresses.join(", "))
    }),
    wide("Epoch", |seen, _| {
        let epoch = seen.status.epoch.as_ref()?;
        Some(format!(
            "{}{}",
            epoch.current,
            if epoch.sealed { ", sealed" } else { "" }
        ))
    }),
    wide("Pair Secret", |seen, _| seen.status.pair_secret.clone()),
    plain("Figures", figures),
];

type Value = fn(&Seen, Timestamp) -> Option<String>;

const fn plain(label: &'static str, value: Value) -> Line {
    Line {
        label,
        detail: Detail::Plain,
        value,
    }
}

const fn wide(label: &'static str, value: Value) -> Line {
    Line {
        label,
        detail: Detail::Wide,
        value,
    }
}

/// Lines of every side that could be read, beside each other; below them the conditions that ask
/// for attention (all of them when wide), and the sides that could not be read.
pub(crate) fn render(sides: &[Side], now: Timestamp, detail: Detail) -> String {
    let read: Vec<(&str, &Seen)> = sides
        .iter()
        .filter_map(|side| {
            side.seen
                .as_ref()
                .ok()
                .map(|seen| (side.context.as_str(), seen))
        })
        .collect();
    let mut rows = Vec::new();
    if sides.len() > 1 {
        rows.push(row(
            "",
            read.iter().map(|(context, _)| (*context).to_owned()),
        ));
    }
    for line in LINES
        .iter()
        .filter(|line| detail == Detail::Wide || line.detail == Detail::Plain)
    {
        let values: Vec<Option<String>> = read
            .iter()
            .map(|(_, seen)| (line.value)(seen, now))
            .collect();
        if values.iter().any(Option::is_some) {
            let label = format!("{}:", line.label);
            rows.push(row(
                &label,
                values
                    .into_iter()
                    .map(|value| value.unwrap_or_else(|| "-".to_owned())),
            ));
        }
    }
    let mut text = table(&rows);
    for (context, seen) in &read {
        text.push_str(&attention(context, seen, sides.len(), detail));
    }
    for side in sides {
        if let Err(error) = &side.seen {
            text.push_str(&format!("\n{}: {error}\n", side.context));
        }
    }
    text
}

fn row(label: &str, cells: impl Iterator<Item = String>) -> Vec<String> {
    std::iter::once(label.to_owned()).chain(cells).collect()
}

fn attention(context: &str, seen: &Seen, sides: usize, detail: Detail) -> String {
    let lines: Vec<String> = seen
        .status
        .conditions
        .iter()
        .filter(|condition| detail == Detail::Wide || asks_for_attention(condition))
        .map(|condition| {
            format!(
                "  {}={}, {}: {}\n",
                condition.type_, condition.status, condition.reason, condition.message
            )
        })
        .collect();
    if lines.is_empty() {
        return String::new();
    }
    let heading = if sides > 1 {
        format!("\nConditions on {context}:\n")
    } else {
        "\nConditions:\n".to_owned()
    };
    heading + &lines.concat()
}

/// Not as it should be. Promotable says what a promotion would bring, which is no fault, and InSync
/// and Consistent repeat what the lines above say.
fn asks_for_attention(condition: &Condition) -> bool {
    let good = match condition.type_.as_str() {
        condition::SPLIT_BRAIN => "False",
        condition::PROMOTABLE | condition::IN_SYNC | condition::CONSISTENT => return false,
        _ => "True",
    };
    condition.status != good
}

fn role(seen: &Seen, _: Timestamp) -> Option<String> {
    let is = names::effective_role(seen.status.role);
    let wanted = seen.object.spec.role;
    Some(if seen.status.role == EffectiveRole::from(wanted) {
        is.to_owned()
    } else {
        format!("{is} (spec.role: {})", names::role(wanted))
    })
}

/// Only while there is something to say: a request that was done speaks through the role.
fn request(seen: &Seen, _: Timestamp) -> Option<String> {
    let request = seen.status.request.as_ref()?;
    match request.verdict {
        VerdictWord::Steady => None,
        VerdictWord::Proceed | VerdictWord::Wait | VerdictWord::Refuse | VerdictWord::Hold => {
            let wish = match request.desired {
                Role::Primary => "promotion",
                Role::Secondary => "demotion",
            };
            Some(format!(
                "{wish}: {}, {}",
                names::verdict(request.verdict).to_lowercase(),
                request.reason
            ))
        }
    }
}

fn dr_type(seen: &Seen, _: Timestamp) -> Option<String> {
    let asked = seen
        .status
        .dr
        .type_
        .unwrap_or(seen.object.spec.replication.mode);
    Some(match seen.status.dr.effective_type {
        Some(now) if now != asked => {
            format!(
                "{} ({} now)",
                names::mode(asked),
                names::mode(now).to_lowercase()
            )
        }
        Some(_) | None => names::mode(asked).to_owned(),
    })
}

fn link(seen: &Seen, _: Timestamp) -> Option<String> {
    // A status that nobody has written yet knows nothing of a link.
    seen.status.observed_generation?;
    let mut text = names::link(seen.status.dr.link).to_owned();
    if let Some(address) = &seen.status.dr.current_remote_address {
        text.push_str(&format!(" to {address}"));
    }
    if let Some(millis) = seen.status.dr.rtt_millis {
        text.push_str(&format!(", {millis} ms"));
    }
    Some(text)
}

fn synchronization(seen: &Seen, now: Timestamp) -> Option<String> {
    let percent = seen.status.dr.sync_progress_percent.as_ref()?;
    let mut text = format!("{percent}%");
    match seen.status.dr.sync_direction {
        Some(SyncDirection::Source) => text.push_str(" to the peer"),
        Some(SyncDirection::Target) => text.push_str(" from the peer"),
        None => {}
    }
    if let Some(speed) = seen
        .live
        .as_ref()
        .and_then(|live| live.sync_bytes_per_second)
    {
        text.push_str(&format!(", {}/s", names::size(speed)));
    }
    if let Some(eta) = &seen.status.dr.estimated_completion_time {
        text.push_str(&format!(", done in {}", age(since(now, eta.0))));
    }
    Some(text)
}

fn snapshot(seen: &Seen, _: Timestamp) -> Option<String> {
    let snapshot = seen.status.snapshot.as_ref()?;
    let size = names::size(u64::try_from(snapshot.used_bytes).unwrap_or_default());
    let taken = snapshot.taken_at.as_ref()?;
    Some(format!("of {}, {size}", taken.0))
}

fn verification(seen: &Seen, _: Timestamp) -> Option<String> {
    let v = seen.status.verification.as_ref()?;
    let found = match u64::try_from(v.differing_bytes) {
        Ok(0) | Err(_) => "no difference".to_owned(),
        Ok(bytes) => format!("{} differed", names::size(bytes)),
    };
    let so_far = v.progress_percent.as_deref().unwrap_or("0");
    Some(match &v.finished_at {
        Some(at) => format!("{}, ended {}: {found}", v.request_id, at.0),
        None => format!("{}, {so_far}% compared: {found} so far", v.request_id),
    })
}

fn peer(seen: &Seen, now: Timestamp) -> Option<String> {
    let peer = seen.status.peer.as_ref()?;
    let configured = seen
        .object
        .spec
        .replication
        .peer
        .as_ref()
        .map(|peer| peer.name.clone());
    let mut words = vec![names::effective_role(peer.role).to_owned()];
    words.extend(peer.data.map(|data| names::data(data).to_lowercase()));
    words.extend(heard(seen, peer, now));
    let name = peer
        .name
        .clone()
        .or(configured)
        .unwrap_or_else(|| "unnamed".to_owned());
    Some(format!("{name}: {}", words.join(", ")))
}

fn heard(seen: &Seen, peer: &PeerState, now: Timestamp) -> Option<String> {
    if peer.reachable {
        return None;
    }
    let age_of_live = seen
        .live
        .as_ref()
        .and_then(|live| live.peer_heard_age_millis);
    let silent = age_of_live
        .map(std::time::Duration::from_millis)
        .or_else(|| peer.last_seen.as_ref().map(|time| since(time.0, now)));
    Some(silent.map_or_else(
        || "never heard".to_owned(),
        |silent| format!("last heard {} ago", age(silent)),
    ))
}

fn transition(seen: &Seen, _: Timestamp) -> Option<String> {
    let last = seen.status.last_transition.as_ref()?;
    let mut text = format!(
        "{}, {} to {}",
        names::transition(last.kind),
        names::role(last.from),
        names::role(last.to)
    );
    if let Some(time) = last.finished_at.as_ref().or(last.started_at.as_ref()) {
        text.push_str(&format!(", {}", stamp(time.0)));
    }
    if let Some(point) = &last.recovery_point {
        text.push_str(&format!(", recovery point {}", recovery_point(point)));
    }
    Some(text)
}

fn figures(seen: &Seen, now: Timestamp) -> Option<String> {
    let old = seen.figures_age(now);
    Some(match &seen.why_not_live {
        None => format!("exact, {:.1}s old", old.unwrap_or_default().as_secs_f32()),
        Some(why) => {
            let old = old.map_or_else(
                || "of unknown age".to_owned(),
                |old| format!("{} old", age(old)),
            );
            format!("from .status, {old} ({why})")
        }
    })
}

fn kilobytes(bytes: i64) -> String {
    names::kilobytes(unsigned(bytes))
}

fn unsigned(bytes: i64) -> u64 {
    u64::try_from(bytes).unwrap_or_default()
}
