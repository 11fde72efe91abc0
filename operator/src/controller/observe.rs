//! Step 1: one look at the world, without writing anything.
//!
//! Lives here: the live read of the object, its children, its Secret, the state of its volume.
//! What they mean as facts is in `observe::facts`.
//! Does not live here: decisions; only the API server can make this step fail, a replicator that
//! does not answer is an observation.

mod facts;

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Instant,
};

use drqm_api::{
    live::LiveState,
    peer_manifest::secret_name,
    v1alpha1::{DrQueueManager, Role},
};
use drqm_core::{
    desired,
    observed::{Children, Configuration, Look, NodeFacts, Observed, ReplicatorView, Volume},
    status,
    validate::validate,
};
use drqm_rpc::control::v1::ConfigureRequest;
use futures::future::join_all;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service},
};
use kube::{
    Api, ResourceExt,
    api::ListParams,
    core::{DeserializeGuard, error_boundary::InvalidObject},
};

use crate::{
    api_server::{ApiError, Operation, call, read},
    certificates::{
        SecretData,
        pair::{Inspected, Origin, PairTls, inspect},
    },
    context::Context,
    node::{self, Candidate, Choice},
    replicator_client::{
        CallError, Freshness, Place,
        convert::{self, configure_request, volume_ref},
    },
};

/// What one look found.
pub enum Found {
    /// The object is gone.
    Gone,
    /// The object is there, and this build cannot read it.
    Unreadable(Box<InvalidObject>),
    /// The object and its world.
    Object(Box<Seen>),
}

/// The world of one object. No `Debug`: it holds keys.
pub struct Seen {
    /// The facts for decisions.
    pub observed: Observed,
    /// The replicator on its node.
    pub place: Option<Place>,
    /// Content of the pair's Secret.
    pub secret: Option<SecretData>,
    /// The Secret as a replicator needs it; None when it is missing or of no use.
    pub pair: Option<PairTls>,
}

impl Seen {
    /// Who the object is.
    pub fn key(&self) -> Key {
        let object = &self.observed.object;
        Key {
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            uid: object.uid().unwrap_or_default(),
        }
    }
}

/// Who an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid: tells it from an earlier object of the same name.
    pub uid: String,
}

/// Reads everything.
///
/// *Errors*: the API server does not answer, or forbids a read.
pub async fn observe(context: &Context, namespace: &str, name: &str) -> Result<Found, ApiError> {
    let api: Api<DeserializeGuard<DrQueueManager>> =
        Api::namespaced(context.client.clone(), namespace);
    let object = match read(&api, name).await? {
        None => return Ok(Found::Gone),
        Some(DeserializeGuard(Err(invalid))) => return Ok(Found::Unreadable(Box::new(invalid))),
        Some(DeserializeGuard(Ok(object))) => object,
    };
    let (children, secret, located) = futures::try_join!(
        children(context, &object),
        pair_secret(context, &object),
        async { Ok(locate(context, &object).await) },
    )?;
    let now = context.clock.now();
    let origin = match &object.spec.replication.tls {
        Some(_) => Origin::UserMade,
        None => Origin::OperatorMade,
    };
    let Inspected { keys, pair } = inspect(
        secret.as_ref(),
        origin,
        &object.spec.queue_manager.name,
        now,
    );
    let uid = object.uid().unwrap_or_default();
    let memory = context.memory.of(&uid);
    let mut observed = Observed {
        node: located.node,
        candidates: located.candidates,
        no_node: located.no_node,
        replicator: located.replicator,
        children,
        keys,
        port_taken_by: None,
        look: Look::Later,
        configuration: Configuration::Due,
        refused: memory.refused,
        status_age: memory.status_written.map(|at| context.clock.instant() - at),
        object,
    };
    observed.look = look(context, &uid, &observed, memory.settled_on_boot.as_deref());
    observed.configuration = configuration(
        context,
        &observed,
        located.place.as_ref(),
        pair.as_ref(),
        memory.configured,
    );
    if observed.configuration == Configuration::Due && observed.node.is_some() {
        observed.port_taken_by = port_taken_by(context, &observed.object).await?;
    }
    Ok(Found::Object(Box::new(Seen {
        observed,
        place: located.place,
        secret,
        pair,
    })))
}

