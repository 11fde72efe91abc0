//! Whole passes: reconcile between an API server and a replicator, both spoken to over loopback.
//!
//! Lives here: what is written, in which order, and that nothing is written when nothing changes.
//! Does not live here: what is decided (`drqm_core`'s own tests).

mod api_server;
mod replicator;

use std::sync::{Arc, Mutex};

use drqm_api::v1alpha1::EffectiveRole;
use drqm_core::{desired::replicator::PortsConfig, retry::RetryPolicy};
use drqm_operator::{
    api_server::AppliedObjects,
    certificates::control::ControlTls,
    clock::Clock,
    config::Config,
    context::{Context, ObjectMetadata},
    controller::{observe, reconcile},
    counters::FailureCounters,
    memory::Memory,
    metrics::Metrics,
    replicator_client::{CallError, Place, ReplicatorClients},
    replicator_events::Sessions,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::runtime::{events::Recorder, reflector, watcher::Event};
use serde_json::{Value, json};

const OBJECT: &str = "/apis/drqm.io/v1alpha1/namespaces/mq/drqueuemanagers/qmdr";
const SET: &str = "/apis/apps/v1/namespaces/mq/statefulsets/qmdr";
const SERVICE: &str = "/api/v1/namespaces/mq/services/qmdr";
const SECRET: &str = "/api/v1/namespaces/mq/secrets/qmdr-pair";

struct World {
    context: Arc<Context>,
    api: api_server::Shared,
    replicator: replicator::Replicator,
}

impl World {
    async fn new(object: Value) -> Self {
        let api = api_server::Shared::new(Mutex::default());
        api.lock().expect("free").objects.extend([
            (OBJECT.to_owned(), object),
            (
                "/api/v1/namespaces/mq".to_owned(),
                json!({"metadata": {"name": "mq"}}),
            ),
        ]);
        let client = api_server::start(api.clone()).await;
        let tls = ControlTls::ensured(None, Timestamp::now()).expect("certificates");
        let replicator = replicator::Replicator::default();
        let address = replicator::start(replicator.clone(), &tls).await;
        let metrics = Arc::new(Metrics::new());
        let replicators = Arc::new(ReplicatorClients::new(metrics.clone()));
        replicators.set_identity(&tls).expect("an identity");
        let (objects, _) = reflector::store::<ObjectMetadata>();
        let (nodes, mut node_writer) = reflector::store::<Node>();
        node_writer.apply_watcher_event(&Event::Apply(node()));
        let (replicator_pods, mut pod_writer) = reflector::store::<Pod>();
        pod_writer.apply_watcher_event(&Event::Apply(replicator_pod()));
        let ports = PortsConfig {
            control: address.port(),
            ..PortsConfig::default()
        };
        let config = Config {
            namespace: "drqm-system".to_owned(),
            replicator: serde_json::from_value(json!({"image": "i", "ports": {
                "replication": ports.replication, "control": ports.control, "metrics": ports.metrics}}))
            .expect("a configuration"),
        };
        let context = Arc::new(Context {
            recorder: Recorder::new(client.clone(), "drqm-operator".into()),
            client,
            config,
            objects,
            nodes,
            replicator_pods,
            replicators,
            sessions: Arc::new(Sessions::default()),
            clock: Clock::System,
            metrics,
            retry: RetryPolicy::new(
                std::time::Duration::from_secs(1),
                std::time::Duration::from_secs(60),
                0.0,
            )
            .expect("valid"),
            failures: FailureCounters::default(),
            memory: Memory::default(),
            applied: AppliedObjects::default(),
        });
        Self {
            context,
            api,
            replicator,
        }
    }

    async fn pass(&self) {
        let object = self.stored(OBJECT).expect("the object");
        let metadata =
            Arc::new(serde_json::from_value::<ObjectMetadata>(object).expect("metadata"));
        reconcile(metadata, self.context.clone())
            .await
            .expect("a pass");
    }

    fn stored(&self, path: &str) -> Option<Value> {
        self.api.lock().expect("free").objects.get(path).cloned()
    }

    fn take_writes(&self) -> Vec<String> {
        std::mem::take(&mut self.api.lock().expect("free").writes)
    }

    fn commands(&self) -> Vec<String> {
        self.replicator.0.lock().expect("free").commands.clone()
    }
}

fn node() -> Node {
    serde_json::from_value(
        json!({"metadata": {"name": "n1", "labels": {"kubernetes.io/hostname": "n1"}},
        "status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "conditions": [{"type": "Ready", "status": "True"}]}}),
    )
    .expect("a node")
}

fn replicator_pod() -> Pod {
    serde_json::from_value(
        json!({"metadata": {"name": "r", "namespace": "drqm-system"},
        "spec": {"nodeName": "n1", "containers": []},
        "status": {"hostIP": "127.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}}),
    )
    .expect("a pod")
}

fn object(role: &str, peer: Value) -> Value {
    json!({
        "apiVersion": "drqm.io/v1alpha1", "kind": "DrQueueManager",
        "metadata": {"name": "qmdr", "namespace": "mq", "uid": "0b0e7c1a", "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "finalizers": [drqm_api::labels::FINALIZER]},
        "spec": {"role": role, "storage": {"size": "1Gi"}, "replication": peer,
            "queueManager": {"name": "QMDR", "custom": {"volume": {"mountPath": "/data"},
                "ports": [{"name": "mq", "port": 4222}],
                "template": {"spec": {"containers": [{"name": "broker", "image": "nats"}]}}}}},
    })
}

#[tokio::test]
async fn a_primary_without_a_peer_is_created_step_by_step_and_then_left_alone() {
    let world = World::new(object("Primary", json!({}))).await;

    world.pass().await;
    let status = &world.stored(OBJECT).expect("the object")["status"];
    assert_eq!(
        status["node"], "n1",
        "the node is recorded in a pass of its own: {status}"
    );
    assert!(world.commands().is_empty());

    for _ in 0..8 {
        world.pass().await;
    }
    let commands = world.commands();
    assert_eq!(
        commands.first().map(String::as_str),
        Some("Configure"),
        "{commands:?}"
    );
    assert!(
        commands.contains(&"SetRole Primary initialize=true".to_owned()),
        "{commands:?}"
    );
    let set = world.stored(SET).expect("a StatefulSet");
    assert_eq!(set["spec"]["replicas"], 1);
    assert!(world.stored(SERVICE).is_some());
    assert_eq!(
        world.stored("/api/v1/namespaces/mq").expect("namespace")["metadata"]["labels"]
            [drqm_api::labels::GUARDED_NAMESPACE],
        "true"
    );

    // The pod comes up; then nothing changes any more.
    world.api.lock().expect("free").objects.insert(
        "/api/v1/namespaces/mq/pods/qmdr-0".to_owned(),
        json!({"metadata": {"name": "qmdr-0", "namespace": "mq"}, "status": {"conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}),
    );
    world.pass().await;
    world.pass().await;
    let (writes, before) = (world.take_writes(), world.commands().len());
    assert!(!writes.is_empty());
    for _ in 0..3 {
        world.pass().await;
    }
    assert_eq!(
        world.take_writes(),
        Vec::<String>::new(),
        "an idle pair is written to"
    );
    assert_eq!(world.commands().len(), before, "an idle pair is commanded");
    let status = &world.stored(OBJECT).expect("the object")["status"];
    assert_eq!(
        (&status["role"], &status["serving"]),
        (&json!("Primary"), &json!(true))
    );
    let live = observe::live(&world.context, "mq", "qmdr")
        .await
        .expect("an answer");
    assert_eq!(live.expect("it exists").role, EffectiveRole::Primary);
    let none = observe::live(&world.context, "mq", "other")
        .await
        .expect("an answer");
    assert!(none.is_none());
}

#[tokio::test]
async fn somebody_elses_change_of_a_child_is_undone() {
    let world = World::new(object("Primary", json!({}))).await;
    for _ in 0..8 {
        world.pass().await;
    }
    world
        .api
        .lock()
        .expect("free")
        .objects
        .get_mut(SET)
        .expect("a StatefulSet")["spec"]["replicas"] = json!(0);
    world.pass().await;
    assert_eq!(
        world.stored(SET).expect("a StatefulSet")["spec"]["replicas"],
        1
    );
}

#[tokio::test]
async fn a_secondary_with_a_peer_waits_for_its_secret_and_a_primary_makes_it() {
    let peer = json!({"peer": {"name": "dr1", "addresses": ["10.0.2.14:7001"]}});
    let secondary = World::new(object("Secondary", peer.clone())).await;
    for _ in 0..4 {
        secondary.pass().await;
    }
    assert!(secondary.stored(SECRET).is_none());
    assert!(
        !secondary
            .commands()
            .iter()
            .any(|command| command.starts_with("SetRole"))
    );

    let primary = World::new(object("Primary", peer)).await;
    for _ in 0..4 {
        primary.pass().await;
    }
    let secret = primary.stored(SECRET).expect("a Secret");
    for member in ["ca.crt", "ca.key", "tls.crt", "tls.key", "pair-id"] {
        assert!(secret["data"][member].is_string(), "{member}");
    }
    // The peer does not answer, and bootstrap is Auto: nothing is created.
    assert!(
        !primary
            .commands()
            .iter()
            .any(|command| command.starts_with("SetRole"))
    );
}

#[tokio::test]
async fn a_deletion_stops_forgets_and_lets_go() {
    let mut asked = object("Primary", json!({}));
    asked["spec"]["deletion"] = json!({"whileRunning": "Stop"});
    let world = World::new(asked).await;
    for _ in 0..8 {
        world.pass().await;
    }
    assert_eq!(
        world.stored(SET).expect("a StatefulSet")["spec"]["replicas"],
        1
    );
    world
        .api
        .lock()
        .expect("free")
        .objects
        .get_mut(OBJECT)
        .expect("there")["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    world.take_writes();
    for _ in 0..6 {
        // Pending is an error of the finalizer helper, which keeps the finalizer.
        let stored = world.stored(OBJECT).expect("the object");
        let metadata =
            Arc::new(serde_json::from_value::<ObjectMetadata>(stored).expect("metadata"));
        let released = reconcile(metadata, world.context.clone()).await.is_ok();
        if released {
            break;
        }
    }
    let writes = world.take_writes();
    assert_eq!(
        world.commands().last().map(String::as_str),
        Some("DeleteVolume")
    );
    assert!(
        world.stored(SERVICE).is_none() && world.stored(SET).is_none(),
        "{writes:?}"
    );
    assert_eq!(
        writes.last().map(String::as_str),
        Some(format!("PATCH {OBJECT}").as_str())
    );
    assert!(
        world.stored("/api/v1/namespaces/mq").expect("namespace")["metadata"]["labels"]
            [drqm_api::labels::GUARDED_NAMESPACE]
            .is_null()
    );
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_reported_and_left_as_it_is() {
    let mut broken = object("Primary", json!({}));
    broken["spec"]["role"] = json!("Tertiary");
    let world = World::new(broken.clone()).await;
    world.pass().await;
    let writes = world.take_writes();
    assert_eq!(writes.len(), 1, "{writes:?}");
    assert!(
        writes[0].starts_with("POST") && writes[0].ends_with("/events"),
        "{writes:?}"
    );
    assert_eq!(world.stored(OBJECT), Some(broken));
}

#[tokio::test]
async fn a_stranger_is_not_admitted_by_a_replicator() {
    let world = World::new(object("Primary", json!({}))).await;
    let metrics = Arc::new(Metrics::new());
    let stranger = ReplicatorClients::new(metrics);
    let port = world.context.config.replicator.ports.control;
    let place = Place {
        node: "n1".to_owned(),
        address: ([127, 0, 0, 1], port).into(),
    };
    assert!(matches!(
        stranger.node_state(&place).await,
        Err(CallError::NoIdentity)
    ));
    let other = ControlTls::ensured(None, Timestamp::now()).expect("certificates");
    stranger.set_identity(&other).expect("an identity");
    assert!(matches!(
        stranger.node_state(&place).await,
        Err(CallError::Unreachable { .. } | CallError::Deadline { .. })
    ));
    world
        .context
        .replicators
        .node_state(&place)
        .await
        .expect("the operator is admitted");
}
