//! The local PersistentVolume on the replicated device, and its claim.
//!
//! `fsType: auto` on purpose: kubelet cannot format with it, and kubelet formatting is how a valid file
//! system is destroyed when reads fail for a moment. The replicator makes the file system, once.

use std::collections::BTreeMap;

use drqm_api::labels;
use drqm_api::v1alpha1::FsType;
use k8s_openapi::api::core::v1::{
    LocalVolumeSource, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, ObjectReference,
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeSpec,
    VolumeNodeAffinity, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{child_labels, child_metadata, claim_name, device_path, persistent_volume_name};
use crate::observed::NodeFacts;
use crate::validate::Valid;

const ACCESS: &str = "ReadWriteOnce";
/// Bytes of the smallest volume that there is.
const LEAST: u64 = 16 << 20;

const HOSTNAME: &str = "kubernetes.io/hostname";

/// The volume, bound to its claim in advance: a volume that is there first is bound at once.
#[must_use]
pub fn persistent_volume(valid: &Valid, node: &NodeFacts) -> PersistentVolume {
    let mut labels = child_labels(valid);
    labels.insert(labels::NAMESPACE.to_owned(), valid.namespace.clone());
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(persistent_volume_name(&valid.uid)),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            // Kubelet grows the file system when this is more than it was: once the device has grown.
            capacity: Some(storage(valid.agreed_bytes)),
            access_modes: Some(vec![ACCESS.to_owned()]),
            volume_mode: Some("Filesystem".to_owned()),
            persistent_volume_reclaim_policy: Some("Retain".to_owned()),
            storage_class_name: Some(labels::STORAGE_CLASS.to_owned()),
            // Both sides' file systems have one UUID, and a healed device shows it a second time.
            mount_options: match valid.fs_type {
                FsType::Xfs => Some(vec!["nouuid".to_owned()]),
                FsType::Ext4 => None,
            },
            local: Some(LocalVolumeSource {
                path: device_path(&valid.namespace, &valid.name),
                fs_type: Some("auto".to_owned()),
            }),
            node_affinity: Some(on_node(node)),
            claim_ref: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("PersistentVolumeClaim".to_owned()),
                namespace: Some(valid.namespace.clone()),
                name: Some(claim_name(&valid.name)),
                ..ObjectReference::default()
            }),
            ..PersistentVolumeSpec::default()
        }),
        ..PersistentVolume::default()
    }
}

/// The claim.
#[must_use]
pub fn claim(valid: &Valid) -> PersistentVolumeClaim {
    PersistentVolumeClaim {
        metadata: child_metadata(valid, claim_name(&valid.name)),
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec![ACCESS.to_owned()]),
            resources: Some(VolumeResourceRequirements {
                // A claim that is bound by name cannot ask for more later; its volume may grow.
                requests: Some(storage(LEAST)),
                ..VolumeResourceRequirements::default()
            }),
            storage_class_name: Some(labels::STORAGE_CLASS.to_owned()),
            volume_mode: Some("Filesystem".to_owned()),
            volume_name: Some(persistent_volume_name(&valid.uid)),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}

fn storage(bytes: u64) -> BTreeMap<String, Quantity> {
    [("storage".to_owned(), Quantity(quantity(bytes)))].into()
}

/// As a person would write it.
fn quantity(bytes: u64) -> String {
    let units = [(30, "Gi"), (20, "Mi")];
    let whole = units
        .iter()
        .find(|(shift, _)| bytes.trailing_zeros() >= *shift);
    whole.map_or_else(
        || bytes.to_string(),
        |(shift, unit)| format!("{}{unit}", bytes >> shift),
    )
}

fn on_node(node: &NodeFacts) -> VolumeNodeAffinity {
    VolumeNodeAffinity {
        required: Some(NodeSelector {
            node_selector_terms: vec![NodeSelectorTerm {
                match_expressions: Some(vec![NodeSelectorRequirement {
                    key: HOSTNAME.to_owned(),
                    operator: "In".to_owned(),
                    values: Some(vec![node.hostname.clone()]),
                }]),
                match_fields: None,
            }],
        }),
    }
}
