//! Builders for tests: a healthy pair, seen from one side. Tests change what they are about.

use drqm_api::v1alpha1::{DataWord, DrQueueManager, MaxLoss, Mode, Role, VerdictWord};
use jiff::Timestamp;
use serde_json::json;

use crate::observed::{
    Children, Configuration, Device, Gate, Judged, Keys, Link, LinkState, Look, NodeFacts,
    Observed, Peer, PodFacts, ReplicatorView, StatefulSetFacts, Volume,
};
use crate::validate::{Valid, validate};

pub(crate) const UID: &str = "0d3c9a52-5a0c-4b1e-9a0e-6f9d4f1c2b3a";
pub(crate) const EPOCH: &str = "0123456789abcdef0123456789abcdef";

/// A fixed instant.
pub(crate) fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().expect("a valid time")
}

pub(crate) fn seconds_ago(seconds: i64) -> Timestamp {
    now()
        .checked_sub(jiff::SignedDuration::from_secs(seconds))
        .expect("in range")
}

pub(crate) fn object(role: Role) -> DrQueueManager {
    serde_json::from_value(json!({
        "apiVersion": "drqm.io/v1alpha1",
        "kind": "DrQueueManager",
        "metadata": { "name": "qmdr", "namespace": "mq", "uid": UID, "generation": 3 },
        "spec": {
            "role": role,
            "queueManager": {
                "name": "QMDR",
                "custom": {
                    "template": { "spec": { "containers": [{
                        "name": "broker",
                        "image": "broker:1",
                        "readinessProbe": { "tcpSocket": { "port": 4222 } },
                    }] } },
                    "volume": { "mountPath": "/data" },
                    "ports": [{ "name": "client", "port": 4222 }],
                },
            },
            "replication": {
                "localAddress": "10.0.2.14",
                "peer": { "name": "dr2", "addresses": ["10.0.2.15:7001"] },
            },
        },
    }))
    .expect("a valid resource")
}

pub(crate) fn volume(
    role: Role,
    link: LinkState,
    data: DataWord,
    peer_role: Option<Role>,
) -> Volume {
    let primary = role == Role::Primary;
    Volume {
        refreshed: true,
        cr_uid: UID.to_owned(),
        volume_id: "mq_qmdr".to_owned(),
        queue_manager_name: "QMDR".to_owned(),
        size_bytes: 3 << 30,
        capacity_bytes: 3 << 30,
        suspended: false,
        snapshot: None,
        snapshot_error: None,
        verification: None,
        given_up: false,
        kept_copies: Vec::new(),
        mode: Mode::Asynchronous,
        effective_mode: Mode::Asynchronous,
        role,
        data,
        epoch: if data == DataWord::Empty {
            String::new()
        } else {
            EPOCH.to_owned()
        },
        history: Vec::new(),
        sealed: false,
        link: Link {
            state: link,
            detail: String::new(),
            current_remote_address: None,
            local_address: None,
            rtt_micros: None,
        },
        peer: peer_role.map(|role| Peer {
            name: "dr2".to_owned(),
            role: Some(role),
            data: Some(DataWord::UpToDate),
            epoch: EPOCH.to_owned(),
            size_bytes: 3 << 30,
            mode: Some(Mode::Asynchronous),
            version: "0.1.0".to_owned(),
            queue_manager_name: "QMDR".to_owned(),
            heard_at: Some(now()),
            sealed: false,
        }),
        out_of_sync_bytes: 0,
        sync: None,
        recovery_point: None,
        device: Device {
            gate: if primary { Gate::Open } else { Gate::Closed },
            path: primary.then(|| "/dev/drqm/mq_qmdr".to_owned()),
            front_end: primary.then(|| "fuse-loop".to_owned()),
            held_by: String::new(),
            error: None,
            format_blocked_total: 0,
        },
        file_system: None,
        judged: Some(judged(role, VerdictWord::Steady, "Normal")),
        last_transition: None,
        superseded_by: None,
        crashed_tail_bytes: 0,
        error: None,
        configured: true,
        holder_memory_bytes: None,
        holder_cpu_percent: None,
    }
}

/// A request that was judged one generation before the object's.
pub(crate) fn judged(role: Role, verdict: VerdictWord, reason: &str) -> Judged {
    Judged {
        cr_uid: UID.to_owned(),
        generation: 2,
        role,
        request_id: String::new(),
        verdict,
        reason: reason.to_owned(),
        message: format!("message of {reason}"),
        max_loss: MaxLoss::None,
        requested_at: seconds_ago(60),
    }
}

pub(crate) fn observed(desired: Role, volume: Volume) -> Observed {
    let serving = volume.role == Role::Primary && volume.device.gate == Gate::Open;
    Observed {
        object: object(desired),
        node: Some(NodeFacts {
            name: "node1".to_owned(),
            hostname: "node1".to_owned(),
            address: Some("10.0.2.14".to_owned()),
            exists: true,
            ready: true,
            replicator_ready: true,
            volumes: 1,
        }),
        candidates: Vec::new(),
        no_node: None,
        replicator: ReplicatorView::Reached(Some(Box::new(volume))),
        children: Children {
            stateful_set: Some(StatefulSetFacts {
                replicas: i32::from(serving),
                ready_replicas: i32::from(serving),
            }),
            pod: serving.then(|| PodFacts {
                name: "qmdr-0".to_owned(),
                ready: true,
                ready_since: Some(seconds_ago(600)),
                terminating: false,
                failing: None,
            }),
            service: serving,
            persistent_volume: true,
            claim_bound: true,
            foreign: None,
        },
        keys: Keys::Present {
            ca_key: true,
            leaf: true,
            expires: None,
        },
        port_taken_by: None,
        look: Look::Later,
        configuration: Configuration::Sent,
        refused: None,
        status_age: None,
    }
}

pub(crate) fn valid(observed: &Observed) -> Valid {
    validate(observed).expect("a valid spec")
}
