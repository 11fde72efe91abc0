//! Wiring: client, caches, watches, controller, replicator streams, admin; joined in one place.
//!
//! Lives here: what is watched and how (selectors, predicates, concurrency, backoff), shutdown.
//! Does not live here: decisions about objects.
//!
//! The controller is kube's applier with our own queue, because replicators' streams are a source
//! of it (`Controller::reconcile_on` is unstable), and the main watch holds metadata only.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use drqm_api::labels;
use drqm_core::retry::RetryPolicy;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt, stream};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Node, Pod},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::PartialObjectMeta,
    runtime::{
        Predicate, WatchStreamExt, applier,
        controller::{
            Action, Error as ControllerError, ReconcileReason, ReconcileRequest, trigger_self,
        },
        events::{Recorder, Reporter},
        predicates,
        reflector::{self, ObjectRef},
        watcher,
    },
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{self, Health},
    api_server::AppliedObjects,
    args::Args,
    clock::Clock,
    config::{Config, ConfigError},
    context::{Context, ObjectMetadata},
    controller::{error_policy, reconcile},
    counters::FailureCounters,
    memory::Memory,
    metrics::Metrics,
    node,
    replicator_client::ReplicatorClients,
    replicator_daemonset,
    replicator_events::{self, Sessions, Trigger, concerned},
    telemetry::chain,
};

/// Passes at a time. Each may hold a slow replicator's call; replicators are few.
const CONCURRENCY: u16 = 8;
/// Triggers that wait. More would only be duplicates: the queue holds each object once.
const TRIGGERS: usize = 64;
/// Objects per page of a list: bounds what one answer takes in memory.
const PAGE_SIZE: u32 = 100;
/// The first retry after a failure: most are a replicator that is just starting.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// The longest delay between retries.
const LAST_RETRY: Duration = Duration::from_secs(60);
/// Passes that run when the shutdown begins get this long.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(20);

