//! Dialling one address: name, socket, TLS, HTTP/2, stream. Each step has a deadline.
//!
//! Does not live here: when to dial and what to do with the result ([`super::link`]).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use drqm_engine::event::LinkFault;
use drqm_engine::settings::{RESYNC_WINDOW_BYTES, WINDOW_BYTES};
use drqm_rpc::peer::v1::replication_client::ReplicationClient;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use super::names::resolve;
use super::session::{Outbound, Wire, outgoing};
use super::tls::{Shown, is_unknown_pair, shown};
use super::{LinkSettings, Security, fault_of};

// The engine's windows alone decide how much is on its way.
const _: () = assert!(drqm_rpc::STREAM_WINDOW as u64 > WINDOW_BYTES + RESYNC_WINDOW_BYTES);

/// All sockets of an address, then TLS, then HTTP/2, each. A WAN round trip is 100 ms, and the kernel
/// repeats a lost SYN after one second. A promotion with the other site gone waits this long.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// The kernel gives a connection up when sent data stay unacknowledged this long; the engine has
/// declared it lost by then.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest HTTP/2 frame: a batch of writes goes in one.
pub(super) const HTTP2_FRAME: u32 = 1 << 20;

/// Bytes read from a connection at once.
const READ_AHEAD: usize = 64 << 10;

/// HTTP/2 pings while idle; the engine's heartbeat is faster, this is for streams that ended.
pub(super) const HTTP2_KEEPALIVE: Duration = Duration::from_secs(10);

/// Opens a stream to one address.
///
/// Cancel safe: dropping the future closes what was opened.
pub(super) async fn dial(address: &str, settings: &LinkSettings) -> Result<Wire, LinkFault> {
    let tcp = connect(address, settings.local_address)
        .await
        .map_err(LinkFault::Lost)?;
    match &settings.security {
        Security::None => Err(LinkFault::AuthFailed("no keys for this pair".to_owned())),
        Security::Tls(keys) => {
            let connector = TlsConnector::from(keys.client.clone());
            let tls = timeout(CONNECT_LIMIT, connector.connect(keys.name.clone(), tcp))
                .await
                .map_err(|_| LinkFault::Lost(format!("{address}: no TLS in {CONNECT_LIMIT:?}")))?
                .map_err(|e| named(address, handshake_fault(&e)))?;
            let shown = shown(tls.get_ref().1);
            open(address, tls, &keys.name.to_str(), shown).await
        }
        #[cfg(feature = "measure")]
        Security::Plain => open(address, tcp, "plain", Shown::new()).await,
    }
}

fn handshake_fault(error: &std::io::Error) -> LinkFault {
    if is_unknown_pair(error) {
        LinkFault::Lost("answers, and does not know this pair".to_owned())
    } else {
        fault_of(error)
    }
}

fn named(address: &str, fault: LinkFault) -> LinkFault {
    match fault {
        LinkFault::Lost(text) => LinkFault::Lost(format!("{address}: {text}")),
        LinkFault::AuthFailed(text) => LinkFault::AuthFailed(format!("{address}: {text}")),
        LinkFault::ProtocolMismatch(text) => LinkFault::ProtocolMismatch(text),
        LinkFault::Violation(text) => LinkFault::Violation(text),
    }
}

async fn connect(address: &str, local: Option<IpAddr>) -> Result<TcpStream, String> {
    let targets = resolve(address, local).await?;
    // A target that swallows packets leaves time for the next.
    let limit = CONNECT_LIMIT / u32::try_from(targets.len().max(1)).unwrap_or(1);
    let mut last =
        "the name has no address that spec.replication.localAddress can reach".to_owned();
    for target in targets {
        last = match timeout(limit, connect_to(target, local)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer in {limit:?}"),
        };
    }
    Err(format!("{address}: {last}"))
}

async fn connect_to(target: SocketAddr, local: Option<IpAddr>) -> std::io::Result<TcpStream> {
    let socket = if target.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(local) = local.filter(|l| l.is_ipv4() == target.is_ipv4()) {
        socket.bind(SocketAddr::new(local, 0))?;
    }
    let stream = socket.connect(target).await?;
    prepare(&stream)?;
    Ok(stream)
}

/// A connection that is read in large pieces: HTTP/2 asks for small ones, each a system call.
pub(super) fn buffered<I: AsyncRead + AsyncWrite>(io: I) -> BufReader<I> {
    BufReader::with_capacity(READ_AHEAD, io)
}

/// Options of every peer connection, dialled or accepted.
pub(super) fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let limit = TCP_USER_TIMEOUT.as_millis() as u32;
    rustix::net::sockopt::set_tcp_user_timeout(stream, limit)?;
    Ok(())
}

async fn open<I>(address: &str, io: I, authority: &str, shown: Shown) -> Result<Wire, LinkFault>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let endpoint = Endpoint::from_shared(format!("http://{authority}"))
        .map_err(|e| LinkFault::Lost(format!("{authority}: {e}")))?
        .initial_stream_window_size(drqm_rpc::STREAM_WINDOW)
        .initial_connection_window_size(drqm_rpc::CONNECTION_WINDOW)
        .max_frame_size(HTTP2_FRAME)
        .http2_keep_alive_interval(HTTP2_KEEPALIVE)
        .keep_alive_timeout(HTTP2_KEEPALIVE)
        .keep_alive_while_idle(true);
    let mut once = Some(buffered(io));
    let connector = tower::service_fn(move |_| {
        let io = once.take().map(TokioIo::new);
        async move { io.ok_or_else(|| std::io::Error::other("the connection is used up")) }
    });
    let stream = async {
        let channel = endpoint
            .connect_with_connector(connector)
            .await
            .map_err(|e| fault_of(&e))?;
        start_stream(address, channel, shown).await
    };
    timeout(CONNECT_LIMIT, stream)
        .await
        .map_err(|_| LinkFault::Lost(format!("{address}: no HTTP/2 in {CONNECT_LIMIT:?}")))?
        .map_err(|fault| named(address, fault))
}

async fn start_stream(address: &str, channel: Channel, shown: Shown) -> Result<Wire, LinkFault> {
    let (outbound, stream) = outgoing();
    let mut client = ReplicationClient::new(channel.clone())
        .max_decoding_message_size(drqm_rpc::MAX_FRAME_BYTES)
        .max_encoding_message_size(drqm_rpc::MAX_FRAME_BYTES);
    let answer = client
        .session(stream)
        .await
        .map_err(|status| fault_of(&status))?;
    Ok(Wire {
        inbound: answer.into_inner(),
        outbound: Outbound::new(outbound),
        remote: address.to_owned(),
        shown,
        _channel: Some(channel),
    })
}
