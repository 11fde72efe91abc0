//! A peer that says what a test tells it to: TLS and HTTP/2 are real, the bytes of the gRPC messages
//! are the test's own.

use std::convert::Infallible;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::Request;
use drqm_rpc::peer::v1 as peer;
use futures::{Stream, StreamExt as _};
use hyper_util::rt::TokioIo;
use peer::replication_server::{Replication, ReplicationServer};
use prost::Message as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Response, Status, Streaming};
use tower::ServiceExt as _;

use crate::pki::{Ca, PAIR_NAME, client_config, tls};
use crate::support::LIMIT;

type Parts = ReceiverStream<Result<Bytes, Infallible>>;

/// The dialling kind, with a certificate of the pair.
pub(crate) struct Stranger {
    parts: mpsc::Sender<Result<Bytes, Infallible>>,
    answers: BodyDataStream,
    channel: Channel,
}

impl Stranger {
    pub(crate) async fn dial(port: u16, ca: &Ca) -> Self {
        Self::over(channel(port, &ca.leaf(PAIR_NAME), ca).await.unwrap()).await
    }

    /// Another stream over the same connection.
    pub(crate) async fn again(&self) -> Self {
        Self::over(self.channel.clone()).await
    }

    async fn over(channel: Channel) -> Self {
        let (parts, body) = mpsc::channel(16);
        let body: Parts = ReceiverStream::new(body);
        let request = Request::post("http://pair/drqm.peer.v1.Replication/Session")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(tonic::body::Body::new(Body::from_stream(body)))
            .unwrap();
        let answer = timeout(LIMIT, channel.clone().oneshot(request))
            .await
            .unwrap()
            .unwrap();
        Self {
            parts,
            answers: Body::new(answer.into_body()).into_data_stream(),
            channel,
        }
    }

    /// Sends a frame as it should be.
    pub(crate) async fn say(&self, frame: &peer::Frame) {
        let message = frame.encode_to_vec();
        self.say_bytes(framed(message.len(), &message)).await;
    }

    /// Sends bytes as they are.
    pub(crate) async fn say_bytes(&self, bytes: Vec<u8>) {
        // The other side may have ended the stream already.
        let _ = self.parts.send(Ok(bytes.into())).await;
    }

    /// Waits for something to arrive.
    pub(crate) async fn hear(&mut self) {
        let part = timeout(LIMIT, self.answers.next()).await.unwrap();
        assert!(!part.unwrap().unwrap().is_empty());
    }

    /// Ends this side's half of the stream.
    pub(crate) fn stop_talking(&mut self) {
        let (nobody, _) = mpsc::channel(1);
        self.parts = nobody;
    }

    /// Reads until the other side ends the stream, in whatever way; how many bytes came before.
    pub(crate) async fn until_ended(mut self) -> usize {
        let end = async {
            let mut heard = 0;
            while let Some(Ok(part)) = self.answers.next().await {
                heard += part.len();
            }
            heard
        };
        timeout(LIMIT, end).await.unwrap()
    }
}

/// A connection to a peer, with a certificate of the pair.
pub(crate) async fn channel(
    port: u16,
    leaf: &(String, String),
    ca: &Ca,
) -> Result<Channel, tonic::transport::Error> {
    let config = Arc::new(client_config(ca, Some(leaf)));
    let connector = tower::service_fn(move |_| {
        let config = config.clone();
        async move { tls(port, config, PAIR_NAME).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://pair")
        .connect_with_connector(connector)
        .await
}

/// A gRPC message that says to be `len` bytes long.
pub(crate) fn framed(len: usize, message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend((len as u32).to_be_bytes());
    bytes.extend(message);
    bytes
}

/// The first frame of a peer that nobody knows.
pub(crate) fn hello(protocol: RangeInclusive<u32>) -> peer::Frame {
    // Real ids are random; these only have to differ from all others.
    let id = |first: u8| {
        let mut id = [first; 16];
        id[8..].copy_from_slice(&(std::process::id() as u64).to_be_bytes());
        Bytes::copy_from_slice(&id)
    };
    peer::Frame {
        body: Some(peer::frame::Body::Hello(peer::Hello {
            protocol_min: *protocol.start(),
            protocol_max: *protocol.end(),
            node_id: id(1),
            boot_id: id(2),
            nonce: 1,
            software_version: "0".to_owned(),
            site_name: "stranger".to_owned(),
        })),
    }
}

struct Greeter(peer::Frame);

#[tonic::async_trait]
impl Replication for Greeter {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<peer::Frame, Status>> + Send>>;

    async fn session(
        &self,
        _: tonic::Request<Streaming<peer::Frame>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let first = futures::stream::iter([Ok(self.0.clone())]);
        Ok(Response::new(
            first.chain(futures::stream::pending()).boxed(),
        ))
    }
}

/// The kind that is dialled: answers every stream with one frame. Lives as long as the test.
pub(crate) async fn serve(ca: &Ca, first: peer::Frame) -> u16 {
    listen(ca, Greeter(first)).await
}

/// The pair's service on a port of loopback. Lives as long as the test.
pub(crate) async fn listen(ca: &Ca, service: impl Replication) -> u16 {
    let (certificate, key) = ca.leaf(PAIR_NAME);
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (ready, connections) = mpsc::channel(4);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut tls) = acceptor.accept(tcp).await else {
                continue;
            };
            let (mut near, far) = tokio::io::duplex(64 << 10);
            let _ = ready.send(Ok::<_, std::io::Error>(far)).await;
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut tls, &mut near).await });
        }
    });
    let server = Server::builder().add_service(ReplicationServer::new(service));
    tokio::spawn(server.serve_with_incoming(ReceiverStream::new(connections)));
    port
}