/// Why the operator ends.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is of no use.
    #[error("failed to load the configuration")]
    Config(#[source] ConfigError),
    /// No threads, or no signal handlers.
    #[error("failed to start")]
    Start(#[source] io::Error),
    /// No way to the API server.
    #[error("failed to make a client for the API server")]
    Client(#[source] Box<kube::Error>),
    /// Health and metrics cannot be served.
    #[error("failed to serve health and metrics")]
    Admin(#[source] io::Error),
    /// A task ended that must not end.
    #[error("the task `{0}` ended")]
    TaskEnded(&'static str),
}

/// Runs until a signal.
pub fn run(args: Args) -> Result<(), RunError> {
    let config = Config::load(&args.config).map_err(RunError::Config)?;
    // Two threads: what is done here is waiting, and now and then a key is made.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(RunError::Start)?;
    let result = runtime.block_on(serve(args, config));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn serve(args: Args, config: Config) -> Result<(), RunError> {
    let shutdown = CancellationToken::new();
    let client = Client::try_default()
        .await
        .map_err(|e| RunError::Client(Box::new(e)))?;
    let (objects, object_writer) = reflector::store::<ObjectMetadata>();
    let (nodes, node_writer) = reflector::store::<Node>();
    let (replicator_pods, pod_writer) = reflector::store::<Pod>();
    let metrics = Arc::new(Metrics::new());
    let context = Arc::new(Context {
        recorder: Recorder::new(client.clone(), reporter(args.pod_name)),
        client,
        config,
        objects,
        nodes,
        replicator_pods,
        replicators: Arc::new(ReplicatorClients::new(metrics.clone())),
        sessions: Arc::new(Sessions::default()),
        clock: Clock::System,
        metrics,
        retry: RetryPolicy::new(FIRST_RETRY, LAST_RETRY, 0.2).expect("the constants fit"),
        failures: FailureCounters::default(),
        memory: Memory::default(),
        applied: AppliedObjects::default(),
    });
    let health = Arc::new(Health::default());
    let (trigger_sender, trigger_receiver) = mpsc::channel(TRIGGERS);
    let (place_sender, place_receiver) = watch::channel(Vec::new());

    let mut tasks: JoinSet<Result<&'static str, RunError>> = JoinSet::new();
    let token = || shutdown.child_token();
    let admin = admin::serve(args.admin.listen, health.clone(), context.clone(), token());
    tasks.spawn(admin.map(|ended| ended.map(|()| "admin").map_err(RunError::Admin)));
    tasks.spawn(replicator_daemonset::keep(context.clone(), token()).map(|()| Ok("daemonset")));
    let follow = replicator_events::run(
        context.replicators.clone(),
        context.sessions.clone(),
        context.metrics.clone(),
        place_receiver,
        trigger_sender.clone(),
        token(),
    );
    tasks.spawn(follow.map(|()| Ok("replicator streams")));
    let inventory = Inventory {
        context: context.clone(),
        places: place_sender,
        triggers: trigger_sender,
    };
    let inventory = inventory.keep(node_writer, pod_writer);
    tasks.spawn(
        token()
            .run_until_cancelled_owned(inventory)
            .map(|_| Ok("inventory")),
    );
    tasks.spawn(signals(shutdown.clone()));
    let queue =
        queue(&context, object_writer, trigger_receiver).take_until(token().cancelled_owned());
    tasks.spawn(control(context, health, token(), queue).map(Ok));
    join(tasks, shutdown).await
}

/// Waits for the first task to end, then for all others. Whatever ends first without a signal ends
/// the process: a part that is missing must not go unnoticed.
async fn join(
    mut tasks: JoinSet<Result<&'static str, RunError>>,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let first = tasks.join_next().await;
    let is_asked_to_end = shutdown.is_cancelled();
    shutdown.cancel();
    let rest = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(SHUTDOWN_DEADLINE, rest).await.is_err() {
        tracing::warn!("some passes were cut off; the next start goes on with them");
    }
    match first {
        Some(_) | None if is_asked_to_end => Ok(()),
        Some(Ok(ended)) => ended.and_then(|name| Err(RunError::TaskEnded(name))),
        Some(Err(_)) | None => Err(RunError::TaskEnded("panicked")),
    }
}

async fn signals(shutdown: CancellationToken) -> Result<&'static str, RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Start)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Start)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = shutdown.cancelled() => return Ok("signals"),
    }
    tracing::info!("shutting down");
    shutdown.cancel();
    Ok("signals")
}

fn reporter(instance: Option<String>) -> Reporter {
    Reporter {
        controller: "drqm-operator".to_owned(),
        instance,
    }
}

/// Every reason to look at an object, in one stream.
fn queue(
    context: &Arc<Context>,
    objects: reflector::store::Writer<ObjectMetadata>,
    triggers: mpsc::Receiver<Trigger>,
) -> impl Stream<Item = Result<ReconcileRequest<ObjectMetadata>, watcher::Error>> + Send + use<> {
    let client = context.client.clone();
    // Status writes change neither generation nor finalizers, and so do not come back as work;
    // annotations are there for the one that lets the finalizer go.
    let changed = predicates::generation
        .combine(predicates::finalizers)
        .combine(predicates::annotations);
    let own = watcher(Api::<ObjectMetadata>::all(client.clone()), watched())
        .default_backoff()
        .modify(|object| object.managed_fields_mut().clear())
        .reflect(objects)
        .applied_objects()
        .predicate_filter(changed, Default::default());
    let own = trigger_self(own, ());
    let sets = children(Api::<PartialObjectMeta<StatefulSet>>::all(client.clone()));
    let pods = children(Api::<PartialObjectMeta<Pod>>::all(client));
    let store = context.objects.clone();
    let told = ReceiverStream::new(triggers)
        .flat_map(move |trigger| {
            let all = store.state();
            let known = all
                .iter()
                .map(|object| ObjectRef::from_obj(object.as_ref()));
            stream::iter(concerned(&trigger, known))
        })
        .map(|object| Ok(ReconcileRequest::from(object)));
    stream::select_all([own.boxed(), sets.boxed(), pods.boxed(), told.boxed()])
}

/// Children by label: also pods, whose owner is the StatefulSet. Metadata is enough, since a pass
/// reads what it needs.
fn children<K>(
    api: Api<K>,
) -> impl Stream<Item = Result<ReconcileRequest<ObjectMetadata>, watcher::Error>> + Send
where
    K: Resource<DynamicType = ()>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug
        + Send
        + 'static,
{
    watcher(api, watched().labels(labels::QUEUE_MANAGER))
        .default_backoff()
        .touched_objects()
        .try_filter_map(async |child| {
            let owner = child.labels().get(labels::QUEUE_MANAGER).cloned();
            Ok(owner
                .zip(child.namespace())
                .map(|(name, namespace)| ReconcileRequest {
                    obj_ref: ObjectRef::new(&name).within(&namespace),
                    reason: ReconcileReason::Unknown,
                }))
        })
}

/// List and watch, in pages: streaming lists had bugs (kube-rs/kube PR#1882).
fn watched() -> watcher::Config {
    watcher::Config::default().page_size(PAGE_SIZE)
}

/// The owner of all passes. It ends when the queue ends.
async fn control(
    context: Arc<Context>,
    health: Arc<Health>,
    shutdown: CancellationToken,
    queue: impl Stream<Item = Result<ReconcileRequest<ObjectMetadata>, watcher::Error>> + Send,
) -> &'static str {
    let store = context.objects.clone();
    let passes = applier(
        |object, context| {
            // A node that is not in the cache yet must not look like a node that is gone.
            async move {
                let nodes = context.nodes.wait_until_ready().await;
                let pods = context.replicator_pods.wait_until_ready().await;
                match nodes.and(pods) {
                    Ok(()) => reconcile(object, context).await,
                    // The writers live as long as the process; at its end, nothing is begun.
                    Err(_) => Ok(Action::await_change()),
                }
            }
            .boxed()
        },
        error_policy,
        context.clone(),
        store.clone(),
        queue.boxed(),
        kube::runtime::controller::Config::default().concurrency(CONCURRENCY),
    );
    let mut passes = std::pin::pin!(passes);
    let filled = async {
        let objects = store.wait_until_ready().await;
        let nodes = context.nodes.wait_until_ready().await;
        let pods = context.replicator_pods.wait_until_ready().await;
        if objects.is_ok() && nodes.is_ok() && pods.is_ok() {
            health.caches_filled();
            tracing::info!("caches are filled");
        }
    };
    let mut filled = std::pin::pin!(filled.fuse());
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = tick.tick() => health.tick(),
            () = &mut filled => {}
            // The applier itself does not end before the first list.
            () = shutdown.cancelled(), if !health.is_ready() => return "controller",
            passed = passes.next() => match passed {
                None => return "controller",
                Some(Ok(_)) => {}
                Some(Err(error)) => note(&context, &error),
            },
        }
    }
}

