//! Which node holds a queue manager, and which nodes there are.
//!
//! Lives here: reading nodes and replicator pods from the stores, the choice for a new queue
//! manager. Does not live here: recording the choice (it is `status.node`, written by
//! `publish_status` before anything is created there).

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use drqm_rpc::control::v1::NodeState;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;

use crate::replicator_client::Place;

/// A replicator that was asked what it holds.
#[derive(Debug)]
pub struct Candidate {
    /// Its node.
    pub node: String,
    /// Whether Kubernetes says that pods may be placed and run there.
    pub usable: bool,
    /// Its answer; None when it gave none.
    pub answer: Option<NodeState>,
}

/// Where a queue manager lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Its volume exists there.
    Existing(String),
    /// No volume exists; this node has the most room.
    New(String),
    /// It cannot be said yet; the text tells why.
    Undecided(String),
}

/// Chooses the node for `namespace`/`name`: where its volume is, else the usable node with the most
/// room, the lowest name on ties. A usable node that does not answer may hold the volume, so it is
/// waited for.
pub fn choose(namespace: &str, name: &str, size_bytes: u64, candidates: &[Candidate]) -> Choice {
    let holds = |candidate: &&Candidate| {
        let volumes = candidate.answer.iter().flat_map(|answer| &answer.volumes);
        volumes
            .filter_map(|volume| volume.volume.as_ref())
            .any(|volume| volume.namespace == namespace && volume.name == name)
    };
    let mut holders: Vec<_> = candidates
        .iter()
        .filter(holds)
        .map(|candidate| candidate.node.clone())
        .collect();
    holders.sort();
    match holders.as_slice() {
        [] => {}
        [only] => return Choice::Existing(only.clone()),
        [_, _, ..] => {
            return Choice::Undecided(format!(
                "volumes of this name exist on the nodes {}; delete the ones that are not wanted",
                holders.join(", ")
            ));
        }
    }
    let usable = || candidates.iter().filter(|candidate| candidate.usable);
    let mut silent: Vec<_> = usable()
        .filter(|c| c.answer.is_none())
        .map(|c| c.node.as_str())
        .collect();
    silent.sort_unstable();
    if !silent.is_empty() {
        return Choice::Undecided(format!(
            "the replicators on {} do not answer yet, and one of them may hold the data",
            silent.join(", ")
        ));
    }
    let mut free: Vec<(u64, &str)> = usable()
        .filter_map(|c| Some((c.answer.as_ref()?.pool_free_bytes, c.node.as_str())))
        .collect();
    free.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
    match free.first() {
        None => Choice::Undecided("no node with a ready replicator".to_owned()),
        Some((room, node)) if *room < size_bytes => Choice::Undecided(format!(
            "spec.storage.size: the pool is full: {size_bytes} bytes are needed, and the node with the most \
             room, {node}, has {room}; delete this and create it smaller, make room there, or give \
             replicator.pool more in the operator's configuration"
        )),
        Some((_, node)) => Choice::New((*node).to_owned()),
    }
}

/// Whether the node runs pods.
pub fn is_ready(node: &Node) -> bool {
    node.status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether the pod's readiness probe succeeds.
pub fn is_pod_ready(pod: &Pod) -> bool {
    pod.status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The node's address inside the cluster.
pub fn internal_ip(node: &Node) -> Option<String> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    addresses
        .iter()
        .find(|a| a.type_ == "InternalIP")
        .map(|a| a.address.clone())
}

/// Identifies a boot of the node; it changes with every power cut.
pub fn boot_id(node: &Node) -> Option<&str> {
    Some(node.status.as_ref()?.node_info.as_ref()?.boot_id.as_str())
}

/// Where replicators run: their pods are on the host's network, so the pod's node address is
/// theirs. A pod that is being replaced and its successor give one place.
pub fn places<'a>(pods: impl IntoIterator<Item = &'a Pod>, control_port: u16) -> Vec<Place> {
    let mut places = BTreeMap::new();
    for pod in pods {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        let address = pod
            .status
            .as_ref()
            .and_then(|status| status.host_ip.as_deref())
            .and_then(|ip| ip.parse::<IpAddr>().ok());
        if let (Some(node), Some(ip)) = (node, address) {
            places.insert(node, SocketAddr::new(ip, control_port));
        }
    }
    places
        .into_iter()
        .map(|(node, address)| Place { node, address })
        .collect()
}

