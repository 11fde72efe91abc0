//! A pair's certificates: replicator to replicator, across clusters.
//!
//! Lives here: what is in a pair's Secret, which of it this side may make, and what goes into
//! `Configure`. Does not live here: reading and writing the Secret.
//!
//! Operator-made Secrets hold ca.crt, ca.key, tls.crt, tls.key and pair-id. The first Primary makes
//! them; the other side gets ca.crt, ca.key and pair-id with the peer manifest and issues a leaf of
//! its own. User-made Secrets (kubernetes.io/tls with ca.crt) are only read.

use std::fmt;

use aws_lc_rs::{digest, rand};
use drqm_core::observed::Keys;
use jiff::Timestamp;
use k8s_openapi::ByteString;

use super::{
    Authority, CertificateError, Identity, LEAF_AHEAD, SecretData, Usage, expiry, judge, member,
    text_member,
};

/// Digits of a pair id.
const PAIR_ID_DIGITS: usize = 32;

/// What a replicator needs to talk to its peer.
#[derive(Clone, PartialEq, Eq)]
pub struct PairTls {
    /// PEM of the trusted authorities.
    pub ca: Vec<u8>,
    /// PEM of this side's certificate.
    pub certificate: Vec<u8>,
    /// PEM of its key.
    pub key: Vec<u8>,
    /// Routes a connection on the shared port.
    pub pair_id: String,
    /// The DNS name that both certificates carry.
    pub server_name: String,
    /// When the first of certificate and authority ends.
    pub expires: Timestamp,
}

impl fmt::Debug for PairTls {
    /// Keys stay out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PairTls")
            .field("pair_id", &self.pair_id)
            .field("server_name", &self.server_name)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// Who makes a pair's Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The operator, in one of the two clusters.
    OperatorMade,
    /// A person or a certificate manager.
    UserMade,
}

/// A Secret as decisions see it, and as a replicator needs it.
pub struct Inspected {
    /// For decisions.
    pub keys: Keys,
    /// For the replicator; None when something is missing or wrong.
    pub pair: Option<PairTls>,
}

/// Judges the content of a pair's Secret.
pub fn inspect(
    data: Option<&SecretData>,
    origin: Origin,
    queue_manager: &str,
    now: Timestamp,
) -> Inspected {
    let Some(data) = data else {
        return Inspected {
            keys: Keys::Missing,
            pair: None,
        };
    };
    let read = match origin {
        Origin::OperatorMade => read_operator_made(data, now),
        Origin::UserMade => read_user_made(data, queue_manager, now),
    };
    let ca_key = origin == Origin::OperatorMade && text_member(data, "ca.key").is_ok();
    if ca_key {
        return match (ensured(Some(data), queue_manager, now), read) {
            (Err(error), _) => invalid(&error),
            // Renewed at the next chance, and used until then.
            (Ok(wanted), read) => {
                let pair = read.ok();
                let leaf = wanted == *data && pair.is_some();
                let expires = pair.as_ref().map(|pair| pair.expires);
                Inspected {
                    keys: Keys::Present {
                        ca_key,
                        leaf,
                        expires,
                    },
                    pair,
                }
            }
        };
    }
    match read {
        Ok(pair) => {
            let keys = Keys::Present {
                ca_key,
                leaf: true,
                expires: Some(pair.expires),
            };
            Inspected {
                keys,
                pair: Some(pair),
            }
        }
        Err(error) => invalid(&error),
    }
}

fn invalid(error: &CertificateError) -> Inspected {
    Inspected {
        keys: Keys::Invalid {
            message: error.to_string(),
        },
        pair: None,
    }
}

