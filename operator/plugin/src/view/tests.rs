//! Golden tests: what people read, in full. With DRQM_UPDATE_GOLDEN set, the files are written.

use std::path::Path;

use drqm_api::v1alpha1::{DrQueueManager, Role};
use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Value, json};

use super::{
    Detail, age, block, list, rdqm,
    side::{Figures, Seen, Side},
};
use crate::{
    cluster::Scope,
    fixtures::{condition, dr1, dr2, live, wishing},
    output::table,
};

fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("DRQM_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).expect("the golden file can be written");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        text == expected,
        "{} differs; it is now:\n{text}",
        path.display()
    );
}

fn now() -> Timestamp {
    "2026-11-23T14:00:00Z".parse().expect("this is a time")
}

fn live_side(context: &str, object: DrQueueManager, change: Value) -> Side {
    let figures = Figures::Live(Box::new(live(&object, change)));
    Side {
        context: context.to_owned(),
        seen: Ok(Seen::new(object, figures)),
    }
}

fn status_side(context: &str, object: DrQueueManager) -> Side {
    let figures = Figures::Status {
        why: "no endpoints available for service".to_owned(),
    };
    Side {
        context: context.to_owned(),
        seen: Ok(Seen::new(object, figures)),
    }
}

fn normal() -> [Side; 2] {
    [
        live_side("dr1", dr1(json!({})), json!({})),
        live_side("dr2", dr2(json!({})), json!({})),
    ]
}

fn synchronizing() -> [Side; 2] {
    let moving = |direction: &str| {
        json!({"dr": {
            "status": "SynchronizationInProgress", "outOfSyncBytes": 612_345_678,
            "syncProgressPercent": "80.54", "syncDirection": direction,
            "estimatedCompletionTime": "2026-11-23T14:00:36Z"
        }})
    };
    let speed = json!({"syncBytesPerSecond": 104_857_600});
    let mut target = moving("Target");
    target["dr"]["localData"] = json!("Syncing");
    [
        live_side("dr1", dr1(moving("Source")), speed.clone()),
        live_side("dr2", dr2(target), speed),
    ]
}

fn link_lost() -> [Side; 2] {
    let primary = dr1(json!({
        "dr": {
            "status": "RemoteUnavailable", "link": "Disconnected", "currentRemoteAddress": null,
            "rttMillis": null, "outOfSyncBytes": 1_556_480, "outOfSync": "1520KB"
        },
        "peer": {"reachable": false},
        "conditions": [
            condition("Ready", "True", "Serving", "The queue manager runs."),
            condition("PeerConnected", "False", "RemoteUnavailable", "No answer from dr2 since 13:59:15.")
        ]
    }));
    let secondary = dr2(json!({
        "dr": {"status": "RemoteUnavailable", "link": "Disconnected", "currentRemoteAddress": null, "localData": "Behind"},
        "recoveryPoint": {"time": "2026-11-23T13:59:14Z", "behindBytes": 4096},
        "peer": {"role": "Unknown", "reachable": false, "lastSeen": "2026-11-23T13:59:15Z"}
    }));
    [
        live_side("dr1", primary, json!({"peerHeardAgeMillis": 45_000})),
        status_side("dr2", secondary),
    ]
}

fn superseded() -> [Side; 1] {
    let object = dr1(json!({
        "serving": false,
        "queueManager": {"status": "EndedUnexpectedly", "cpu": null, "memoryBytes": null},
        "fileSystem": null,
        "dr": {"status": "Superseded", "localData": "Behind", "effectiveType": null},
        "peer": {"role": "Primary"},
        "lastTransition": {"from": "Secondary", "to": "Primary", "kind": "Creation", "finishedAt": "2026-11-23T08:01:00Z", "crashedTailBytes": 8192},
        "conditions": [
            condition("Ready", "False", "Superseded", "dr2 was promoted: this side must not serve."),
            condition("SplitBrain", "True", "Superseded", "dr2 holds what comes after this side's data: patch spec.role to Secondary; nothing is lost.")
        ]
    }));
    [live_side("dr1", object, json!({}))]
}

fn refused() -> [Side; 1] {
    let object = wishing(
        dr2(json!({
            "request": {
                "generation": 3, "desired": "Primary", "verdict": "Refuse", "reason": "PeerIsPrimary",
                "message": "dr1 is Primary: demote it first.", "latched": true
            },
            "conditions": [
                condition("Ready", "True", "Standby", "A healthy standby."),
                condition("RoleSettled", "False", "PeerIsPrimary", "dr1 is Primary: demote it first, then ask again.")
            ]
        })),
        Role::Primary,
    );
    [live_side("dr2", object, json!({}))]
}

#[test]
fn both_sides_stand_beside_each_other() {
    golden(
        "normal.txt",
        &block::render(&normal(), now(), Detail::Plain),
    );
    golden(
        "synchronizing.txt",
        &block::render(&synchronizing(), now(), Detail::Plain),
    );
    golden(
        "link_lost.txt",
        &block::render(&link_lost(), now(), Detail::Plain),
    );
}

#[test]
fn one_side_says_what_to_do() {
    golden(
        "superseded.txt",
        &block::render(&superseded(), now(), Detail::Plain),
    );
    golden(
        "refused.txt",
        &block::render(&refused(), now(), Detail::Plain),
    );
    golden(
        "normal_wide.txt",
        &block::render(&normal()[..1], now(), Detail::Wide),
    );
}

#[test]
fn a_peer_that_cannot_be_read_is_named_with_the_reason() {
    let [here, _] = link_lost();
    let peer = Side {
        context: "dr2".to_owned(),
        seen: Err("the API server did not answer within 15s".to_owned()),
    };
    golden(
        "peer_unreadable.txt",
        &block::render(&[here, peer], now(), Detail::Plain),
    );
}

#[test]
fn rdqmstatus_layout() {
    let zone = TimeZone::UTC;
    let text = |sides: &[Side]| rdqm::render(sides, &zone);
    golden("rdqm_normal.txt", &text(&normal()[..1]));
    golden("rdqm_secondary.txt", &text(&normal()[1..]));
    golden("rdqm_synchronizing.txt", &text(&synchronizing()));
    golden("rdqm_link_lost.txt", &text(&link_lost()[..1]));
    golden("rdqm_superseded.txt", &text(&superseded()));
}

#[test]
fn lists() {
    let mut fresh = dr2(json!({}));
    fresh.metadata.name = Some("other".to_owned());
    fresh.status = None;
    let objects = [dr1(json!({})), fresh];
    let text = |scope, detail| table(&list::rows(&objects, scope, detail, now()));
    golden("list.txt", &text(Scope::Namespace, Detail::Plain));
    golden("list_wide.txt", &text(Scope::Cluster, Detail::Wide));
}

#[test]
fn ages_are_kubectls() {
    let text = |seconds| age(std::time::Duration::from_secs(seconds));
    for (seconds, expected) in [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (330, "5m30s"),
        (47 * 60, "47m"),
        (5 * 3_600 + 12 * 60, "5h12m"),
        (30 * 3_600, "30h"),
        (3 * 86_400, "3d"),
        (30 * 86_400, "30d"),
    ] {
        assert_eq!(text(seconds), expected);
    }
}
