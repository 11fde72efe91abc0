//! The operator's service: convert, forward to the volume's owner, wait, convert back.
//!
//! Does not live here: decisions, state. A call that is dropped does not stop its command.

pub(crate) mod state;
pub(crate) mod tls;
pub(crate) mod validate;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use drqm_engine::command::{Command, Initialize, Keep, Refusal};
use drqm_engine::ids::CommandId;
use drqm_rpc::control::v1 as pb;
use futures::{Stream, StreamExt};
use pb::control_server::{Control, ControlServer};
use tokio::sync::broadcast::error::RecvError;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::metrics::METRICS;
use crate::node::{ConfigureError, Entry, Node};
use crate::pool::{PoolError, VolumeKey};
use crate::volume::VolumeHandle;
use crate::{convert, entropy};

/// How long a state waits for a fresh word of the peer. The engine declares a silent link down
/// earlier.
const REFRESH_LIMIT: Duration = Duration::from_secs(12);

/// Connections of operators at once; there are one or two.
const STREAMS: u32 = 64;

struct Service {
    node: Arc<Node>,
}

/// Serves until dropped.
pub(crate) async fn serve(
    listener: tokio::net::TcpListener,
    tls: tls::Loader,
    node: Arc<Node>,
) -> anyhow::Result<()> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ControlServer<Service>>().await;
    let incoming = tls::incoming(listener, tls);
    Server::builder()
        .http2_keepalive_interval(Some(drqm_rpc::CONTROL_KEEPALIVE))
        .http2_keepalive_timeout(Some(drqm_rpc::CONTROL_KEEPALIVE))
        .max_concurrent_streams(STREAMS)
        .add_service(health_service)
        .add_service(ControlServer::new(Service { node }))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}

type Answer<T> = Result<Response<T>, Status>;

impl Service {
    fn key(volume: Option<&pb::VolumeRef>) -> Result<VolumeKey, Status> {
        let volume = volume.ok_or_else(|| Status::invalid_argument("volume: missing"))?;
        VolumeKey::new(&volume.namespace, &volume.name)
            .map_err(|e| Status::invalid_argument(e.to_string()))
    }

    fn handle(&self, key: &VolumeKey) -> Result<Arc<VolumeHandle>, Status> {
        match self.node.entry(key) {
            Some(Entry {
                running: Ok(handle),
                ..
            }) => Ok(handle),
            Some(Entry {
                running: Err(error),
                ..
            }) => Err(Status::failed_precondition(error)),
            None => Err(Status::not_found(format!(
                "{key} is not configured on this node"
            ))),
        }
    }

    /// Carries a command out whatever becomes of the call.
    async fn order(
        &self,
        key: &VolumeKey,
        id: CommandId,
        command: Command,
    ) -> Result<Result<(), Refusal>, Status> {
        let handle = self.handle(key)?;
        METRICS.commands.inc();
        let result = self.node.order(&handle, id, command).await;
        if let Err(refusal) = &result {
            METRICS.commands_refused.inc();
            tracing::info!(volume = %key, %refusal, "command refused");
        }
        Ok(result)
    }

    async fn state(&self, key: &VolumeKey) -> Result<pb::VolumeState, Status> {
        state::volume(&self.node, key)
            .await
            .ok_or_else(|| Status::not_found(format!("{key} does not exist on this node")))
    }
}

fn fresh_id() -> CommandId {
    CommandId(entropy::random_u128())
}

fn configure_status(error: ConfigureError) -> Status {
    let text = error.to_string();
    match error {
        ConfigureError::Pool(PoolError::Full { .. }) => Status::resource_exhausted(text),
        ConfigureError::Pool(
            PoolError::DataMissing { .. } | PoolError::Locked { .. } | PoolError::BadConfig { .. },
        )
        | ConfigureError::Start(_) => Status::failed_precondition(text),
        // Never `Unavailable`: that is how a replicator looks that does not answer at all.
        ConfigureError::Pool(PoolError::Io { .. }) => Status::aborted(text),
        ConfigureError::Pool(PoolError::BadName { .. } | PoolError::SizeMismatch { .. })
        | ConfigureError::Port(_)
        | ConfigureError::Keys(_)
        | ConfigureError::OtherQueueManager { .. } => Status::invalid_argument(text),
    }
}

