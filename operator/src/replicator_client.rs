//! The operator's connections to its own cluster's replicators.
//!
//! Lives here: one channel per node with mutual TLS and keepalive, deadlines, error classes.
//! Wire ↔ domain is in `replicator_client::convert`.
//! Does not live here: what to send and when (`controller::drive`), streams (`replicator_events`).

pub mod convert;

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use drqm_rpc::{
    CONTROL_KEEPALIVE,
    control::v1::{
        ConfigureRequest, DeleteVolumeRequest, DeleteVolumeResponse, GetNodeRequest,
        GetStateRequest, HealDeviceRequest, NodeState, RecordVerdictRequest, ResolveRequest,
        ResolveResponse, RevertRequest, RevertResponse, SetRoleRequest, SetRoleResponse, VolumeRef,
        VolumeState, WatchEvent, WatchRequest, control_client::ControlClient,
    },
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Code, Request, Response, Status, Streaming,
    transport::{Channel, Endpoint},
};

use crate::{
    certificates::{
        CertificateError, certificates,
        control::{ControlTls, SERVER_NAME},
    },
    metrics::{Call, Metrics, WriteOutcome},
};

/// A dial that takes longer than this in one's own data centre will not succeed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A node that is silent this long after a keepalive ping is gone.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Reading what the replicator has in memory.
const READ_DEADLINE: Duration = Duration::from_secs(2);
/// Asking the peer: heartbeat loss takes 5 s, one fresh dial to each of four addresses as much.
const REFRESH_DEADLINE: Duration = Duration::from_secs(12);
/// Creating files, storing keys, making a device.
const COMMAND_DEADLINE: Duration = Duration::from_secs(15);
/// A role change may format, drain a 64 MiB window, or wait for a grant. It goes on in the
/// replicator if this passes; the next pass asks with the same command id.
const ROLE_DEADLINE: Duration = Duration::from_secs(30);
/// Added to the deadline the server knows, so that its own answer wins.
const GRACE: Duration = Duration::from_millis(500);

/// Whether the peer has to be asked before `GetState` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// What the replicator knows.
    Known,
    /// An answer of the peer that is newer than this call, or the link declared down.
    Refreshed,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No connection, or it broke.
    #[error("failed to reach the replicator on {node}")]
    Unreachable {
        /// Which node.
        node: String,
        /// Why.
        source: Box<Status>,
    },
    /// No answer in time.
    #[error("the replicator on {node} did not answer within {limit:?}")]
    Deadline {
        /// Which node.
        node: String,
        /// The deadline.
        limit: Duration,
    },
    /// The replicator does not know the volume.
    #[error("the replicator on {node} does not know the volume")]
    NotFound {
        /// Which node.
        node: String,
    },
    /// The replicator answered with an error.
    #[error("the replicator on {node} could not do it: {message}")]
    Failed {
        /// Which node.
        node: String,
        /// In the replicator's words, which are written for people.
        message: String,
    },
    /// The node has no ready replicator.
    #[error("no replicator runs on {node}")]
    NoReplicator {
        /// Which node.
        node: String,
    },
    /// The control channel's certificates are not there yet.
    #[error("the certificates of the control channel are not made yet")]
    NoIdentity,
}

impl CallError {
    /// Stable label for metrics and logs.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "ReplicatorUnreachable",
            Self::Deadline { .. } => "ReplicatorTimeout",
            Self::NotFound { .. } => "VolumeNotFound",
            Self::Failed { .. } => "ReplicatorFailed",
            Self::NoReplicator { .. } => "NoReplicator",
            Self::NoIdentity => "NoControlCertificates",
        }
    }

    fn of(node: &str, limit: Duration, status: Status) -> Self {
        let node = node.to_owned();
        match status.code() {
            Code::NotFound => Self::NotFound { node },
            Code::DeadlineExceeded => Self::Deadline { node, limit },
            // `Unknown` is how a transport error arrives, `Cancelled` a connection that ended.
            Code::Unavailable | Code::Unknown | Code::Cancelled => Self::Unreachable {
                node,
                source: Box::new(status),
            },
            Code::Ok
            | Code::InvalidArgument
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss
            | Code::Unauthenticated => Self::Failed {
                node,
                message: status.message().to_owned(),
            },
        }
    }
}

/// A replicator as a place to call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Name of the node.
    pub node: String,
    /// Its control address.
    pub address: SocketAddr,
}

