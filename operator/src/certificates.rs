//! Certificate authorities and leaf certificates: making, judging, renewing.
//!
//! Lives here: everything that handles keys, without I/O. Which Secret holds what is in
//! `control` (operator to replicators) and `pair` (replicator to replicator).
//! Does not live here: reading and writing Secrets (`controller::observe`, `replicator_daemonset`).
//!
//! Rotation: a bundle holds its current authority first. A new one is put in front 90 days before
//! the current one ends, and the old one stays in the bundle until it ends, so that both are
//! trusted for a while. Leaves are renewed 30 days ahead, which is 60 days after the new authority
//! became known: by then everybody trusts it.

pub mod control;
pub mod pair;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::WebPkiClientVerifier,
    sign::CertifiedKey,
};

/// Life of an authority.
const CA_LIFE: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);
/// Life of a leaf.
const LEAF_LIFE: SignedDuration = SignedDuration::from_hours(365 * 24);
/// How long before its end an authority gets a successor.
const CA_AHEAD: SignedDuration = SignedDuration::from_hours(90 * 24);
/// How long before its end a leaf is renewed, or a person is told.
pub const LEAF_AHEAD: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Certificates begin in the past: clocks of two clusters differ.
const BACKDATED: SignedDuration = SignedDuration::from_hours(1);

/// Content of a Secret.
pub type SecretData = BTreeMap<String, ByteString>;

/// Why certificates could not be made, or are of no use. The texts are shown to people.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A key or certificate could not be made.
    #[error("failed to make a certificate")]
    Make(#[source] rcgen::Error),
    /// No random numbers.
    #[error("failed to get random numbers")]
    Random,
    /// A member of the Secret is missing.
    #[error("{field} is missing")]
    Missing {
        /// Which member.
        field: &'static str,
    },
    /// A member of the Secret is not PEM of the right kind.
    #[error("{field} is not usable PEM")]
    Pem {
        /// Which member.
        field: &'static str,
    },
    /// A member of the Secret is not what it should be.
    #[error("{field} is not usable: {complaint}")]
    Content {
        /// Which member.
        field: &'static str,
        /// Why.
        complaint: String,
    },
}

/// What a leaf is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// Answers connections.
    Server,
    /// Opens connections.
    Client,
    /// Both, for replicators, which dial and listen with one identity.
    Peer,
}

