//! The schema, as the API server will see it. CEL rules are tested against a real API server.

use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::*;

fn version() -> Value {
    let crd = serde_json::to_value(DrQueueManager::crd()).expect("serialisable");
    assert_eq!(crd["metadata"]["name"], "drqueuemanagers.drqm.io");
    assert_eq!(crd["spec"]["scope"], "Namespaced");
    crd["spec"]["versions"][0].clone()
}

/// Calls `visit` for every schema below (and with) `schema`.
fn walk(path: &str, schema: &Value, visit: &mut dyn FnMut(&str, &Value)) {
    visit(path, schema);
    if let Some(properties) = schema["properties"].as_object() {
        for (name, property) in properties {
            walk(&format!("{path}.{name}"), property, visit);
        }
    }
    for key in ["items", "additionalProperties"] {
        if schema[key].is_object() {
            walk(&format!("{path}[]"), &schema[key], visit);
        }
    }
}

#[test]
fn the_schema_is_structural() {
    let version = version();
    let schema = &version["schema"]["openAPIV3Schema"];
    walk("", schema, &mut |path, schema| {
        let typed = schema["type"].is_string() || schema["x-kubernetes-int-or-string"] == true;
        assert!(typed, "{path} has no type: {schema}");
        for key in ["$ref", "oneOf", "anyOf", "allOf", "definitions", "$defs"] {
            assert!(schema.get(key).is_none(), "{path} has {key}");
        }
    });
}

#[test]
fn every_field_explains_itself_and_is_bounded() {
    let version = version();
    let properties = &version["schema"]["openAPIV3Schema"]["properties"];
    for root in ["spec", "status"] {
        walk(root, &properties[root], &mut |path, schema| {
            let item = path.ends_with("[]");
            assert!(
                item || schema["description"].is_string(),
                "{path} has no description"
            );
            let long = schema["description"]
                .as_str()
                .is_some_and(|text| text.len() > 2000);
            assert!(!long, "{path} has a description that nobody reads");
        });
    }
    // Unbounded strings and lists make CEL rules over them too expensive for the API server.
    walk("spec", &properties["spec"], &mut |path, schema| {
        if path.contains(".template") || path.contains(".ports[]") {
            return;
        }
        let bounded = match schema["type"].as_str() {
            Some("string") => schema["maxLength"].is_u64() || schema["enum"].is_array(),
            Some("array") => schema["maxItems"].is_u64(),
            _ => true,
        };
        assert!(bounded, "{path} has no bound");
    });
}

#[test]
fn conditions_merge_by_type_and_roles_can_be_selected() {
    let version = version();
    let status = &version["schema"]["openAPIV3Schema"]["properties"]["status"];
    let conditions = &status["properties"]["conditions"];
    assert_eq!(conditions["x-kubernetes-list-type"], "map");
    assert_eq!(conditions["x-kubernetes-list-map-keys"], json!(["type"]));
    assert_eq!(
        version["selectableFields"],
        json!([{ "jsonPath": ".spec.role" }])
    );
    assert!(version["subresources"]["status"].is_object());
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let spec: DrQueueManagerSpec = serde_json::from_value(json!({
        "role": "Secondary",
        "queueManager": { "name": "QMDR" },
    }))
    .expect("the least spec");
    assert!(spec.queue_manager.running);
    assert_eq!(spec.storage.size.0, "3Gi");
    assert_eq!(spec.storage.fs_type, FsType::Xfs);
    assert_eq!(
        (spec.replication.port, spec.replication.mode),
        (7001, Mode::Asynchronous)
    );
    assert_eq!(spec.promotion.timeout_seconds, 900);
    assert_eq!(
        spec.promotion.when_peer_unknown,
        PromoteWhenPeerUnknown::Allow
    );
    assert_eq!(spec.start.peer_check_timeout_seconds, 30);
    assert_eq!(spec.start.when_peer_unknown, StartWhenPeerUnknown::Start);
    assert_eq!(spec.deletion.while_running, DeleteWhileRunning::Refuse);
    assert_eq!(spec.deletion.data, DataOnDelete::Retain);
    assert_eq!(spec.bootstrap, Bootstrap::Auto);
    // The API server's defaults are written out in the schema and must be the same.
    let version = version();
    let properties = &version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    assert_eq!(
        properties["storage"]["default"],
        json!({ "size": "3Gi", "fsType": "xfs" })
    );
}
