//! Tests of the peer's manifest.

use super::*;

fn primary() -> DrQueueManager {
    serde_json::from_value(json!({
        "apiVersion": "drqm.io/v1alpha1",
        "kind": "DrQueueManager",
        "metadata": { "name": "qmdr", "namespace": "mq", "uid": "u", "resourceVersion": "7" },
        "spec": {
            "role": "Primary",
            "promotion": { "requestId": "again" },
            "partition": { "resolution": "KeepLocal", "epoch": "0".repeat(32) },
            "queueManager": {
                "name": "QMDR",
                "custom": {
                    "template": { "spec": { "containers": [{ "name": "broker", "newField": 1 }] } },
                    "volume": { "mountPath": "/data" },
                },
            },
            "replication": {
                "localAddress": "10.0.2.14",
                "verify": { "requestId": "now" },
                "peer": { "name": "dr2", "addresses": ["10.0.2.15:7002"] },
            },
        },
    }))
    .expect("a valid resource")
}

fn secret() -> Secret {
    let data = [CA_CRT, CA_KEY, TLS_CRT, TLS_KEY, PAIR_ID]
        .map(|key| (key.to_owned(), ByteString(key.as_bytes().to_vec())));
    Secret {
        data: Some(data.into()),
        ..Secret::default()
    }
}

fn place() -> PeerPlace {
    PeerPlace {
        local_name: "dr1".to_owned(),
        local_address: "10.0.2.14".to_owned(),
        namespace: None,
    }
}

#[test]
fn the_other_half_mirrors_this_one() {
    let manifest = peer_manifest(&primary(), Some(&secret()), &place()).expect("a manifest");
    let spec = &manifest.resource["spec"];
    assert_eq!(spec["role"], "Secondary");
    assert_eq!(spec["queueManager"]["name"], "QMDR");
    assert_eq!(spec["replication"]["peer"]["name"], "dr1");
    assert_eq!(
        spec["replication"]["peer"]["addresses"][0],
        "10.0.2.14:7001"
    );
    assert_eq!(spec["replication"]["port"], 7002);
    assert_eq!(spec["replication"].get("localAddress"), None);
    assert_eq!(spec["promotion"].get("requestId"), None);
    assert_eq!(spec["replication"].get("verify"), None);
    assert_eq!(spec.get("partition"), None);
    let container = &spec["queueManager"]["custom"]["template"]["spec"]["containers"][0];
    assert_eq!(
        container["newField"], 1,
        "fields of other Kubernetes versions survive"
    );
    assert_eq!(
        manifest.resource["metadata"],
        json!({ "name": "qmdr", "namespace": "mq" })
    );
    let again: DrQueueManager = serde_json::from_value(manifest.resource).expect("readable");
    assert_eq!(again.spec.role, Role::Secondary);
}

#[test]
fn only_the_shared_keys_leave_this_cluster() {
    let manifest = peer_manifest(&primary(), Some(&secret()), &place()).expect("a manifest");
    let data = manifest.secret.expect("a Secret")["data"].clone();
    let keys: Vec<&String> = data.as_object().expect("a map").keys().collect();
    assert_eq!(keys, [CA_CRT, CA_KEY, PAIR_ID]);
}

#[test]
fn without_keys_there_is_no_manifest() {
    let why = peer_manifest(&primary(), None, &place()).expect_err("no Secret");
    assert!(
        matches!(&why, NoManifest::NotYet(text) if text.contains("qmdr-pair")),
        "{why:?}"
    );
    let mut partial = secret();
    partial.data.as_mut().expect("data").remove(CA_KEY);
    let why = peer_manifest(&primary(), Some(&partial), &place()).expect_err("no CA key");
    assert!(
        matches!(&why, NoManifest::Never(text) if text.contains("ca.key")),
        "{why:?}"
    );
}

#[test]
fn a_users_own_secret_stays_where_it_is() {
    let mut resource = primary();
    resource.spec.replication.tls = Some(TlsSpec {
        secret_name: "mine".to_owned(),
    });
    let manifest = peer_manifest(&resource, None, &place()).expect("a manifest");
    assert_eq!(manifest.secret, None);
    assert_eq!(
        manifest.resource["spec"]["replication"]["tls"]["secretName"],
        "mine"
    );
}

#[test]
fn ipv6_addresses_get_brackets() {
    assert_eq!(socket("2001:db8::1", 7001), "[2001:db8::1]:7001");
    assert_eq!(socket("[2001:db8::1]", 7001), "[2001:db8::1]:7001");
    assert_eq!(socket("dr1.example.org", 7001), "dr1.example.org:7001");
}