/// A certificate with its key, PEM.
#[derive(Clone)]
pub struct Identity {
    /// Certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// Authorities that are trusted (the current one first) and the current one's key.
#[derive(Clone)]
pub struct Authority {
    /// PEM of one or two certificates.
    pub bundle: String,
    /// Key of the first.
    pub key: String,
}

impl Authority {
    /// A new authority. Its name carries its birth, so that two of them can be told apart.
    pub fn generate(name: &str, now: Timestamp) -> Result<Self, CertificateError> {
        let key = KeyPair::generate().map_err(CertificateError::Make)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&format!("{name} {}", now.as_second()));
        params.not_before = rcgen::date_time_ymd(1970, 1, 1) + since_epoch(now - BACKDATED);
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since_epoch(now + CA_LIFE);
        // A path length of 0: it signs leaves, not further authorities.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(CertificateError::Make)?;
        Ok(Self {
            bundle: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// The same authority, or one with a successor in front if this one ends soon. Authorities
    /// that have ended leave the bundle.
    pub fn renewed(&self, name: &str, now: Timestamp) -> Result<Self, CertificateError> {
        let current = expiry("ca.crt", self.bundle.as_bytes())?;
        if now + CA_AHEAD < current {
            return Ok(self.clone());
        }
        let mut successor = Self::generate(name, now)?;
        for section in pem_sections(&self.bundle) {
            if expiry("ca.crt", section.as_bytes())? > now {
                successor.bundle.push_str(section.trim_start());
                successor.bundle.push('\n');
            }
        }
        Ok(successor)
    }

    /// Signs a new leaf for `dns_name`. It never outlives its authority.
    pub fn issue(
        &self,
        dns_name: &str,
        usage: Usage,
        now: Timestamp,
    ) -> Result<Identity, CertificateError> {
        let ca_key =
            KeyPair::from_pem(&self.key).map_err(|_| CertificateError::Pem { field: "ca.key" })?;
        let ca = certificates("ca.crt", self.bundle.as_bytes())?
            .into_iter()
            .next()
            .ok_or(CertificateError::Missing { field: "ca.crt" })?;
        let end = expiry_of(&ca).ok_or(CertificateError::Pem { field: "ca.crt" })?;
        let issuer = Issuer::from_ca_cert_der(&ca, ca_key)
            .map_err(|_| CertificateError::Pem { field: "ca.crt" })?;
        let mut params =
            CertificateParams::new(vec![dns_name.to_owned()]).map_err(CertificateError::Make)?;
        params.distinguished_name = common_name(dns_name);
        params.not_before = rcgen::date_time_ymd(1970, 1, 1) + since_epoch(now - BACKDATED);
        params.not_after =
            rcgen::date_time_ymd(1970, 1, 1) + since_epoch((now + LEAF_LIFE).min(end));
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match usage {
            Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usage::Peer => {
                vec![
                    ExtendedKeyUsagePurpose::ServerAuth,
                    ExtendedKeyUsagePurpose::ClientAuth,
                ]
            }
        };
        let key = KeyPair::generate().map_err(CertificateError::Make)?;
        let certificate = params
            .signed_by(&key, &issuer)
            .map_err(CertificateError::Make)?;
        Ok(Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// Whether `leaf` proves `dns_name` to somebody who trusts `bundle`, at `at`. The error says what
/// is wrong in words for people.
pub fn judge(
    bundle: &[u8],
    certificate: &[u8],
    key: &[u8],
    dns_name: &str,
    usage: Usage,
    at: Timestamp,
) -> Result<(), CertificateError> {
    let chain = certificates("tls.crt", certificate)?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| CertificateError::Pem { field: "tls.key" })?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    CertifiedKey::from_der(chain.clone(), key, &provider).map_err(|error| {
        CertificateError::Content {
            field: "tls.key",
            complaint: format!("it does not belong to tls.crt ({error})"),
        }
    })?;
    let mut roots = RootCertStore::empty();
    for ca in certificates("ca.crt", bundle)? {
        roots.add(ca).map_err(|error| CertificateError::Content {
            field: "ca.crt",
            complaint: error.to_string(),
        })?;
    }
    let (leaf, intermediates) = chain
        .split_first()
        .ok_or(CertificateError::Missing { field: "tls.crt" })?;
    verify(
        Arc::new(roots),
        provider,
        leaf,
        intermediates,
        dns_name,
        usage,
        at,
    )
    .map_err(|error| CertificateError::Content {
        field: "tls.crt",
        complaint: format!(
            "it must be signed by ca.crt and carry the DNS name {dns_name} ({error})"
        ),
    })
}

/// The checks of both ends of a connection, with rustls' own verifiers.
fn verify(
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    dns_name: &str,
    usage: Usage,
    at: Timestamp,
) -> Result<(), rustls::Error> {
    let at = UnixTime::since_unix_epoch(Duration::from_secs(
        u64::try_from(at.as_second()).unwrap_or_default(),
    ));
    if usage != Usage::Client {
        let name = ServerName::try_from(dns_name)
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(leaf, intermediates, &name, &[], at)?;
    }
    if usage != Usage::Server {
        WebPkiClientVerifier::builder_with_provider(roots, provider)
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_client_cert(leaf, intermediates, at)?;
    }
    Ok(())
}

/// When the first certificate of `pem` ends.
pub fn expiry(field: &'static str, pem: &[u8]) -> Result<Timestamp, CertificateError> {
    let first = certificates(field, pem)?.into_iter().next();
    first
        .as_ref()
        .and_then(expiry_of)
        .ok_or(CertificateError::Pem { field })
}

/// All certificates of `pem`; none is an error.
pub fn certificates(
    field: &'static str,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) | Err(_) => Err(CertificateError::Pem { field }),
    }
}

/// A member of a Secret.
pub fn member<'a>(data: &'a SecretData, field: &'static str) -> Result<&'a [u8], CertificateError> {
    match data.get(field) {
        Some(bytes) if !bytes.0.is_empty() => Ok(&bytes.0),
        Some(_) | None => Err(CertificateError::Missing { field }),
    }
}

/// A member of a Secret that is text.
pub fn text_member<'a>(
    data: &'a SecretData,
    field: &'static str,
) -> Result<&'a str, CertificateError> {
    str::from_utf8(member(data, field)?).map_err(|_| CertificateError::Pem { field })
}

fn expiry_of(der: &CertificateDer<'_>) -> Option<Timestamp> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

/// The certificates of a bundle as the pieces of text they are.
fn pem_sections(bundle: &str) -> impl Iterator<Item = &str> {
    bundle
        .split_inclusive("-----END CERTIFICATE-----")
        .filter(|part| part.contains("-----BEGIN"))
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// For the certificate library, whose own time type it does not export: to be added to 1970.
fn since_epoch(at: Timestamp) -> Duration {
    Duration::from_secs(u64::try_from(at.as_second()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "qm.pair.drqm.io";

    fn now() -> Timestamp {
        "2026-11-23T12:00:00Z".parse().expect("a time")
    }

    fn days(count: i64) -> SignedDuration {
        SignedDuration::from_hours(24 * count)
    }

    fn judged(ca: &Authority, leaf: &Identity, name: &str, usage: Usage, at: Timestamp) -> bool {
        judge(
            ca.bundle.as_bytes(),
            leaf.certificate.as_bytes(),
            leaf.key.as_bytes(),
            name,
            usage,
            at,
        )
        .is_ok()
    }

    #[test]
    fn a_leaf_proves_its_name_for_its_use_while_it_lasts() {
        let ca = Authority::generate("test", now()).expect("authority");
        let leaf = ca.issue(NAME, Usage::Server, now()).expect("leaf");
        assert!(judged(&ca, &leaf, NAME, Usage::Server, now()));
        assert!(judged(&ca, &leaf, NAME, Usage::Server, now() + days(364)));
        assert!(!judged(&ca, &leaf, NAME, Usage::Server, now() + days(366)));
        assert!(!judged(&ca, &leaf, NAME, Usage::Client, now()));
        assert!(!judged(
            &ca,
            &leaf,
            "other.pair.drqm.io",
            Usage::Server,
            now()
        ));
        let peer = ca.issue(NAME, Usage::Peer, now()).expect("leaf");
        assert!(judged(&ca, &peer, NAME, Usage::Peer, now()));
    }

    #[test]
    fn a_leaf_of_another_authority_or_with_another_key_proves_nothing() {
        let ca = Authority::generate("test", now()).expect("authority");
        let other = Authority::generate("test", now() + days(1)).expect("authority");
        let leaf = other.issue(NAME, Usage::Peer, now()).expect("leaf");
        assert!(!judged(&ca, &leaf, NAME, Usage::Peer, now()));
        let mut mixed = ca.issue(NAME, Usage::Peer, now()).expect("leaf");
        mixed.key = leaf.key;
        assert!(!judged(&ca, &mixed, NAME, Usage::Peer, now()));
    }

    #[test]
    fn expiry_is_read_back() {
        let ca = Authority::generate("test", now()).expect("authority");
        let leaf = ca.issue(NAME, Usage::Peer, now()).expect("leaf");
        let end = expiry("tls.crt", leaf.certificate.as_bytes()).expect("expiry");
        assert_eq!(end, now() + LEAF_LIFE);
        assert!(expiry("tls.crt", b"nonsense").is_err());
    }

    #[test]
    fn a_rotation_keeps_the_old_authority_until_it_ends() {
        let old = Authority::generate("test", now()).expect("authority");
        assert_eq!(old.renewed("test", now()).expect("kept").bundle, old.bundle);
        let late = now() + CA_LIFE - days(60);
        let leaf_of_old = old.issue(NAME, Usage::Peer, late).expect("leaf");
        let both = old.renewed("test", late).expect("renewed");
        assert_eq!(
            certificates("ca.crt", both.bundle.as_bytes())
                .expect("two")
                .len(),
            2
        );
        assert!(judged(&both, &leaf_of_old, NAME, Usage::Peer, late));
        let leaf_of_new = both.issue(NAME, Usage::Peer, late).expect("leaf");
        assert!(judged(&both, &leaf_of_new, NAME, Usage::Peer, late));
        let much_later = late + CA_LIFE - days(60);
        let again = both.renewed("test", much_later).expect("renewed");
        assert_eq!(
            certificates("ca.crt", again.bundle.as_bytes())
                .expect("two")
                .len(),
            2
        );
    }
}
