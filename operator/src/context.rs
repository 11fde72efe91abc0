//! What every step may use.
//!
//! Lives here: the struct, and questions to its caches. Does not live here: functions that do
//! steps.

use std::sync::Arc;

use drqm_api::v1alpha1::DrQueueManager;
use drqm_core::{observed::NodeFacts, retry::RetryPolicy};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Client, ResourceExt,
    core::PartialObjectMeta,
    runtime::{
        events::Recorder,
        reflector::{ObjectRef, Store},
    },
};

use crate::{
    api_server::AppliedObjects,
    clock::Clock,
    config::Config,
    counters::FailureCounters,
    memory::Memory,
    metrics::Metrics,
    node,
    replicator_client::{Place, ReplicatorClients},
    replicator_events::Sessions,
};

/// The main watch holds metadata only: a spec that this build cannot read does not disturb it, and
/// each pass reads its object live anyway.
pub type ObjectMetadata = PartialObjectMeta<DrQueueManager>;

/// What every step may use.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// The installation's configuration.
    pub config: Config,
    /// Metadata of every `DrQueueManager`.
    pub objects: Store<ObjectMetadata>,
    /// All nodes, pruned.
    pub nodes: Store<Node>,
    /// The replicators' pods, pruned.
    pub replicator_pods: Store<Pod>,
    /// Connections to replicators.
    pub replicators: Arc<ReplicatorClients>,
    /// How often each replicator's stream was opened: tells a restarted one.
    pub sessions: Arc<Sessions>,
    /// Events.
    pub recorder: Recorder,
    /// Clocks.
    pub clock: Clock,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// How failures are retried.
    pub retry: RetryPolicy,
    /// Failures in a row.
    pub failures: FailureCounters,
    /// What this process remembers.
    pub memory: Memory,
    /// What was applied.
    pub applied: AppliedObjects,
}

impl Context {
    /// Where replicators run.
    pub fn places(&self) -> Vec<Place> {
        let pods = self.replicator_pods.state();
        node::places(
            pods.iter().map(Arc::as_ref),
            self.config.replicator.ports.control,
        )
    }

    /// A node as the decisions see it; it need not exist any more.
    pub fn node_facts(&self, name: &str) -> NodeFacts {
        let object = self.nodes.get(&ObjectRef::new(name));
        let node = object.as_deref();
        NodeFacts {
            name: name.to_owned(),
            hostname: node
                .and_then(|node| node.labels().get("kubernetes.io/hostname").cloned())
                .unwrap_or_else(|| name.to_owned()),
            address: node.and_then(node::internal_ip),
            exists: node.is_some(),
            ready: node.is_some_and(node::is_ready),
            replicator_ready: self.replicator_pods.state().iter().any(|pod| {
                pod.spec
                    .as_ref()
                    .is_some_and(|spec| spec.node_name.as_deref() == Some(name))
                    && node::is_pod_ready(pod)
            }),
            volumes: 0,
        }
    }

    /// The present boot of a node.
    pub fn boot_id(&self, name: &str) -> Option<String> {
        let object = self.nodes.get(&ObjectRef::new(name))?;
        node::boot_id(&object).map(str::to_owned)
    }

    /// Drops everything that is remembered about an object that is gone.
    pub fn forget(&self, uid: &str) {
        self.memory.forget(uid);
        self.applied.forget(uid);
        self.failures.forget(uid);
        self.metrics.failing(self.failures.len());
    }
}
