//! Keys of a pair: parsing, checking, and the two rustls configurations made from them.
//!
//! Guarantee: a connection exists only if both ends hold a certificate of the pair's CA that carries
//! the pair's server name. Does not live here: sockets, where keys are stored.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, ClientConfig, CommonState, RootCertStore, ServerConfig};

use crate::pool::config::TlsConfig;

/// HTTP/2 is the only thing spoken on the connection.
const ALPN: &[u8] = b"h2";

/// Ready-made configurations of one pair.
#[derive(Debug)]
pub(crate) struct PairKeys {
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) name: ServerName<'static>,
    trust: Arc<dyn ClientCertVerifier>,
    source: TlsConfig,
}

/// What a peer has shown of itself: its certificate, then those between it and an authority.
pub(crate) type Shown = Vec<CertificateDer<'static>>;

impl PartialEq for PairKeys {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

/// What the peer of a connection has shown.
pub(crate) fn shown(connection: &CommonState) -> Shown {
    let certificates = connection.peer_certificates().unwrap_or_default();
    certificates
        .iter()
        .cloned()
        .map(CertificateDer::into_owned)
        .collect()
}

/// Which part of the keys is wrong, and how.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {problem}")]
pub(crate) struct KeyError {
    pub(crate) field: &'static str,
    pub(crate) problem: String,
}

fn bad(field: &'static str, problem: impl ToString) -> KeyError {
    KeyError {
        field,
        problem: problem.to_string(),
    }
}

/// Root certificates of a PEM text.
pub(crate) fn roots(pem: &[u8]) -> Result<RootCertStore, KeyError> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|e| bad("ca.crt", format!("not PEM: {e}")))?;
        store.add(certificate).map_err(|e| bad("ca.crt", e))?;
    }
    if store.is_empty() {
        Err(bad("ca.crt", "holds no certificate"))
    } else {
        Ok(store)
    }
}

/// A certificate chain and its key.
pub(crate) fn identity(
    certificate: &[u8],
    key: &[u8],
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), KeyError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .map_err(|e| bad("tls.crt", format!("not PEM: {e}")))?;
    if chain.is_empty() {
        return Err(bad("tls.crt", "holds no certificate"));
    }
    let key =
        PrivateKeyDer::from_pem_slice(key).map_err(|e| bad("tls.key", format!("not PEM: {e}")))?;
    Ok((chain, key))
}

/// A server that demands a certificate of these roots.
pub(crate) fn server_config(
    roots: RootCertStore,
    certificate: &[u8],
    key: &[u8],
) -> Result<ServerConfig, KeyError> {
    let (chain, key) = identity(certificate, key)?;
    server_config_with(verifier(roots)?, chain, key)
}

fn verifier(roots: RootCertStore) -> Result<Arc<dyn ClientCertVerifier>, KeyError> {
    WebPkiClientVerifier::builder(Arc::new(roots))
        .build()
        .map_err(|e| bad("ca.crt", e))
}

fn server_config_with(
    verifier: Arc<dyn ClientCertVerifier>,
    chain: Shown,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, KeyError> {
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|e| bad("tls.key", e))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    forgetful(&mut config);
    Ok(config)
}

/// Every connection shows its keys anew: there are few, and room for sessions to be resumed costs each pair more than its
/// keys.
fn forgetful(config: &mut ServerConfig) {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
}

/// A server that ends every handshake with an alert ([`is_unknown_pair`]): there are no keys for the name
/// that was asked for.
pub(crate) fn unknown_pair() -> ServerConfig {
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(NoKeys));
    forgetful(&mut config);
    config
}

/// Whether a handshake ended because the other side has no keys for the name. Not authenticated: whoever
/// can cut the connection can say this as well.
pub(crate) fn is_unknown_pair(error: &std::io::Error) -> bool {
    let cause = error.get_ref().and_then(|e| e.downcast_ref());
    matches!(
        cause,
        Some(rustls::Error::AlertReceived(AlertDescription::AccessDenied))
    )
}

#[derive(Debug)]
struct NoKeys;

impl ResolvesServerCert for NoKeys {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

/// Whether a presented certificate carries a name.
pub(crate) fn carries_name(
    certificate: &CertificateDer<'_>,
    name: &ServerName<'_>,
) -> Result<(), String> {
    let leaf = webpki::EndEntityCert::try_from(certificate).map_err(|e| e.to_string())?;
    leaf.verify_is_valid_for_subject_name(name)
        .map_err(|_| format!("the certificate does not carry the name {}", name.to_str()))
}

impl PairKeys {
    /// Checks the texts and builds both configurations.
    pub(crate) fn new(source: &TlsConfig) -> Result<Self, KeyError> {
        let name = ServerName::try_from(source.server_name.clone()).map_err(|_| {
            bad(
                "server name",
                format!("{:?} is not a DNS name", source.server_name),
            )
        })?;
        let (certificate, key) = (source.certificate.as_bytes(), source.key.as_bytes());
        let roots = roots(source.ca.as_bytes())?;
        let (chain, key) = identity(certificate, key)?;
        carries_name(&chain[0], &name).map_err(|e| bad("tls.crt", e))?;
        let trust = verifier(roots.clone())?;
        let server = server_config_with(trust.clone(), chain.clone(), key.clone_key())?;
        let mut client = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|e| bad("tls.key", e))?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = Resumption::disabled();
        let (server, client) = (Arc::new(server), Arc::new(client));
        Ok(Self {
            server,
            client,
            name,
            trust,
            source: source.clone(),
        })
    }

    /// Whether a peer that has shown this would be let in now.
    pub(crate) fn trusts(&self, shown: &[CertificateDer<'_>]) -> bool {
        let Some((leaf, between)) = shown.split_first() else {
            return false;
        };
        let now = UnixTime::now();
        let known = self.trust.verify_client_cert(leaf, between, now);
        known.is_ok() && carries_name(leaf, &self.name).is_ok()
    }
}
