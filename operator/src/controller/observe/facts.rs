//! What live objects mean, as plain facts.
//!
//! Lives here: pure conversions from Kubernetes' objects. Does not live here: reading them.

use drqm_api::{labels, v1alpha1::DrQueueManager};
use drqm_core::observed::{PodFacts, PodFailure, StatefulSetFacts};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ContainerStatus, PersistentVolumeClaim, Pod, PodCondition, Service},
};
use kube::{Resource, ResourceExt};

/// Kubelet's first five attempts to mount take 7.5 s; the next comes 8 s later.
const MOUNT_PATIENCE: SignedDuration = SignedDuration::from_secs(10);

/// Whether two objects of one node cannot have the listeners and pair ids that they ask for.
pub(super) fn listeners_collide(
    object: &DrQueueManager,
    other: &DrQueueManager,
    shared_port: u16,
) -> bool {
    let node = |object: &DrQueueManager| object.status.as_ref().and_then(|s| s.node.clone());
    let (mine, theirs) = (&object.spec.replication, &other.spec.replication);
    if object.uid() == other.uid() || node(object) != node(other) || mine.port != theirs.port {
        return false;
    }
    // The shared port is bound once, for every address; another port as the pair says.
    let addresses_differ = mine.port != shared_port && mine.local_address != theirs.local_address;
    // With Secrets of the user's own the pair id comes from the queue manager's name.
    let same_pair = mine.tls.is_some()
        && theirs.tls.is_some()
        && object.spec.queue_manager.name == other.spec.queue_manager.name;
    addresses_differ || same_pair
}

/// The StatefulSet.
pub(super) fn stateful_set(set: &StatefulSet) -> StatefulSetFacts {
    StatefulSetFacts {
        replicas: set
            .spec
            .as_ref()
            .and_then(|spec| spec.replicas)
            .unwrap_or(1),
        ready_replicas: set
            .status
            .as_ref()
            .and_then(|status| status.ready_replicas)
            .unwrap_or_default(),
    }
}

/// The queue manager's pod.
pub(super) fn pod(pod: &Pod, now: Timestamp) -> PodFacts {
    let ready = condition(pod, "Ready");
    let is_ready = ready.is_some_and(|condition| condition.status == "True");
    PodFacts {
        name: pod.name_any(),
        ready: is_ready,
        ready_since: ready
            .filter(|_| is_ready)
            .and_then(|condition| condition.last_transition_time.as_ref())
            .map(|time| time.0),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        failing: failing(pod).or_else(|| unmounted(pod, now)),
    }
}

/// Whether the claim has its volume.
pub(super) fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    claim
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        == Some("Bound")
}

/// The first child that somebody else made under the name of ours.
pub(super) fn foreign(
    uid: &str,
    set: Option<&StatefulSet>,
    service: Option<&Service>,
    claim: Option<&PersistentVolumeClaim>,
) -> Option<String> {
    set.and_then(|set| foreign_child(uid, set))
        .or_else(|| service.and_then(|service| foreign_child(uid, service)))
        .or_else(|| claim.and_then(|claim| foreign_child(uid, claim)))
}

fn foreign_child<K: Resource<DynamicType = ()>>(uid: &str, child: &K) -> Option<String> {
    let is_ours = child.labels().get(labels::MANAGED_BY).map(String::as_str)
        == Some(labels::MANAGER)
        && child
            .owner_references()
            .iter()
            .all(|owner| owner.uid == uid);
    // A child that is on its way out belonged to a deleted object of the same name.
    if is_ours || child.meta().deletion_timestamp.is_some() {
        return None;
    }
    let manager = child
        .managed_fields()
        .first()
        .and_then(|entry| entry.manager.clone())
        .unwrap_or_else(|| "somebody else".to_owned());
    Some(format!(
        "{} {} is managed by {manager}",
        K::kind(&()),
        child.name_any()
    ))
}

fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status
        .as_ref()?
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == kind)
}

/// Why the pod does not come up. The texts of Kubernetes are left out where they carry times or
/// addresses that change.
fn failing(pod: &Pod) -> Option<PodFailure> {
    if let Some(scheduled) = condition(pod, "PodScheduled")
        && scheduled.status == "False"
        && let Some(reason) = &scheduled.reason
    {
        return Some(PodFailure {
            reason: reason.clone(),
            message: scheduled.message.clone().unwrap_or_default(),
        });
    }
    let status = pod.status.as_ref()?;
    let init = status.init_container_statuses.iter().flatten();
    init.chain(status.container_statuses.iter().flatten())
        .find_map(failing_container)
}

/// A pod whose sandbox does not come: volumes are mounted before it, images are pulled after it.
/// Kubelet tries again in ever longer intervals, and only a new pod is tried at once.
fn unmounted(pod: &Pod, now: Timestamp) -> Option<PodFailure> {
    let scheduled = condition(pod, "PodScheduled").filter(|c| c.status == "True")?;
    let sandbox = condition(pod, "PodReadyToStartContainers").filter(|c| c.status == "False")?;
    let since = [scheduled, sandbox]
        .into_iter()
        .filter_map(|condition| condition.last_transition_time.as_ref())
        .map(|time| time.0)
        .max()?;
    let is_pending = pod.status.as_ref()?.phase.as_deref() == Some("Pending");
    (is_pending && now.duration_since(since) > MOUNT_PATIENCE).then(|| PodFailure {
        reason: "FailedMount".to_owned(),
        message: "its volume could not be mounted so far".to_owned(),
    })
}