/// The content that an operator-made Secret should have: what it holds as far as that is sound,
/// the rest new. `existing` is None where this side may make a new pair.
pub fn ensured(
    existing: Option<&SecretData>,
    queue_manager: &str,
    now: Timestamp,
) -> Result<SecretData, CertificateError> {
    let authority_name = format!("drqm pair {queue_manager}");
    let Some(data) = existing else {
        let authority = Authority::generate(&authority_name, now)?;
        let pair_id = new_pair_id()?;
        let leaf = authority.issue(&operator_made_name(&pair_id), Usage::Peer, now)?;
        return Ok(content(&authority, &leaf, &pair_id));
    };
    let held = Authority {
        bundle: text_member(data, "ca.crt")?.to_owned(),
        key: text_member(data, "ca.key")?.to_owned(),
    };
    let authority = held.renewed(&authority_name, now)?;
    let pair_id = checked_pair_id(data)?;
    let server_name = operator_made_name(&pair_id);
    let leaf = match (text_member(data, "tls.crt"), text_member(data, "tls.key")) {
        (Ok(certificate), Ok(key))
            if judge(
                authority.bundle.as_bytes(),
                certificate.as_bytes(),
                key.as_bytes(),
                &server_name,
                Usage::Peer,
                now + LEAF_AHEAD,
            )
            .is_ok() =>
        {
            Identity {
                certificate: certificate.to_owned(),
                key: key.to_owned(),
            }
        }
        (Ok(_) | Err(_), Ok(_) | Err(_)) => authority.issue(&server_name, Usage::Peer, now)?,
    };
    Ok(content(&authority, &leaf, &pair_id))
}

/// Reads an operator-made Secret.
pub fn read_operator_made(data: &SecretData, now: Timestamp) -> Result<PairTls, CertificateError> {
    let pair_id = checked_pair_id(data)?;
    let server_name = operator_made_name(&pair_id);
    read(data, pair_id, server_name, now)
}

/// Reads a Secret that a person or a certificate manager made.
pub fn read_user_made(
    data: &SecretData,
    queue_manager: &str,
    now: Timestamp,
) -> Result<PairTls, CertificateError> {
    let hash = digest::digest(
        &digest::SHA256,
        format!("drqm pair {queue_manager}").as_bytes(),
    );
    let pair_id = hex(&hash.as_ref()[..PAIR_ID_DIGITS / 2]);
    read(data, pair_id, user_made_name(queue_manager), now)
}

/// The DNS name that certificates of a user-made Secret must carry.
pub fn user_made_name(queue_manager: &str) -> String {
    let label: String = queue_manager
        .to_lowercase()
        .chars()
        .map(|c| {
            if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' {
                c
            } else {
                '-'
            }
        })
        .collect();
    format!("{label}.pair.drqm.io")
}

fn operator_made_name(pair_id: &str) -> String {
    format!("{pair_id}.pair.drqm.io")
}

fn read(
    data: &SecretData,
    pair_id: String,
    server_name: String,
    now: Timestamp,
) -> Result<PairTls, CertificateError> {
    let ca = member(data, "ca.crt")?;
    let certificate = member(data, "tls.crt")?;
    let key = member(data, "tls.key")?;
    let expires = expiry("tls.crt", certificate)?.min(expiry("ca.crt", ca)?);
    // An expired certificate is sent all the same: the link then says that it is refused, and the
    // condition says why. Everything else is judged as of a time when it was valid.
    let at = now.min(expires - jiff::SignedDuration::from_secs(1));
    judge(ca, certificate, key, &server_name, Usage::Peer, at)?;
    Ok(PairTls {
        ca: ca.to_vec(),
        certificate: certificate.to_vec(),
        key: key.to_vec(),
        pair_id,
        server_name,
        expires,
    })
}

fn checked_pair_id(data: &SecretData) -> Result<String, CertificateError> {
    let pair_id = text_member(data, "pair-id")?.trim();
    let is_hex = pair_id
        .bytes()
        .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if pair_id.len() != PAIR_ID_DIGITS || !is_hex {
        return Err(CertificateError::Content {
            field: "pair-id",
            complaint: format!("it must be {PAIR_ID_DIGITS} lower-case hexadecimal digits"),
        });
    }
    Ok(pair_id.to_owned())
}