/// The exact state for /live; None when the object does not exist.
///
/// *Errors*: as `observe`, and a replicator that does not answer.
pub async fn live(
    context: &Context,
    namespace: &str,
    name: &str,
) -> Result<Option<LiveState>, LiveError> {
    let api: Api<DrQueueManager> = Api::namespaced(context.client.clone(), namespace);
    let Some(object) = read(&api, name).await.map_err(LiveError::Read)? else {
        return Ok(None);
    };
    let node = recorded_node(&object).ok_or(LiveError::NoNode)?;
    let place = place_of(context, &node)
        .ok_or_else(|| LiveError::Call(CallError::NoReplicator { node: node.clone() }))?;
    let asked = Instant::now();
    let volume = volume_ref(namespace, name);
    let state = context
        .replicators
        .state(&place, volume, Freshness::Known)
        .await;
    let volume = convert::volume(state.map_err(LiveError::Call)?, Freshness::Known);
    Ok(Some(status::live(
        &object,
        &volume,
        asked.elapsed(),
        context.clock.now(),
    )))
}

/// Why there is no exact state.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The object could not be read.
    #[error("failed to read the object")]
    Read(#[source] ApiError),
    /// No node was chosen yet.
    #[error("no node holds this queue manager yet")]
    NoNode,
    /// The replicator gave no answer.
    #[error("failed to ask the replicator")]
    Call(#[source] CallError),
}

/// Tells one configuration from another, and one run of a replicator from the next.
pub fn configuration_fingerprint(request: &ConfigureRequest, node: &str, session: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (format!("{request:?}"), node, session).hash(&mut hasher);
    hasher.finish()
}

async fn children(context: &Context, object: &DrQueueManager) -> Result<Children, ApiError> {
    let (client, name) = (&context.client, object.name_any());
    let namespace = object.namespace().unwrap_or_default();
    let uid = object.uid().unwrap_or_default();
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), &namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let services: Api<Service> = Api::namespaced(client.clone(), &namespace);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let (pod_name, claim_name, volume_name) = (
        format!("{name}-0"),
        desired::claim_name(&name),
        desired::persistent_volume_name(&uid),
    );
    let (set, pod, service, claim, volume) = futures::try_join!(
        read(&sets, &name),
        read(&pods, &pod_name),
        read(&services, &name),
        read(&claims, &claim_name),
        read(&volumes, &volume_name),
    )?;
    let foreign = facts::foreign(&uid, set.as_ref(), service.as_ref(), claim.as_ref());
    Ok(Children {
        stateful_set: set.as_ref().map(facts::stateful_set),
        pod: pod.as_ref().map(|pod| facts::pod(pod, context.clock.now())),
        service: service.is_some(),
        persistent_volume: volume.is_some(),
        claim_bound: claim.as_ref().is_some_and(facts::is_bound),
        foreign,
    })
}

async fn pair_secret(
    context: &Context,
    object: &DrQueueManager,
) -> Result<Option<SecretData>, ApiError> {
    let namespace = object.namespace().unwrap_or_default();
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &namespace);
    let secret = read(&secrets, &secret_name(object)).await?;
    Ok(secret.map(|secret| secret.data.unwrap_or_default()))
}

/// Where the volume is, and what its replicator says.
struct Located {
    node: Option<NodeFacts>,
    candidates: Vec<NodeFacts>,
    no_node: Option<String>,
    place: Option<Place>,
    replicator: ReplicatorView,
}

async fn locate(context: &Context, object: &DrQueueManager) -> Located {
    let Some(node) = recorded_node(object) else {
        return choose_node(context, object).await;
    };
    let place = place_of(context, &node);
    let replicator = match &place {
        Some(place) => ask_replicator(context, object, place).await,
        None => ReplicatorView::Unreachable {
            message: format!("no replicator runs on {node}"),
        },
    };
    Located {
        node: Some(context.node_facts(&node)),
        candidates: Vec::new(),
        no_node: None,
        place,
        replicator,
    }
}

async fn choose_node(context: &Context, object: &DrQueueManager) -> Located {
    let size = drqm_api::size::bytes(&object.spec.storage.size).unwrap_or(u64::MAX);
    let places = context.places();
    let candidates: Vec<Candidate> = join_all(places.iter().map(async |place| Candidate {
        node: place.node.clone(),
        usable: context.node_facts(&place.node).ready,
        answer: context.replicators.node_state(place).await.ok(),
    }))
    .await;
    let namespace = object.namespace().unwrap_or_default();
    let (candidates, no_node) =
        match node::choose(&namespace, &object.name_any(), size, &candidates) {
            Choice::Existing(node) | Choice::New(node) => (vec![context.node_facts(&node)], None),
            Choice::Undecided(why) => (Vec::new(), Some(why)),
        };
    let replicator = ReplicatorView::NoNode;
    Located {
        node: None,
        candidates,
        no_node,
        place: None,
        replicator,
    }
}

