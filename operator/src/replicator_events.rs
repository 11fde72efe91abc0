//! Replicator streams become reasons to reconcile.
//!
//! Lives here: one stream per replicator, opened again with growing delay; a trigger has no
//! content. Does not live here: what changed (each pass asks for the state itself).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kube::runtime::reflector::ObjectRef;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::Metrics,
    replicator_client::{Place, ReplicatorClients},
};

/// First delay before a stream is opened again.
const FIRST_DELAY: Duration = Duration::from_millis(250);
/// Longest delay: a node that returns is seen by its pod's readiness before that.
const LONGEST_DELAY: Duration = Duration::from_secs(10);

/// How often the stream of each node was opened.
#[derive(Debug, Default)]
pub struct Sessions {
    by_node: Mutex<BTreeMap<String, u64>>,
}

impl Sessions {
    /// The number of the node's present stream; 0 before the first.
    pub fn of(&self, node: &str) -> u64 {
        self.lock().get(node).copied().unwrap_or_default()
    }

    fn opened(&self, node: &str) {
        *self.lock().entry(node.to_owned()).or_default() += 1;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        // Numbers are valid whatever a panicking holder did.
        self.by_node.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reason to look again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// This volume's state changed.
    Volume {
        /// Namespace of the object.
        namespace: String,
        /// Name of the object.
        name: String,
    },
    /// The stream of this node opened or broke: anything may have changed.
    Node(String),
}

/// Keeps one stream per place until `shutdown`.
///
/// *Assumptions*: `places` names every node with a running replicator. *Cancel safety*: yes, the
/// streams end with the future.
pub async fn run(
    clients: Arc<ReplicatorClients>,
    sessions: Arc<Sessions>,
    metrics: Arc<Metrics>,
    mut places: watch::Receiver<Vec<Place>>,
    triggers: mpsc::Sender<Trigger>,
    shutdown: CancellationToken,
) {
    let mut tasks = JoinSet::new();
    let mut running: BTreeMap<Place, CancellationToken> = BTreeMap::new();
    loop {
        let wanted = places.borrow_and_update().clone();
        running.retain(|place, token| {
            let keep = wanted.contains(place);
            if !keep {
                token.cancel();
            }
            keep
        });
        clients.retain(|node| wanted.iter().any(|place| place.node == node));
        for place in wanted {
            running.entry(place.clone()).or_insert_with(|| {
                let token = shutdown.child_token();
                let stream = follow(
                    clients.clone(),
                    sessions.clone(),
                    metrics.clone(),
                    place,
                    triggers.clone(),
                );
                tasks.spawn(token.clone().run_until_cancelled_owned(stream));
                token
            });
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            changed = places.changed() => if changed.is_err() { break },
            // Streams end only when cancelled; taking them out keeps the set small.
            Some(_) = tasks.join_next() => {}
        }
    }
    tasks.shutdown().await;
}

async fn follow(
    clients: Arc<ReplicatorClients>,
    sessions: Arc<Sessions>,
    metrics: Arc<Metrics>,
    place: Place,
    triggers: mpsc::Sender<Trigger>,
) {
    let mut delay = FIRST_DELAY;
    loop {
        match clients.watch(&place).await {
            Ok(mut stream) => {
                delay = FIRST_DELAY;
                sessions.opened(&place.node);
                let _open = OpenStream::new(metrics.clone());
                tracing::info!(node = place.node, "following the replicator's changes");
                if triggers
                    .send(Trigger::Node(place.node.clone()))
                    .await
                    .is_err()
                {
                    return;
                }
                loop {
                    let trigger = match stream.message().await {
                        Ok(Some(event)) => event.volume.map(|volume| Trigger::Volume {
                            namespace: volume.namespace,
                            name: volume.name,
                        }),
                        Ok(None) => break,
                        Err(status) => {
                            tracing::info!(node = place.node, %status, "stream broke");
                            break;
                        }
                    };
                    if let Some(trigger) = trigger
                        && triggers.send(trigger).await.is_err()
                    {
                        return;
                    }
                }
                if triggers
                    .send(Trigger::Node(place.node.clone()))
                    .await
                    .is_err()
                {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(
                    node = place.node,
                    error = %crate::telemetry::chain(&error),
                    "no stream yet"
                );
            }
        }
        sleep(delay).await;
        delay = (delay * 2).min(LONGEST_DELAY);
    }
}

/// Counts an open stream for as long as it lives, also when its task is cancelled.
struct OpenStream(Arc<Metrics>);

impl OpenStream {
    fn new(metrics: Arc<Metrics>) -> Self {
        metrics.replicator_stream(1);
        Self(metrics)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.replicator_stream(-1);
    }
}

/// The objects that a trigger concerns, out of those that exist.
pub fn concerned<K>(
    trigger: &Trigger,
    all: impl IntoIterator<Item = ObjectRef<K>>,
) -> Vec<ObjectRef<K>>
where
    K: kube::Resource<DynamicType = ()>,
{
    match trigger {
        Trigger::Volume { namespace, name } => all
            .into_iter()
            .filter(|known| known.namespace.as_deref() == Some(namespace) && known.name == *name)
            .collect(),
        // Which objects live on the node is only in their status; there are few, and a pass over
        // an unconcerned one writes nothing.
        Trigger::Node(_) => all.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    #[test]
    fn a_volume_concerns_its_object_and_a_node_concerns_all() {
        let known = || {
            [("a", "x"), ("a", "y"), ("b", "x")]
                .map(|(ns, name)| ObjectRef::<ConfigMap>::new(name).within(ns))
        };
        let volume = Trigger::Volume {
            namespace: "a".to_owned(),
            name: "x".to_owned(),
        };
        assert_eq!(concerned(&volume, known()), vec![known()[0].clone()]);
        assert_eq!(concerned(&Trigger::Node("n".to_owned()), known()).len(), 3);
    }
}