fn new_pair_id() -> Result<String, CertificateError> {
    let mut bytes = [0; PAIR_ID_DIGITS / 2];
    rand::fill(&mut bytes).map_err(|_| CertificateError::Random)?;
    Ok(hex(&bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn content(authority: &Authority, leaf: &Identity, pair_id: &str) -> SecretData {
    [
        ("ca.crt", authority.bundle.as_str()),
        ("ca.key", &authority.key),
        ("tls.crt", &leaf.certificate),
        ("tls.key", &leaf.key),
        ("pair-id", pair_id),
    ]
    .into_iter()
    .map(|(field, text)| (field.to_owned(), ByteString(text.as_bytes().to_vec())))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other_side(data: &SecretData) -> SecretData {
        let mut sent = data.clone();
        sent.retain(|field, _| matches!(field.as_str(), "ca.crt" | "ca.key" | "pair-id"));
        sent
    }

    #[test]
    fn the_other_side_issues_its_own_leaf_in_the_same_pair() {
        let now = Timestamp::now();
        let first = ensured(None, "QMDR", now).expect("made");
        assert_eq!(ensured(Some(&first), "QMDR", now).expect("kept"), first);
        let second = ensured(Some(&other_side(&first)), "QMDR", now).expect("issued");
        assert_ne!(first["tls.key"], second["tls.key"]);
        let (a, b) = (
            read_operator_made(&first, now).expect("read"),
            read_operator_made(&second, now).expect("read"),
        );
        assert_eq!(
            (&a.pair_id, &a.server_name, &a.ca),
            (&b.pair_id, &b.server_name, &b.ca)
        );
        let trusted = judge(
            &a.ca,
            &b.certificate,
            &b.key,
            &a.server_name,
            Usage::Peer,
            now,
        );
        assert!(trusted.is_ok());
    }

    #[test]
    fn what_is_sent_to_the_other_side_asks_for_a_leaf() {
        let now = Timestamp::now();
        let first = ensured(None, "QMDR", now).expect("made");
        let keys = |data: &SecretData| inspect(Some(data), Origin::OperatorMade, "QMDR", now).keys;
        assert!(matches!(
            keys(&first),
            Keys::Present {
                ca_key: true,
                leaf: true,
                ..
            }
        ));
        let sent = other_side(&first);
        assert!(matches!(
            keys(&sent),
            Keys::Present {
                ca_key: true,
                leaf: false,
                ..
            }
        ));
        let mut without_id = first;
        without_id.remove("pair-id");
        assert!(matches!(keys(&without_id), Keys::Invalid { .. }));
    }

    #[test]
    fn a_user_made_secret_is_read_by_its_documented_name() {
        let now = Timestamp::now();
        let ca = Authority::generate("mine", now).expect("authority");
        let leaf = ca
            .issue("qm-dr-1.pair.drqm.io", Usage::Peer, now)
            .expect("leaf");
        let data = content(&ca, &leaf, "unused");
        let tls = read_user_made(&data, "QM/DR.1", now).expect("read");
        assert_eq!(tls.pair_id.len(), 32);
        let error = read_user_made(&data, "OTHER", now)
            .expect_err("another name")
            .to_string();
        assert!(
            error.contains("tls.crt") && error.contains("other.pair.drqm.io"),
            "{error}"
        );
    }

    #[test]
    fn missing_and_malformed_members_are_named() {
        let now = Timestamp::now();
        let good = ensured(None, "QMDR", now).expect("made");
        for field in ["ca.crt", "tls.crt", "tls.key", "pair-id"] {
            let mut data = good.clone();
            data.insert(field.to_owned(), ByteString(b"nonsense".to_vec()));
            let error = read_operator_made(&data, now).expect_err(field).to_string();
            assert!(error.contains(field), "{field}: {error}");
            data.remove(field);
            let error = read_operator_made(&data, now).expect_err(field).to_string();
            assert!(error.contains(field), "{field}: {error}");
        }
    }

    #[test]
    fn an_expired_certificate_is_still_sent_and_its_end_is_told() {
        let now = Timestamp::now();
        let good = ensured(None, "QMDR", now).expect("made");
        let later = now + jiff::SignedDuration::from_hours(400 * 24);
        let tls = read_operator_made(&good, later).expect("read");
        assert!(tls.expires < later);
    }
}