fn failing_container(container: &ContainerStatus) -> Option<PodFailure> {
    let state = container.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.clone()?;
        // The ordinary course of a start.
        if matches!(reason.as_str(), "ContainerCreating" | "PodInitializing") {
            return None;
        }
        let message = match reason.as_str() {
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
                format!("image {} of container {}", container.image, container.name)
            }
            _ => format!("container {}", container.name),
        };
        return Some(PodFailure { reason, message });
    }
    let ended = state
        .terminated
        .as_ref()
        .filter(|ended| ended.exit_code != 0)?;
    Some(PodFailure {
        reason: ended.reason.clone().unwrap_or_else(|| "Error".to_owned()),
        message: format!(
            "container {} ended with code {}",
            container.name, ended.exit_code
        ),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(text: &str) -> jiff::Timestamp {
        text.parse().expect("a time")
    }

    fn pod_of(status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "qm-0"}, "status": status}))
            .expect("a pod")
    }

    #[test]
    fn a_ready_pod_tells_since_when() {
        let now = at("2026-01-01T00:01:00Z");
        let facts = pod(
            &pod_of(json!({"conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]})),
            now,
        );
        assert_eq!(
            (facts.ready, facts.ready_since),
            (true, Some(at("2026-01-01T00:00:00Z")))
        );
        assert_eq!(facts.failing, None);
    }

    #[test]
    fn a_start_is_no_failure_and_a_bad_image_is() {
        let waiting = |reason: &str| {
            pod(
                &pod_of(
                    json!({"containerStatuses": [{"name": "qm", "image": "nats:x", "imageID": "",
                "ready": false, "restartCount": 0, "state": {"waiting": {"reason": reason}}}]}),
                ),
                at("2026-01-01T00:00:00Z"),
            )
            .failing
        };
        assert_eq!(waiting("ContainerCreating"), None);
        let failure = waiting("ImagePullBackOff").expect("a failure");
        assert!(failure.message.contains("nats:x"), "{failure:?}");
    }

    #[test]
    fn a_pod_without_a_sandbox_is_not_mounted_after_a_while() {
        let waiting = pod_of(json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            {"type": "PodReadyToStartContainers", "status": "False",
                "lastTransitionTime": "2026-01-01T00:00:01Z"}]}));
        assert_eq!(pod(&waiting, at("2026-01-01T00:00:09Z")).failing, None);
        let failure = pod(&waiting, at("2026-01-01T00:00:12Z"))
            .failing
            .expect("a failure");
        assert_eq!(failure.reason, "FailedMount");
    }

    #[test]
    fn listeners_collide_only_where_a_port_cannot_be_shared() {
        let object = |uid: &str, replication: Value| -> DrQueueManager {
            serde_json::from_value(json!({"metadata": {"name": uid, "uid": uid},
                "spec": {"role": "Secondary", "queueManager": {"name": "QM"}, "replication": replication},
                "status": {"node": "n1"}}))
            .expect("an object")
        };
        let plain = object("a", json!({}));
        assert!(!listeners_collide(&plain, &object("b", json!({})), 7001));
        assert!(!listeners_collide(
            &plain,
            &object("b", json!({"localAddress": "10.0.0.1"})),
            7001
        ));
        let own = |uid, address: &str| object(uid, json!({"port": 7002, "localAddress": address}));
        assert!(!listeners_collide(
            &own("a", "10.0.0.1"),
            &own("b", "10.0.0.1"),
            7001
        ));
        assert!(listeners_collide(
            &own("a", "10.0.0.1"),
            &own("b", "10.0.0.2"),
            7001
        ));
        assert!(!listeners_collide(
            &own("a", "10.0.0.1"),
            &own("a", "10.0.0.2"),
            7001
        ));
        let tls = |uid| object(uid, json!({"tls": {"secretName": "s"}}));
        assert!(listeners_collide(&tls("a"), &tls("b"), 7001));
    }

    #[test]
    fn a_child_of_somebody_else_is_named() {
        let service = |labels: Value, owner: &str| -> Service {
            serde_json::from_value(json!({"metadata": {"name": "qm", "labels": labels,
                "managedFields": [{"manager": "helm"}], "ownerReferences": [
                {"apiVersion": "v1", "kind": "X", "name": "x", "uid": owner}]}}))
            .expect("a service")
        };
        let ours = json!({"app.kubernetes.io/managed-by": "drqm"});
        assert_eq!(
            foreign("u", None, Some(&service(ours.clone(), "u")), None),
            None
        );
        let text = foreign("u", None, Some(&service(ours, "other")), None).expect("foreign");
        assert_eq!(text, "Service qm is managed by helm");
        assert!(foreign("u", None, Some(&service(json!({}), "u")), None).is_some());
    }
}
