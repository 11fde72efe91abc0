//! The control channel's certificates: operator to its own replicators.
//!
//! Lives here: what is in the Secrets `drqm-control` (everything, for the operator alone) and
//! `drqm-control-server` (what replicators mount), and when a part is renewed.
//! Does not live here: writing them (`replicator_daemonset`).

use jiff::Timestamp;
use k8s_openapi::ByteString;

use super::{Authority, CertificateError, Identity, LEAF_AHEAD, SecretData, Usage, judge};

/// Name that every replicator's control certificate carries.
pub const SERVER_NAME: &str = "replicator.control.drqm.io";
/// Name that the operator's certificate carries; replicators admit no other.
pub const CLIENT_NAME: &str = "operator.control.drqm.io";
/// Secret with everything.
pub const SECRET: &str = "drqm-control";
/// Secret that replicators mount.
pub const SERVER_SECRET: &str = "drqm-control-server";

const AUTHORITY_NAME: &str = "drqm control";

/// The control channel's certificates.
#[derive(Clone)]
pub struct ControlTls {
    /// Authority of both ends.
    pub authority: Authority,
    /// The replicators' identity.
    pub server: Identity,
    /// The operator's identity.
    pub client: Identity,
}

impl ControlTls {
    /// What the Secret should hold: what it holds as far as that is sound, else new. A Secret that
    /// somebody damaged is made anew, since nobody else uses it.
    pub fn ensured(
        existing: Option<&SecretData>,
        now: Timestamp,
    ) -> Result<Self, CertificateError> {
        let kept = existing.and_then(|data| Self::read(data).ok());
        let authority = match &kept {
            Some(tls) => tls
                .authority
                .renewed(AUTHORITY_NAME, now)
                .or_else(|_| Authority::generate(AUTHORITY_NAME, now))?,
            None => Authority::generate(AUTHORITY_NAME, now)?,
        };
        let server = kept.as_ref().map(|tls| &tls.server);
        let client = kept.as_ref().map(|tls| &tls.client);
        Ok(Self {
            server: kept_or_issued(&authority, server, SERVER_NAME, Usage::Server, now)?,
            client: kept_or_issued(&authority, client, CLIENT_NAME, Usage::Client, now)?,
            authority,
        })
    }

    /// Reads the Secret `drqm-control`.
    pub fn read(data: &SecretData) -> Result<Self, CertificateError> {
        let text = |field| super::text_member(data, field).map(str::to_owned);
        Ok(Self {
            authority: Authority {
                bundle: text("ca.crt")?,
                key: text("ca.key")?,
            },
            server: Identity {
                certificate: text("server.crt")?,
                key: text("server.key")?,
            },
            client: Identity {
                certificate: text("client.crt")?,
                key: text("client.key")?,
            },
        })
    }

    /// Content of the Secret `drqm-control`.
    pub fn data(&self) -> SecretData {
        let mut data = self.server_data();
        for (field, text) in [
            ("ca.key", &self.authority.key),
            ("client.crt", &self.client.certificate),
            ("client.key", &self.client.key),
        ] {
            data.insert(field.to_owned(), ByteString(text.clone().into_bytes()));
        }
        data
    }

    /// Content of the Secret `drqm-control-server`.
    pub fn server_data(&self) -> SecretData {
        [
            ("ca.crt", &self.authority.bundle),
            ("server.crt", &self.server.certificate),
            ("server.key", &self.server.key),
        ]
        .into_iter()
        .map(|(field, text)| (field.to_owned(), ByteString(text.clone().into_bytes())))
        .collect()
    }
}

fn kept_or_issued(
    authority: &Authority,
    kept: Option<&Identity>,
    dns_name: &str,
    usage: Usage,
    now: Timestamp,
) -> Result<Identity, CertificateError> {
    let still_good = |identity: &&Identity| {
        let (certificate, key) = (identity.certificate.as_bytes(), identity.key.as_bytes());
        let bundle = authority.bundle.as_bytes();
        judge(bundle, certificate, key, dns_name, usage, now + LEAF_AHEAD).is_ok()
    };
    match kept.filter(still_good) {
        Some(identity) => Ok(identity.clone()),
        None => authority.issue(dns_name, usage, now),
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn a_sound_secret_is_kept_byte_for_byte() {
        let now = Timestamp::now();
        let first = ControlTls::ensured(None, now).expect("made").data();
        let again = ControlTls::ensured(Some(&first), now).expect("kept").data();
        assert_eq!(first, again);
    }

    #[test]
    fn leaves_are_renewed_and_the_authority_stays() {
        let now = Timestamp::now();
        let first = ControlTls::ensured(None, now).expect("made");
        let late = now + SignedDuration::from_hours(340 * 24);
        let second = ControlTls::ensured(Some(&first.data()), late).expect("renewed");
        assert_eq!(first.authority.bundle, second.authority.bundle);
        assert_ne!(first.server.certificate, second.server.certificate);
        assert_ne!(first.client.certificate, second.client.certificate);
    }

    #[test]
    fn a_damaged_secret_is_made_anew() {
        let mut data = ControlTls::ensured(None, Timestamp::now())
            .expect("made")
            .data();
        data.insert("ca.crt".to_owned(), ByteString(b"nonsense".to_vec()));
        let now = Timestamp::now();
        let made = ControlTls::ensured(Some(&data), now).expect("made");
        assert_eq!(
            ControlTls::ensured(Some(&made.data()), now)
                .expect("kept")
                .data(),
            made.data()
        );
    }

    #[test]
    fn replicators_get_no_authority_key() {
        let tls = ControlTls::ensured(None, Timestamp::now()).expect("made");
        let fields: Vec<_> = tls.server_data().into_keys().collect();
        assert_eq!(fields, ["ca.crt", "server.crt", "server.key"]);
    }
}