type PassError = ControllerError<
    kube::runtime::finalizer::Error<crate::controller::error::Error>,
    watcher::Error,
>;

fn note(context: &Context, error: &PassError) {
    match error {
        // Deleted while it was queued: nothing is wrong.
        ControllerError::ObjectNotFound(_) => tracing::debug!("{error}"),
        // Logged with its kind by the error policy.
        ControllerError::ReconcilerFailed(_, _) => {}
        ControllerError::QueueError(_) | ControllerError::RunnerError(_) => {
            context.metrics.watch_error();
            tracing::warn!(error = %chain(error), "a watch failed; it goes on after a delay");
        }
    }
}

/// Keeps the caches of nodes and replicators, and tells who follows them.
struct Inventory {
    context: Arc<Context>,
    places: watch::Sender<Vec<crate::replicator_client::Place>>,
    triggers: mpsc::Sender<Trigger>,
}

impl Inventory {
    async fn keep(
        self,
        nodes: reflector::store::Writer<Node>,
        pods: reflector::store::Writer<Pod>,
    ) {
        let client = self.context.client.clone();
        let namespace = &self.context.config.namespace;
        let node_changes = watcher(Api::<Node>::all(client.clone()), watched())
            .default_backoff()
            .modify(node::prune_node)
            .reflect(nodes);
        let node_changes = essential_changes(node_changes);
        let selector = format!("{}={}", labels::NAME, labels::REPLICATOR);
        let pod_changes = watcher(
            Api::<Pod>::namespaced(client, namespace),
            watched().labels(&selector),
        )
        .default_backoff()
        .modify(node::prune_pod)
        .reflect(pods);
        let pod_changes = touched_nodes(pod_changes);
        let mut changes = std::pin::pin!(stream::select(node_changes, pod_changes));
        while let Some(change) = changes.next().await {
            match change {
                Ok(node) => {
                    let present = self.context.places();
                    self.places.send_if_modified(|known| {
                        let changed = *known != present;
                        *known = present;
                        changed
                    });
                    if self.triggers.send(Trigger::Node(node)).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    self.context.metrics.watch_error();
                    tracing::warn!(error = %chain(&error), "a watch failed; it goes on after a delay");
                }
            }
        }
    }
}

/// Names of the nodes whose pods changed; none once the first list, or a new one, is in the store: the
/// store shows nothing of a list before its end.
fn touched_nodes(
    events: impl Stream<Item = Result<watcher::Event<Pod>, watcher::Error>>,
) -> impl Stream<Item = Result<String, watcher::Error>> {
    events.filter_map(|event| {
        let change = match event {
            Ok(watcher::Event::Apply(pod) | watcher::Event::Delete(pod)) => Some(Ok(pod
                .spec
                .and_then(|spec| spec.node_name)
                .unwrap_or_default())),
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => None,
            Ok(watcher::Event::InitDone) => Some(Ok(String::new())),
            Err(error) => Some(Err(error)),
        };
        std::future::ready(change)
    })
}

/// Names of nodes that come, go, boot, or change readiness or address. A node's status is written
/// every few minutes without any of these. (A predicate filter would swallow deletions: a node that
/// goes looks like the node that was.)
fn essential_changes(
    events: impl Stream<Item = Result<watcher::Event<Node>, watcher::Error>>,
) -> impl Stream<Item = Result<String, watcher::Error>> {
    let mut known = HashMap::new();
    events.filter_map(move |event| {
        let change = match event {
            Ok(watcher::Event::Apply(node) | watcher::Event::InitApply(node)) => {
                let essence = (
                    node::is_ready(&node),
                    node::boot_id(&node).map(str::to_owned),
                    node::internal_ip(&node),
                );
                let before = known.insert(node.name_any(), essence.clone());
                (before != Some(essence)).then(|| Ok(node.name_any()))
            }
            Ok(watcher::Event::Delete(node)) => {
                known.remove(&node.name_any());
                Some(Ok(node.name_any()))
            }
            Ok(watcher::Event::Init) => None,
            // Whatever went while the watch was down is known now.
            Ok(watcher::Event::InitDone) => Some(Ok(String::new())),
            Err(error) => Some(Err(error)),
        };
        std::future::ready(change)
    })
}