fn recorded_node(object: &DrQueueManager) -> Option<String> {
    object.status.as_ref()?.node.clone()
}

fn place_of(context: &Context, node: &str) -> Option<Place> {
    context
        .places()
        .into_iter()
        .find(|place| place.node == node)
}

async fn ask_replicator(
    context: &Context,
    object: &DrQueueManager,
    place: &Place,
) -> ReplicatorView {
    let volume = volume_ref(&object.namespace().unwrap_or_default(), &object.name_any());
    let answer = context
        .replicators
        .state(place, volume.clone(), Freshness::Known)
        .await;
    let known = match answer {
        Ok(state) => convert::volume(state, Freshness::Known),
        Err(CallError::NotFound { .. }) => return ReplicatorView::Reached(None),
        Err(error) => {
            tracing::debug!(error = %crate::telemetry::chain(&error), "replicator gave no answer");
            return ReplicatorView::Unreachable {
                message: error.to_string(),
            };
        }
    };
    if !wants_peer_asked(object, &known) {
        return ReplicatorView::Reached(Some(Box::new(known)));
    }
    match context
        .replicators
        .state(place, volume, Freshness::Refreshed)
        .await
    {
        Ok(state) => {
            let fresh = convert::volume(state, Freshness::Refreshed);
            ReplicatorView::Reached(Some(Box::new(fresh)))
        }
        Err(error) => {
            tracing::debug!(error = %crate::telemetry::chain(&error), "no fresh answer");
            ReplicatorView::Reached(Some(Box::new(known)))
        }
    }
}

/// A promotion is judged on what the peer says now, not on what it said last. One that was judged is
/// carried out without asking again: with a site gone, each question costs a dial that nobody answers.
fn wants_peer_asked(object: &DrQueueManager, volume: &Volume) -> bool {
    let request_id = object
        .spec
        .promotion
        .request_id
        .as_deref()
        .unwrap_or_default();
    let judged = volume.judged.as_ref().is_some_and(|judged| {
        Some(&judged.cr_uid) == object.metadata.uid.as_ref()
            && judged.asks_for(Role::Primary, request_id)
    });
    !judged
        && object.metadata.deletion_timestamp.is_none()
        && object.spec.role == Role::Primary
        && volume.role != Role::Primary
        && volume.configured
        && object.spec.replication.peer.is_some()
}

/// Another object on the same node whose listener or pair id would be the same. Only looked for while
/// a configuration is due, since it takes a list of all objects.
async fn port_taken_by(
    context: &Context,
    object: &DrQueueManager,
) -> Result<Option<String>, ApiError> {
    let api: Api<DeserializeGuard<DrQueueManager>> = Api::all(context.client.clone());
    let everything = ListParams::default();
    let list = api.list(&everything);
    let all = call::<DrQueueManager, _>(Operation::List, "", list).await?;
    let shared_port = context.config.replicator.ports.replication;
    let others = all.items.into_iter().filter_map(|guard| guard.0.ok());
    Ok(others
        .filter(|other| facts::listeners_collide(object, other, shared_port))
        .map(|other| {
            format!(
                "{}/{}",
                other.namespace().unwrap_or_default(),
                other.name_any()
            )
        })
        .min())
}

/// The first look lasts until the replicator answered, or the pod was seen Ready, during this boot
/// of the node and this life of the operator.
fn look(context: &Context, uid: &str, observed: &Observed, settled_on: Option<&str>) -> Look {
    let Some(node) = &observed.node else {
        return Look::First;
    };
    let boot = context.boot_id(&node.name).unwrap_or_default();
    if settled_on == Some(&boot) {
        return Look::Later;
    }
    let answered = matches!(observed.replicator, ReplicatorView::Reached(_));
    let serves = observed
        .children
        .pod
        .as_ref()
        .is_some_and(|pod| pod.ready && !pod.terminating);
    if answered || serves {
        context
            .memory
            .update(uid, |memory| memory.settled_on_boot = Some(boot));
    }
    Look::First
}

fn configuration(
    context: &Context,
    observed: &Observed,
    place: Option<&Place>,
    pair: Option<&PairTls>,
    accepted: Option<u64>,
) -> Configuration {
    let is_configured = observed
        .replicator
        .volume()
        .is_some_and(|volume| volume.configured);
    let (Some(place), Ok(valid), true) = (place, validate(observed), is_configured) else {
        return Configuration::Due;
    };
    let request = configure_request(&valid, pair);
    let session = context.sessions.of(&place.node);
    if accepted == Some(configuration_fingerprint(&request, &place.node, session)) {
        Configuration::Sent
    } else {
        Configuration::Due
    }
}
