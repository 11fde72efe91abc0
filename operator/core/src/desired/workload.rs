//! The StatefulSet of a queue manager: the user's pod template and the replicated volume.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    Container, PersistentVolumeClaimVolumeSource, PodTemplateSpec, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::{child_labels, child_metadata, claim_name, pod_selector};
use crate::validate::{VOLUME_NAME, Valid};

/// The StatefulSet with 0 or 1 replicas.
#[must_use]
pub fn stateful_set(valid: &Valid, replicas: i32) -> StatefulSet {
    StatefulSet {
        metadata: child_metadata(valid, valid.name.clone()),
        spec: Some(StatefulSetSpec {
            replicas: Some(replicas),
            // There is one pod at most. In order, a pod that never became ready would keep its
            // replacement from being made, and a corrected template would never be tried.
            pod_management_policy: Some("Parallel".to_owned()),
            service_name: Some(valid.name.clone()),
            selector: LabelSelector {
                match_labels: Some(pod_selector(valid)),
                match_expressions: None,
            },
            template: template(valid),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

fn template(valid: &Valid) -> PodTemplateSpec {
    let mut template = valid.template.clone();
    let metadata = template.metadata.get_or_insert_default();
    metadata
        .labels
        .get_or_insert_default()
        .extend(child_labels(valid));
    if let Some(pod) = &mut template.spec {
        pod.volumes.get_or_insert_default().push(Volume {
            name: VOLUME_NAME.to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim_name(&valid.name),
                read_only: None,
            }),
            ..Volume::default()
        });
        for container in &mut pod.containers {
            if container.name == valid.container {
                container
                    .volume_mounts
                    .get_or_insert_default()
                    .push(VolumeMount {
                        name: VOLUME_NAME.to_owned(),
                        mount_path: valid.mount_path.clone(),
                        ..VolumeMount::default()
                    });
            }
            probe_every_second(container);
        }
    }
    template
}

/// Kubernetes' default of 10 s between probes would make a start look up to 10 s longer than it is.
fn probe_every_second(container: &mut Container) {
    if let Some(probe) = &mut container.readiness_probe {
        probe.period_seconds.get_or_insert(1);
    }
}