#[tonic::async_trait]
impl Control for Service {
    async fn get_node(&self, _: Request<pb::GetNodeRequest>) -> Answer<pb::NodeState> {
        Ok(Response::new(state::node(&self.node).await))
    }

    async fn configure(&self, request: Request<pb::ConfigureRequest>) -> Answer<pb::VolumeState> {
        let request = request.into_inner();
        let key = Self::key(request.volume.as_ref())?;
        let bounds = validate::Bounds {
            own_addresses: self.node.own_addresses(),
            shared_port: self.node.shared_port(),
        };
        let config = validate::config(request, &bounds).map_err(Status::invalid_argument)?;
        let (node, name) = (self.node.clone(), key.clone());
        // Not cut short when the call is dropped.
        let changed = tokio::spawn(async move { node.configure(&name, config).await }).await;
        changed
            .map_err(|e| Status::internal(e.to_string()))?
            .map_err(configure_status)?;
        Ok(Response::new(self.state(&key).await?))
    }

    async fn get_state(&self, request: Request<pb::GetStateRequest>) -> Answer<pb::VolumeState> {
        let request = request.into_inner();
        let key = Self::key(request.volume.as_ref())?;
        if request.refresh
            && let Ok(handle) = self.handle(&key)
        {
            // Whatever the answer, the state says how old the peer's last word is.
            let refreshed = self.node.order(&handle, fresh_id(), Command::Refresh);
            let _ = tokio::time::timeout(REFRESH_LIMIT, refreshed).await;
        }
        Ok(Response::new(self.state(&key).await?))
    }

    async fn set_role(&self, request: Request<pb::SetRoleRequest>) -> Answer<pb::SetRoleResponse> {
        let request = request.into_inner();
        let key = Self::key(request.volume.as_ref())?;
        let command = set_role_command(&request).map_err(Status::invalid_argument)?;
        let id = convert::command_id(&key, &request.command_id);
        let result = self.order(&key, id, command).await?;
        Ok(Response::new(pb::SetRoleResponse {
            refusal: result.err().as_ref().map(convert::refusal),
            state: Some(self.state(&key).await?),
        }))
    }

    async fn revert(&self, request: Request<pb::RevertRequest>) -> Answer<pb::RevertResponse> {
        let request = request.into_inner();
        let key = Self::key(request.volume.as_ref())?;
        if request.command_id.is_empty() {
            return Err(Status::invalid_argument("command_id: missing"));
        }
        let expected_epoch = convert::epoch_from(&request.expected_epoch);
        let expected_epoch = expected_epoch.map_err(Status::invalid_argument)?;
        let id = convert::command_id(&key, &request.command_id);
        let result = self
            .order(&key, id, Command::Revert { expected_epoch })
            .await?;
        Ok(Response::new(pb::RevertResponse {
            refusal: result.err().as_ref().map(convert::refusal),
            state: Some(self.state(&key).await?),
        }))
    }

    async fn resolve(&self, request: Request<pb::ResolveRequest>) -> Answer<pb::ResolveResponse> {
        let request = request.into_inner();
        let key = Self::key(request.volume.as_ref())?;
        let command = resolve_command(&request).map_err(Status::invalid_argument)?;
        let id = convert::command_id(&key, &request.command_id);
        let result = self.order(&key, id, command).await?;
        Ok(Response::new(pb::ResolveResponse {
            refusal: result.err().as_ref().map(convert::refusal),
            state: Some(self.state(&key).await?),
        }))
    }

    async fn record_verdict(
        &self,
        request: Request<pb::RecordVerdictRequest>,
    ) -> Answer<pb::VolumeState> {
        let request = request.into_inner();
        let key = Self::key(request.volume.as_ref())?;
        let judged = request
            .request
            .ok_or_else(|| Status::invalid_argument("request: missing"))?;
        let judged = convert::judged_from(judged).map_err(Status::invalid_argument)?;
        let recorded = self
            .order(&key, fresh_id(), Command::RecordVerdict(judged))
            .await?;
        recorded.map_err(|refusal| Status::failed_precondition(refusal.to_string()))?;
        Ok(Response::new(self.state(&key).await?))
    }

