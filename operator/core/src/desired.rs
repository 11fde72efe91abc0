//! Child objects as pure functions of spec and facts.
//!
//! Lives here: the set, and the names of children. Does not live here: reading live objects, applying
//! them. Each object holds only the fields that we mean (server-side apply owns exactly these).

pub mod replicator;
pub mod service;
pub mod volume;
pub mod workload;

use std::collections::BTreeMap;

use drqm_api::labels;
use drqm_api::v1alpha1::DrQueueManager;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;

use crate::observed::NodeFacts;
use crate::validate::Valid;

/// What shall be with a child object.
#[derive(Clone, Debug, PartialEq)]
pub enum Child<T> {
    /// Apply it.
    Apply(Box<T>),
    /// Delete it if it exists.
    Absent,
    /// Leave it as it is.
    Untouched,
}

/// The child objects of one `DrQueueManager`, in the order in which they are applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Objects {
    /// Before the claim, else binding takes seconds.
    pub persistent_volume: Child<PersistentVolume>,
    /// The claim.
    pub claim: Child<PersistentVolumeClaim>,
    /// The queue manager.
    pub stateful_set: Child<StatefulSet>,
    /// Published while serving.
    pub service: Child<Service>,
}

impl Objects {
    /// Leaves everything as it is.
    #[must_use]
    pub fn untouched() -> Self {
        Self {
            persistent_volume: Child::Untouched,
            claim: Child::Untouched,
            stateful_set: Child::Untouched,
            service: Child::Untouched,
        }
    }
}

/// Name of the claim.
#[must_use]
pub fn claim_name(name: &str) -> String {
    format!("{name}-data")
}

/// Name of the cluster-scoped volume: two namespaces may use the same resource name, and a re-created
/// resource must not meet the volume of its predecessor.
#[must_use]
pub fn persistent_volume_name(uid: &str) -> String {
    // FNV-1a, folded to 40 bits: short, stable over versions, and the uid is random already.
    let hash = uid.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("drqm-{:010x}", (hash >> 40 ^ hash) & 0xff_ffff_ffff)
}

/// The device's link on the node.
#[must_use]
pub fn device_path(namespace: &str, name: &str) -> String {
    format!("/dev/drqm/{namespace}_{name}")
}

/// Labels of all children.
#[must_use]
pub fn child_labels(valid: &Valid) -> BTreeMap<String, String> {
    [
        (labels::MANAGED_BY, labels::MANAGER),
        (labels::INSTANCE, &valid.name),
        (labels::QUEUE_MANAGER, &valid.name),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// Labels that select the queue manager's pod.
#[must_use]
pub fn pod_selector(valid: &Valid) -> BTreeMap<String, String> {
    [
        (labels::MANAGED_BY, labels::MANAGER),
        (labels::QUEUE_MANAGER, &valid.name),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// The reference that makes a namespaced child go with its owner.
#[must_use]
pub fn owner(valid: &Valid) -> OwnerReference {
    OwnerReference {
        api_version: DrQueueManager::api_version(&()).into_owned(),
        kind: DrQueueManager::kind(&()).into_owned(),
        name: valid.name.clone(),
        uid: valid.uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

fn child_metadata(valid: &Valid, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(valid.namespace.clone()),
        labels: Some(child_labels(valid)),
        owner_references: Some(vec![owner(valid)]),
        ..ObjectMeta::default()
    }
}

/// The children for a node and a number of replicas.
#[must_use]
pub fn objects(valid: &Valid, node: &NodeFacts, replicas: i32) -> Objects {
    let serving = replicas > 0;
    Objects {
        persistent_volume: Child::Apply(Box::new(volume::persistent_volume(valid, node))),
        claim: Child::Apply(Box::new(volume::claim(valid))),
        stateful_set: Child::Apply(Box::new(workload::stateful_set(valid, replicas))),
        service: match service::service(valid) {
            Some(service) if serving => Child::Apply(Box::new(service)),
            Some(_) | None => Child::Absent,
        },
    }
}

#[cfg(test)]
mod tests;
