//! An API server as far as one object's conversation goes: it stores, merges and records.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// What is stored, by path, and what was written, in order.
#[derive(Default)]
pub(crate) struct Store {
    pub(crate) objects: BTreeMap<String, Value>,
    pub(crate) writes: Vec<String>,
}

pub(crate) type Shared = Arc<Mutex<Store>>;

/// Serves on loopback and returns a client for it.
pub(crate) async fn start(store: Shared) -> Client {
    let router = Router::new().fallback(handle).with_state(store);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, router).await.expect("serving") });
    let url = format!("http://{address}").parse().expect("a URL");
    Client::try_from(Config::new(url)).expect("a client")
}

async fn handle(State(store): State<Shared>, method: Method, uri: Uri, body: Bytes) -> Response {
    let mut store = store.lock().expect("not poisoned");
    let path = uri.path().to_owned();
    if method == Method::GET && path == "/apis/drqm.io/v1alpha1/drqueuemanagers" {
        let list = json!({"apiVersion": "drqm.io/v1alpha1", "kind": "DrQueueManagerList",
            "metadata": {}, "items": []});
        return Json(list).into_response();
    }
    if method == Method::GET {
        return match store.objects.get(&path) {
            Some(object) => Json(object.clone()).into_response(),
            None => missing(),
        };
    }
    store.writes.push(format!("{method} {path}"));
    if method == Method::DELETE {
        return match store.objects.remove(&path) {
            Some(object) => Json(object).into_response(),
            None => missing(),
        };
    }
    let patch: Value = serde_json::from_slice(&body).expect("JSON");
    if method == Method::POST {
        if let Some(name) = patch["metadata"]["name"].as_str() {
            let path = format!("{path}/{name}");
            store.objects.insert(path, patch.clone());
        }
        return (StatusCode::CREATED, Json(patch)).into_response();
    }
    let path = path.trim_end_matches("/status").to_owned();
    let object = store
        .objects
        .entry(path)
        .or_insert_with(|| json!({"metadata": {"uid": "made"}}));
    if patch.is_array() {
        // A JSON patch: only the finalizer helper sends one.
        object["metadata"]["finalizers"] = json!([]);
    } else {
        merge(object, patch);
    }
    Json(object.clone()).into_response()
}

fn missing() -> Response {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404,
        "reason": "NotFound", "message": "not found", "metadata": {}});
    (StatusCode::NOT_FOUND, Json(status)).into_response()
}

/// Enough of an apply by the only manager: lists and scalars are replaced, null removes.
fn merge(into: &mut Value, patch: Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    into.remove(&key);
                } else {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (into, patch) => *into = patch,
    }
}