    async fn delete_volume(
        &self,
        request: Request<pb::DeleteVolumeRequest>,
    ) -> Answer<pb::DeleteVolumeResponse> {
        let request = request.into_inner();
        let key = Self::key(request.volume.as_ref())?;
        let node = self.node.clone();
        let deleted = tokio::spawn(async move { node.delete(&key, request.erase).await }).await;
        let deleted = deleted.map_err(|e| Status::internal(e.to_string()))?;
        let result = deleted.map_err(|e| Status::aborted(e.to_string()))?;
        let refusal = result.err().as_ref().map(convert::refusal);
        Ok(Response::new(pb::DeleteVolumeResponse { refusal }))
    }

    async fn heal_device(
        &self,
        request: Request<pb::HealDeviceRequest>,
    ) -> Answer<pb::VolumeState> {
        let key = Self::key(request.into_inner().volume.as_ref())?;
        let handle = self.handle(&key)?;
        let device = handle.device.clone();
        let unmounted = tokio::task::spawn_blocking(move || device.unmount_dead()).await;
        unmounted
            .map_err(|e| Status::internal(e.to_string()))?
            .map_err(|e| Status::aborted(format!("unmounting the dead device: {e}")))?;
        let dead = self
            .node
            .report(&handle)
            .await
            .is_some_and(|r| r.gate == drqm_engine::report::Gate::Dead);
        if dead {
            let healed = self.order(&key, fresh_id(), Command::HealDevice).await?;
            healed.map_err(|refusal| Status::failed_precondition(refusal.to_string()))?;
        }
        Ok(Response::new(self.state(&key).await?))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<pb::WatchEvent, Status>> + Send>>;

    async fn watch(&self, _: Request<pb::WatchRequest>) -> Answer<Self::WatchStream> {
        let notices = self.node.shared.notify.subscribe();
        let node = self.node.clone();
        let all = move |node: &Node| node.keys();
        // Everything once: what changed before this call must not be missed.
        let first = all(&node);
        let stream = futures::stream::unfold(
            (notices, node, first),
            |(mut notices, node, mut due)| async move {
                loop {
                    if let Some(key) = due.pop() {
                        let event = pb::WatchEvent {
                            volume: Some(convert::volume_ref(&key)),
                        };
                        return Some((Ok(event), (notices, node, due)));
                    }
                    match notices.recv().await {
                        Ok(key) => due.push(key),
                        // Too slow: look at everything again.
                        Err(RecvError::Lagged(_)) => due = node.keys(),
                        Err(RecvError::Closed) => return None,
                    }
                }
            },
        );
        Ok(Response::new(stream.boxed()))
    }
}

fn set_role_command(request: &pb::SetRoleRequest) -> Result<Command, String> {
    if request.command_id.is_empty() {
        return Err("command_id: missing".to_owned());
    }
    let role = convert::role_from(request.role()).ok_or("role: missing")?;
    let expected_epoch = convert::epoch_from(&request.expected_epoch)?;
    let initialize = match (request.initialize, request.without_peer) {
        (true, true) => Some(Initialize::WithoutPeer),
        (true, false) => Some(Initialize::WithPeer),
        (false, false) => None,
        (false, true) => return Err("without_peer: only with initialize".to_owned()),
    };
    let judged = request.request.clone().ok_or("request: missing")?;
    Ok(Command::SetRole {
        role,
        expected_epoch,
        initialize,
        request: convert::judged_from(judged)?,
    })
}

fn resolve_command(request: &pb::ResolveRequest) -> Result<Command, String> {
    if request.command_id.is_empty() {
        return Err("command_id: missing".to_owned());
    }
    let keep = match request.keep() {
        pb::Keep::Local => Keep::Local,
        pb::Keep::Remote => Keep::Remote,
        pb::Keep::Unspecified => return Err("keep: missing".to_owned()),
    };
    Ok(Command::Resolve {
        expected_epoch: convert::epoch_from(&request.expected_epoch)?,
        keep,
    })
}