/// Channels to all replicators of this cluster.
pub struct ReplicatorClients {
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tls: Option<Arc<ClientConfig>>,
    identity: Option<ControlTls>,
    channels: HashMap<String, (SocketAddr, Channel)>,
}

impl ReplicatorClients {
    /// No connection is made before the first call, and none without an identity.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            state: Mutex::default(),
        }
    }

    /// Uses these certificates from now on. Open channels end if something changed.
    pub fn set_identity(&self, tls: &ControlTls) -> Result<(), CertificateError> {
        let mut state = self.lock();
        if state
            .identity
            .as_ref()
            .is_some_and(|held| held.data() == tls.data())
        {
            return Ok(());
        }
        state.tls = Some(Arc::new(client_config(tls)?));
        state.identity = Some(tls.clone());
        state.channels.clear();
        Ok(())
    }

    /// Forgets the channels of nodes that are no longer there.
    pub fn retain(&self, nodes: impl Fn(&str) -> bool) {
        self.lock().channels.retain(|node, _| nodes(node));
    }

    /// Pool and volumes of a node.
    pub async fn node_state(&self, place: &Place) -> Result<NodeState, CallError> {
        self.call(
            place,
            Call::GetNode,
            READ_DEADLINE,
            async |mut client, request| client.get_node(request).await,
            GetNodeRequest {},
        )
        .await
    }

    /// State of a volume.
    pub async fn state(
        &self,
        place: &Place,
        volume: VolumeRef,
        freshness: Freshness,
    ) -> Result<VolumeState, CallError> {
        let (refresh, limit) = match freshness {
            Freshness::Known => (false, READ_DEADLINE),
            Freshness::Refreshed => (true, REFRESH_DEADLINE),
        };
        let message = GetStateRequest {
            volume: Some(volume),
            refresh,
        };
        self.call(
            place,
            Call::GetState,
            limit,
            async |mut client, request| client.get_state(request).await,
            message,
        )
        .await
    }

    /// Creates or updates a volume.
    pub async fn configure(
        &self,
        place: &Place,
        message: ConfigureRequest,
    ) -> Result<VolumeState, CallError> {
        self.call(
            place,
            Call::Configure,
            COMMAND_DEADLINE,
            async |mut client, request| client.configure(request).await,
            message,
        )
        .await
    }

    /// Changes a role. A refusal is an answer, not an error.
    pub async fn set_role(
        &self,
        place: &Place,
        message: SetRoleRequest,
    ) -> Result<SetRoleResponse, CallError> {
        self.call(
            place,
            Call::SetRole,
            ROLE_DEADLINE,
            async |mut client, request| client.set_role(request).await,
            message,
        )
        .await
    }

    /// Takes a copy back to its snapshot. A refusal is an answer, not an error.
    pub async fn revert(
        &self,
        place: &Place,
        message: RevertRequest,
    ) -> Result<RevertResponse, CallError> {
        self.call(
            place,
            Call::Revert,
            COMMAND_DEADLINE,
            async |mut client, request| client.revert(request).await,
            message,
        )
        .await
    }

    /// Ends a partition, as far as this side is concerned. A refusal is an answer, not an error.
    pub async fn resolve(
        &self,
        place: &Place,
        message: ResolveRequest,
    ) -> Result<ResolveResponse, CallError> {
        self.call(
            place,
            Call::Resolve,
            COMMAND_DEADLINE,
            async |mut client, request| client.resolve(request).await,
            message,
        )
        .await
    }

    /// Stores how a request was judged.
    pub async fn record_verdict(
        &self,
        place: &Place,
        message: RecordVerdictRequest,
    ) -> Result<VolumeState, CallError> {
        self.call(
            place,
            Call::RecordVerdict,
            COMMAND_DEADLINE,
            async |mut client, request| client.record_verdict(request).await,
            message,
        )
        .await
    }

    /// Forgets a volume. A refusal is an answer, not an error.
    pub async fn delete_volume(
        &self,
        place: &Place,
        message: DeleteVolumeRequest,
    ) -> Result<DeleteVolumeResponse, CallError> {
        self.call(
            place,
            Call::DeleteVolume,
            COMMAND_DEADLINE,
            async |mut client, request| client.delete_volume(request).await,
            message,
        )
        .await
    }

    /// Replaces a dead device.
    pub async fn heal_device(
        &self,
        place: &Place,
        volume: VolumeRef,
    ) -> Result<VolumeState, CallError> {
        let message = HealDeviceRequest {
            volume: Some(volume),
        };
        self.call(
            place,
            Call::HealDevice,
            COMMAND_DEADLINE,
            async |mut client, request| client.heal_device(request).await,
            message,
        )
        .await
    }

    /// Opens the stream of changes. Only its opening has a deadline.
    pub async fn watch(&self, place: &Place) -> Result<Streaming<WatchEvent>, CallError> {
        let mut client = self.client(place)?;
        let began = Instant::now();
        let answer = timeout(READ_DEADLINE, client.watch(WatchRequest {})).await;
        let result = flatten(&place.node, READ_DEADLINE, answer);
        self.count(Call::Watch, began, &result);
        result
    }

    async fn call<M, R>(
        &self,
        place: &Place,
        call: Call,
        limit: Duration,
        send: impl AsyncFnOnce(ControlClient<Channel>, Request<M>) -> Result<Response<R>, Status>,
        message: M,
    ) -> Result<R, CallError> {
        let client = self.client(place)?;
        let mut request = Request::new(message);
        request.set_timeout(limit);
        let began = Instant::now();
        let answer = timeout(limit + GRACE, send(client, request)).await;
        let result = flatten(&place.node, limit, answer);
        self.count(call, began, &result);
        result
    }

    fn count<R>(&self, call: Call, began: Instant, result: &Result<R, CallError>) {
        let outcome = match result {
            Ok(_) => WriteOutcome::Ok,
            Err(CallError::NotFound { .. }) => WriteOutcome::NotFound,
            Err(
                CallError::Unreachable { .. }
                | CallError::Deadline { .. }
                | CallError::Failed { .. }
                | CallError::NoReplicator { .. }
                | CallError::NoIdentity,
            ) => WriteOutcome::Failed,
        };
        self.metrics.call(call, outcome, began.elapsed());
    }

    fn client(&self, place: &Place) -> Result<ControlClient<Channel>, CallError> {
        let mut state = self.lock();
        if let Some((address, channel)) = state.channels.get(&place.node)
            && *address == place.address
        {
            return Ok(ControlClient::new(channel.clone()));
        }
        let tls = state.tls.clone().ok_or(CallError::NoIdentity)?;
        let channel = channel(place.address, tls);
        state
            .channels
            .insert(place.node.clone(), (place.address, channel.clone()));
        Ok(ControlClient::new(channel))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Held for map operations only; the content is valid whatever a panicking holder did.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn flatten<R>(
    node: &str,
    limit: Duration,
    answer: Result<Result<Response<R>, Status>, tokio::time::error::Elapsed>,
) -> Result<R, CallError> {
    match answer {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(CallError::of(node, limit, status)),
        Err(_) => Err(CallError::Deadline {
            node: node.to_owned(),
            limit,
        }),
    }
}

fn channel(address: SocketAddr, tls: Arc<ClientConfig>) -> Channel {
    // The scheme is http because the connector below does the TLS: tonic's own TLS would need a
    // feature that the replicator's data path does without.
    Endpoint::from_static("http://replicator.control.drqm.io")
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(CONTROL_KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(tower::service_fn(move |_| {
            let tls = TlsConnector::from(tls.clone());
            async move { dial(address, tls).await }
        }))
}

async fn dial(
    address: SocketAddr,
    tls: TlsConnector,
) -> Result<TokioIo<TlsStream<TcpStream>>, io::Error> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from(SERVER_NAME).expect("the constant is a DNS name");
    Ok(TokioIo::new(tls.connect(name, tcp).await?))
}

fn client_config(tls: &ControlTls) -> Result<ClientConfig, CertificateError> {
    let mut roots = RootCertStore::empty();
    for ca in certificates("ca.crt", tls.authority.bundle.as_bytes())? {
        roots
            .add(ca)
            .map_err(|_| CertificateError::Pem { field: "ca.crt" })?;
    }
    let chain = certificates("client.crt", tls.client.certificate.as_bytes())?;
    let key = PrivateKeyDer::from_pem_slice(tls.client.key.as_bytes()).map_err(|_| {
        CertificateError::Pem {
            field: "client.key",
        }
    })?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3")
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|_| CertificateError::Pem {
            field: "client.crt",
        })?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
