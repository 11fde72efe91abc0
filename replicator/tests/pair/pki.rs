//! Certificates of the tests' own, and connections that are made with them.

use std::io;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

pub(crate) const PAIR_NAME: &str = "qm1.pair.drqm.io";

/// A certificate authority.
pub(crate) struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Certificate and key of a name.
    pub(crate) fn leaf(&self, name: &str) -> (String, String) {
        self.leaf_until(name, 2100)
    }

    /// The same, valid to the end of a year.
    pub(crate) fn leaf_until(&self, name: &str, year: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 12, 31);
        (
            params.signed_by(&key, &self.0).unwrap().pem(),
            key.serialize_pem(),
        )
    }
}

/// To a replicator's control service, in a network namespace if one is named.
pub(crate) async fn connect(
    host: Option<&str>,
    port: u16,
    ca: &Ca,
    identity: &(String, String),
) -> anyhow::Result<Channel> {
    const NAME: &str = "replicator.control.drqm.io";
    let config = Arc::new(client_config(ca, Some(identity)));
    let host = host.map(str::to_owned);
    let service = tower::service_fn(move |_| {
        let (host, config) = (host.clone(), config.clone());
        async move {
            let tcp = match host {
                Some(host) => inside(&host, port)?,
                None => TcpStream::connect(("127.0.0.1", port)).await?,
            };
            over(tcp, config, NAME).await.map(TokioIo::new)
        }
    });
    Ok(Endpoint::from_static("http://replicator")
        .connect_with_connector(service)
        .await?)
}

/// A client that trusts `ca`, with a certificate of its own or none.
pub(crate) fn client_config(ca: &Ca, identity: Option<&(String, String)>) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// A connection to a port of another namespace's loopback: a socket stays where it was made.
fn inside(host: &str, port: u16) -> io::Result<TcpStream> {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    use std::os::fd::AsFd as _;
    let namespace = std::fs::File::open(format!("/run/netns/{host}"))?;
    let connect = move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        std::net::TcpStream::connect(("127.0.0.1", port))
    };
    let tcp = std::thread::spawn(connect).join().unwrap()?;
    tcp.set_nonblocking(true)?;
    TcpStream::from_std(tcp)
}

/// A TLS connection to a port of loopback.
pub(crate) async fn tls(
    port: u16,
    config: Arc<rustls::ClientConfig>,
    name: &'static str,
) -> io::Result<TlsStream<TcpStream>> {
    over(TcpStream::connect(("127.0.0.1", port)).await?, config, name).await
}

async fn over(
    tcp: TcpStream,
    config: Arc<rustls::ClientConfig>,
    name: &'static str,
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    tokio_rustls::TlsConnector::from(config)
        .connect(name, tcp)
        .await
}
