//! A control service on loopback with mutual TLS, holding one volume.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use drqm_operator::certificates::control::ControlTls;
use drqm_rpc::control::v1::{
    ConfigureRequest, Data, DeleteVolumeRequest, DeleteVolumeResponse, Device, Gate,
    GetNodeRequest, GetStateRequest, HealDeviceRequest, Link, LinkState, NodeState,
    RecordVerdictRequest, ResolveRequest, ResolveResponse, RevertRequest, RevertResponse, Role,
    SetRoleRequest, SetRoleResponse, VolumeState, WatchEvent, WatchRequest,
    control_server::{Control, ControlServer},
};
use futures::stream::{self, BoxStream, StreamExt};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::Connected},
};

/// The volume, and the commands that came.
#[derive(Default)]
pub(crate) struct Held {
    pub(crate) volume: Option<VolumeState>,
    pub(crate) commands: Vec<String>,
}

#[derive(Clone, Default)]
pub(crate) struct Replicator(pub(crate) Arc<Mutex<Held>>);

impl Replicator {
    fn volume(&self) -> Result<Response<VolumeState>, Status> {
        let held = self.0.lock().expect("not poisoned");
        held.volume
            .clone()
            .map(Response::new)
            .ok_or_else(|| Status::not_found("no such volume"))
    }
}

#[tonic::async_trait]
impl Control for Replicator {
    async fn get_node(&self, _: Request<GetNodeRequest>) -> Result<Response<NodeState>, Status> {
        let held = self.0.lock().expect("not poisoned");
        let volumes = held.volume.iter().cloned().collect();
        Ok(Response::new(NodeState {
            pool_free_bytes: 1 << 40,
            volumes,
            ..Default::default()
        }))
    }

    async fn configure(
        &self,
        request: Request<ConfigureRequest>,
    ) -> Result<Response<VolumeState>, Status> {
        {
            let mut held = self.0.lock().expect("not poisoned");
            held.commands.push("Configure".to_owned());
            let asked = request.into_inner();
            let mut volume = held.volume.take().unwrap_or_else(|| VolumeState {
                role: Role::Secondary.into(),
                data: Data::Empty.into(),
                device: Some(Device {
                    gate: Gate::Closed.into(),
                    ..Default::default()
                }),
                ..Default::default()
            });
            volume.volume = asked.volume;
            volume.cr_uid = asked.cr_uid;
            volume.volume_id = "v1".to_owned();
            volume.queue_manager_name = asked.queue_manager_name;
            volume.size_bytes = asked.size_bytes;
            volume.mode = asked.mode;
            volume.effective_mode = asked.mode;
            volume.configured = true;
            let state = match asked.peer {
                Some(_) => LinkState::Down,
                None => LinkState::Unconfigured,
            };
            volume.link = Some(Link {
                state: state.into(),
                ..Default::default()
            });
            held.volume = Some(volume);
        }
        self.volume()
    }

    async fn get_state(
        &self,
        _: Request<GetStateRequest>,
    ) -> Result<Response<VolumeState>, Status> {
        self.volume()
    }

    async fn set_role(
        &self,
        request: Request<SetRoleRequest>,
    ) -> Result<Response<SetRoleResponse>, Status> {
        let asked = request.into_inner();
        let mut held = self.0.lock().expect("not poisoned");
        held.commands.push(format!(
            "SetRole {:?} initialize={}",
            asked.role(),
            asked.initialize
        ));
        let volume = held
            .volume
            .as_mut()
            .ok_or_else(|| Status::not_found("no such volume"))?;
        volume.role = asked.role;
        volume.judged = asked.request;
        volume.data = Data::UpToDate.into();
        volume.epoch = "0123456789abcdef0123456789abcdef".to_owned();
        let open = asked.role == i32::from(Role::Primary);
        let gate = if open { Gate::Open } else { Gate::Closed };
        volume.device = Some(Device {
            gate: gate.into(),
            ..Default::default()
        });
        let state = Some(volume.clone());
        Ok(Response::new(SetRoleResponse {
            refusal: None,
            state,
        }))
    }

    async fn record_verdict(
        &self,
        request: Request<RecordVerdictRequest>,
    ) -> Result<Response<VolumeState>, Status> {
        {
            let mut held = self.0.lock().expect("not poisoned");
            held.commands.push("RecordVerdict".to_owned());
            let volume = held
                .volume
                .as_mut()
                .ok_or_else(|| Status::not_found("none"))?;
            volume.judged = request.into_inner().request;
        }
        self.volume()
    }

    async fn revert(&self, _: Request<RevertRequest>) -> Result<Response<RevertResponse>, Status> {
        let mut held = self.0.lock().expect("not poisoned");
        held.commands.push("Revert".to_owned());
        if let Some(volume) = &mut held.volume {
            volume.data = Data::Behind.into();
        }
        let state = held.volume.clone();
        Ok(Response::new(RevertResponse {
            refusal: None,
            state,
        }))
    }

    async fn resolve(
        &self,
        _: Request<ResolveRequest>,
    ) -> Result<Response<ResolveResponse>, Status> {
        let mut held = self.0.lock().expect("not poisoned");
        held.commands.push("Resolve".to_owned());
        let state = held.volume.clone();
        Ok(Response::new(ResolveResponse {
            refusal: None,
            state,
        }))
    }

    async fn delete_volume(
        &self,
        _: Request<DeleteVolumeRequest>,
    ) -> Result<Response<DeleteVolumeResponse>, Status> {
        let mut held = self.0.lock().expect("not poisoned");
        held.commands.push("DeleteVolume".to_owned());
        held.volume = None;
        Ok(Response::new(DeleteVolumeResponse { refusal: None }))
    }

    async fn heal_device(
        &self,
        _: Request<HealDeviceRequest>,
    ) -> Result<Response<VolumeState>, Status> {
        self.volume()
    }

    type WatchStream = BoxStream<'static, Result<WatchEvent, Status>>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(stream::pending().boxed()))
    }
}

/// Serves on loopback.
pub(crate) async fn start(replicator: Replicator, tls: &ControlTls) -> SocketAddr {
    let acceptor = TlsAcceptor::from(Arc::new(server_config(tls)));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    let incoming = stream::unfold((listener, acceptor), |(listener, acceptor)| async move {
        loop {
            let (tcp, _) = listener.accept().await.expect("accepting");
            // A client without a good certificate ends here, and only here.
            if let Ok(stream) = acceptor.accept(tcp).await {
                return Some((Ok::<_, io::Error>(Tls(stream)), (listener, acceptor)));
            }
        }
    });
    let service = Server::builder().add_service(ControlServer::new(replicator));
    tokio::spawn(async move {
        service
            .serve_with_incoming(incoming)
            .await
            .expect("serving")
    });
    address
}

fn server_config(tls: &ControlTls) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(tls.authority.bundle.as_bytes()) {
        roots.add(ca.expect("PEM")).expect("a CA");
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .expect("roots");
    let certificate =
        CertificateDer::from_pem_slice(tls.server.certificate.as_bytes()).expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(tls.server.key.as_bytes()).expect("PEM");
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate], key)
        .expect("an identity");
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// tonic wants to know what a connection is.
struct Tls(TlsStream<TcpStream>);

impl Connected for Tls {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Tls {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Tls {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
