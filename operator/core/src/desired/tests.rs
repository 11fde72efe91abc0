//! What the child objects say.

use drqm_api::v1alpha1::{DataWord, Role};
use serde_json::{Value, json};

use super::replicator::{ReplicatorConfig, daemon_set};
use super::*;
use crate::observed::{LinkState, Observed};
use crate::testing;

fn seen() -> Observed {
    let volume = testing::volume(
        Role::Primary,
        LinkState::Connected,
        DataWord::UpToDate,
        Some(Role::Secondary),
    );
    testing::observed(Role::Primary, volume)
}

fn children(replicas: i32) -> [Value; 4] {
    let seen = seen();
    let objects = objects(
        &testing::valid(&seen),
        seen.node.as_ref().expect("set"),
        replicas,
    );
    fn value<T: serde::Serialize>(child: &Child<T>) -> Value {
        match child {
            Child::Apply(object) => serde_json::to_value(object).expect("serialisable"),
            Child::Absent => json!("absent"),
            Child::Untouched => json!("untouched"),
        }
    }
    [
        value(&objects.persistent_volume),
        value(&objects.claim),
        value(&objects.stateful_set),
        value(&objects.service),
    ]
}

#[test]
fn kubelet_can_neither_format_nor_run_elsewhere() {
    let [volume, claim, ..] = children(1);
    let spec = &volume["spec"];
    assert_eq!(
        spec["local"],
        json!({ "path": "/dev/drqm/mq_qmdr", "fsType": "auto" })
    );
    assert_eq!(spec["mountOptions"], json!(["nouuid"]));
    assert_eq!(spec["persistentVolumeReclaimPolicy"], "Retain");
    let terms = &spec["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0];
    assert_eq!(terms["values"], json!(["node1"]));
    assert_eq!(spec["claimRef"]["name"], "qmdr-data");
    assert_eq!(claim["spec"]["volumeName"], volume["metadata"]["name"]);
    assert_eq!(
        volume["metadata"].get("ownerReferences"),
        None,
        "no cross-scope owners"
    );
    assert_eq!(claim["metadata"]["ownerReferences"][0]["uid"], testing::UID);
}

#[test]
fn the_pod_is_the_users_template_and_the_volume() {
    let [.., set, service] = children(1);
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!(set["spec"]["replicas"], 1);
    assert_eq!(pod["containers"][0]["image"], "broker:1");
    assert_eq!(pod["containers"][0]["readinessProbe"]["periodSeconds"], 1);
    let mount = json!([{ "name": "drqm-data", "mountPath": "/data" }]);
    assert_eq!(pod["containers"][0]["volumeMounts"], mount);
    assert_eq!(
        pod["volumes"][0]["persistentVolumeClaim"],
        json!({ "claimName": "qmdr-data" })
    );
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    for selector in [
        &set["spec"]["selector"]["matchLabels"],
        &service["spec"]["selector"],
    ] {
        for (key, value) in selector.as_object().expect("a map") {
            assert_eq!(&labels[key], value, "the selector finds the pod");
        }
    }
    let [.., set, service] = children(0);
    assert_eq!(
        (&set["spec"]["replicas"], service),
        (&json!(0), json!("absent"))
    );
}

#[test]
fn cluster_scoped_names_are_short_stable_and_differ() {
    let name = persistent_volume_name(testing::UID);
    assert_eq!(name.len(), "drqm-".len() + 10);
    assert_eq!(name, persistent_volume_name(testing::UID));
    assert_ne!(
        name,
        persistent_volume_name("0d3c9a52-5a0c-4b1e-9a0e-6f9d4f1c2b3b")
    );
}

#[test]
fn the_replicator_gets_what_it_needs_and_no_token() {
    let config: ReplicatorConfig = serde_json::from_value(json!({
        "image": "drqm-replicator:1",
        "pool": { "kind": "file", "path": "/srv/pool", "capacityBytes": 1024, "allocation": "sparse" },
        "ports": { "replication": 7002 },
    }))
    .expect("a valid configuration");
    let set = serde_json::to_value(daemon_set("drqm-system", &config, "hash", None));
    let pod = set.expect("serialisable")["spec"]["template"]["spec"].clone();
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(
        (&pod["hostNetwork"], &pod["hostPID"]),
        (&json!(true), &json!(true))
    );
    let container = &pod["containers"][0];
    assert_eq!(container["securityContext"]["privileged"], true);
    let arguments: Vec<&str> = container["args"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    for argument in [
        "--replication-listen=0.0.0.0:7002",
        "--control-listen=$(HOST_IP):7441",
        "--pool-dir=/srv/pool",
        "--pool-capacity=1024",
        "--pool-allocation=sparse",
    ] {
        assert!(arguments.contains(&argument), "{argument} in {arguments:?}");
    }
    let mounts = container["volumeMounts"].as_array().expect("a list");
    assert!(mounts.iter().any(|mount| mount["mountPath"] == "/srv/pool"));
    let wrong = serde_json::from_value::<ReplicatorConfig>(json!({ "image": "x", "pol": {} }));
    assert!(wrong.expect_err("a typo").to_string().contains("pol"));
}