/// Leaves of a node what is used here: the store holds every node of the cluster.
pub fn prune_node(node: &mut Node) {
    node.spec = None;
    node.metadata.managed_fields = None;
    node.annotations_mut().clear();
    if let Some(status) = &mut node.status {
        status.images = None;
        status.volumes_attached = None;
        status.volumes_in_use = None;
        status.capacity = None;
        status.allocatable = None;
        status
            .conditions
            .iter_mut()
            .flatten()
            .for_each(|condition| {
                condition.last_heartbeat_time = None;
                condition.message = None;
            });
        status
            .conditions
            .iter_mut()
            .for_each(|all| all.retain(|c| c.type_ == "Ready"));
    }
}

/// Leaves of a pod what is used here.
pub fn prune_pod(pod: &mut Pod) {
    pod.metadata.managed_fields = None;
    pod.annotations_mut().clear();
    let node_name = pod.spec.take().and_then(|spec| spec.node_name);
    pod.spec = node_name.map(|node_name| k8s_openapi::api::core::v1::PodSpec {
        node_name: Some(node_name),
        ..Default::default()
    });
}

#[cfg(test)]
mod tests {
    use drqm_rpc::control::v1::{VolumeRef, VolumeState};

    use super::*;

    fn candidate(node: &str, free: u64, volumes: &[&str]) -> Candidate {
        let volumes = volumes
            .iter()
            .map(|name| VolumeState {
                volume: Some(VolumeRef {
                    namespace: "mq".to_owned(),
                    name: (*name).to_owned(),
                }),
                ..Default::default()
            })
            .collect();
        let answer = NodeState {
            pool_free_bytes: free,
            volumes,
            ..Default::default()
        };
        Candidate {
            node: node.to_owned(),
            usable: true,
            answer: Some(answer),
        }
    }

    fn silent(node: &str, usable: bool) -> Candidate {
        Candidate {
            node: node.to_owned(),
            usable,
            answer: None,
        }
    }

    fn chosen(candidates: &[Candidate]) -> Choice {
        choose("mq", "qmdr", 10, candidates)
    }

    #[test]
    fn an_existing_volume_wins_over_room() {
        let found = chosen(&[candidate("a", 100, &[]), candidate("b", 0, &["qmdr"])]);
        assert_eq!(found, Choice::Existing("b".to_owned()));
        let found = chosen(&[silent("a", true), candidate("b", 0, &["qmdr"])]);
        assert_eq!(found, Choice::Existing("b".to_owned()));
    }

    #[test]
    fn the_most_room_wins_and_the_lowest_name_on_ties() {
        let found = chosen(&[
            candidate("c", 50, &[]),
            candidate("b", 50, &[]),
            candidate("a", 20, &["x"]),
        ]);
        assert_eq!(found, Choice::New("b".to_owned()));
    }

    #[test]
    fn nothing_is_chosen_while_a_usable_node_is_silent() {
        assert!(matches!(
            chosen(&[candidate("a", 50, &[]), silent("b", true)]),
            Choice::Undecided(_)
        ));
        assert_eq!(
            chosen(&[candidate("a", 50, &[]), silent("b", false)]),
            Choice::New("a".to_owned())
        );
    }

    #[test]
    fn no_node_too_little_room_and_two_volumes_say_so() {
        for (candidates, word) in [
            (vec![], "no node"),
            (
                vec![candidate("a", 5, &[])],
                "spec.storage.size: the pool is full",
            ),
            (
                vec![candidate("a", 5, &["qmdr"]), candidate("b", 5, &["qmdr"])],
                "a, b",
            ),
        ] {
            let Choice::Undecided(text) = chosen(&candidates) else {
                panic!("{word}")
            };
            assert!(text.contains(word), "{text}");
        }
    }
}
