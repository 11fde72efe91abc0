//! Queue managers for tests, as the API server would return them.

use drqm_api::{live::LiveState, v1alpha1::DrQueueManager};
use serde_json::{Value, json};

/// The side on dr1, Primary, with the given status laid over a healthy one.
pub(crate) fn dr1(status: Value) -> DrQueueManager {
    let mut healthy = json!({
        "observedGeneration": 3,
        "role": "Primary",
        "phase": "Ready",
        "serving": true,
        "node": "dr1",
        "queueManager": {"status": "Running", "pod": "qmdr-0", "cpu": "0.42", "memoryBytes": 192_000_000},
        "fileSystem": {"usedBytes": 60_817_408, "allocatedBytes": 3_145_596_928_i64, "usedPercent": 2},
        "dr": {
            "status": "Normal", "type": "Asynchronous", "effectiveType": "Asynchronous", "port": 7001,
            "localAddress": "10.0.2.14", "remoteAddresses": ["10.0.2.15:7001"],
            "currentRemoteAddress": "10.0.2.15:7001", "link": "Connected", "localData": "UpToDate",
            "outOfSyncBytes": 0, "outOfSync": "0KB", "rttMillis": 1
        },
        "epoch": {"current": "0123456789abcdef0123456789abcdef"},
        "peer": {"name": "dr2", "role": "Secondary", "data": "UpToDate", "reachable": true},
        "volume": {"id": "v1", "device": "/dev/drqm/mq_qmdr", "frontEnd": "fuse-loop"},
        "pairSecret": "qmdr-pair",
        "conditions": [
            condition("Ready", "True", "Serving", "The queue manager runs."),
            condition("RoleSettled", "True", "Settled", "Primary, as asked for."),
            condition("Promotable", "False", "AlreadyPrimary", "This side is Primary.")
        ]
    });
    merge(&mut healthy, status);
    object("dr2", "Primary", healthy)
}

/// The side on dr2, Secondary, with the given status laid over a healthy one.
pub(crate) fn dr2(status: Value) -> DrQueueManager {
    let mut healthy = json!({
        "observedGeneration": 3,
        "role": "Secondary",
        "phase": "Ready",
        "serving": false,
        "node": "dr2",
        "queueManager": {"status": "EndedImmediately"},
        "dr": {
            "status": "Normal", "type": "Asynchronous", "port": 7001, "localAddress": "10.0.2.15",
            "remoteAddresses": ["10.0.2.14:7001"], "currentRemoteAddress": "10.0.2.14:7001",
            "link": "Connected", "localData": "UpToDate", "outOfSyncBytes": 0, "outOfSync": "0KB"
        },
        "peer": {"name": "dr1", "role": "Primary", "data": "UpToDate", "reachable": true},
        "conditions": [
            condition("Ready", "True", "Standby", "A healthy standby."),
            condition("RoleSettled", "True", "Settled", "Secondary, as asked for.")
        ]
    });
    merge(&mut healthy, status);
    object("dr1", "Secondary", healthy)
}

/// The same with another `spec.role`.
pub(crate) fn wishing(
    mut object: DrQueueManager,
    role: drqm_api::v1alpha1::Role,
) -> DrQueueManager {
    object.spec.role = role;
    object
}

/// Live figures that say what the status says, but younger.
pub(crate) fn live(object: &DrQueueManager, change: Value) -> LiveState {
    let status = object.status.clone().unwrap_or_default();
    let mut document = json!({
        "ageMillis": 240,
        "role": status.role,
        "dr": status.dr,
        "fileSystem": status.file_system,
        "recoveryPoint": status.recovery_point,
        "peer": status.peer,
    });
    merge(&mut document, change);
    serde_json::from_value(document).expect("the fixture is a LiveState")
}

/// A condition.
pub(crate) fn condition(type_: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({
        "type": type_, "status": status, "reason": reason, "message": message,
        "observedGeneration": 3, "lastTransitionTime": "2026-11-23T13:00:00Z"
    })
}

fn object(peer: &str, role: &str, status: Value) -> DrQueueManager {
    serde_json::from_value(json!({
        "apiVersion": "drqm.io/v1alpha1",
        "kind": "DrQueueManager",
        "metadata": {
            "name": "qmdr", "namespace": "mq", "generation": 3, "uid": "u",
            "creationTimestamp": "2026-11-23T08:00:00Z",
            "managedFields": [{
                "manager": "drqm-operator/status", "operation": "Apply", "subresource": "status",
                "apiVersion": "drqm.io/v1alpha1", "time": "2026-11-23T13:59:20Z"
            }]
        },
        "spec": {
            "role": role,
            "queueManager": {
                "name": "QMDR",
                "custom": {"template": {}, "volume": {"mountPath": "/data"}}
            },
            "replication": {"peer": {"name": peer, "addresses": ["10.0.2.15:7001"]}}
        },
        "status": status
    }))
    .expect("the fixture is a DrQueueManager")
}

/// Lays `change` over `base`; null removes.
fn merge(base: &mut Value, change: Value) {
    match (base, change) {
        (Value::Object(base), Value::Object(change)) => {
            for (key, value) in change {
                if value.is_null() {
                    base.remove(&key);
                } else {
                    merge(base.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (base, change) => *base = change,
    }
}
