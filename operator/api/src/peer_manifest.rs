//! What to apply in the other cluster: the other half of a pair, from this half.
//!
//! Lives here: a pure function from the resource, the pair's Secret and this side's address to two
//! documents. Does not live here: reading either of them, printing.
//!
//! Only what both sides share is copied from the Secret: the CA, its key and the pair id. This side's
//! own certificate and key stay here; the other side's operator issues its own.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::labels;
use crate::v1alpha1::{DrQueueManager, PeerSpec, ReplicationSpec, Role, TlsSpec};

/// Key of the CA's certificate in the pair's Secret.
pub const CA_CRT: &str = "ca.crt";
/// Key of the CA's key.
pub const CA_KEY: &str = "ca.key";
/// Key of this side's certificate.
pub const TLS_CRT: &str = "tls.crt";
/// Key of this side's key.
pub const TLS_KEY: &str = "tls.key";
/// Key of the pair id, 32 hexadecimal digits.
pub const PAIR_ID: &str = "pair-id";

/// Where and as what the other half shall exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerPlace {
    /// How the other half shall call this one, for example `dr1`.
    pub local_name: String,
    /// This side's address without a port, as the other side can reach it.
    pub local_address: String,
    /// Namespace in the other cluster; `None`: the same.
    pub namespace: Option<String>,
}

/// The documents for the other cluster, in the order in which they should be applied.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerManifest {
    /// The pair's Secret. `None`: the pair uses a Secret of the user's own, which each cluster must
    /// have by itself.
    pub secret: Option<Value>,
    /// The other half.
    pub resource: Value,
}

/// Why there is no manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoManifest {
    /// Something is still being made; asking again later is enough.
    NotYet(String),
    /// Waiting does not help; the text says what does.
    Never(String),
}

impl std::fmt::Display for NoManifest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotYet(text) | Self::Never(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for NoManifest {}

/// Name of the pair's Secret.
#[must_use]
pub fn secret_name(resource: &DrQueueManager) -> String {
    match &resource.spec.replication.tls {
        Some(tls) => tls.secret_name.clone(),
        None => format!("{}-pair", resource.name_any()),
    }
}

/// The other half of `resource`: the same queue manager, storage and policies, role Secondary, and this
/// side as its peer.
///
/// # Errors
/// When the pair's Secret is not there yet, or holds no CA key (then only the side that has it can
/// print the manifest).
pub fn peer_manifest(
    resource: &DrQueueManager,
    secret: Option<&Secret>,
    place: &PeerPlace,
) -> Result<PeerManifest, NoManifest> {
    let namespace = place
        .namespace
        .clone()
        .or_else(|| resource.namespace())
        .unwrap_or_default();
    let secret = match &resource.spec.replication.tls {
        Some(TlsSpec { .. }) => None,
        None => Some(shared_secret(resource, secret, &namespace)?),
    };
    let mut spec = resource.spec.clone();
    // Always Secondary: it receives whatever this side has, and becoming Primary is a person's choice.
    spec.role = Role::Secondary;
    // A request id, or a decision about this side's data, belongs to the side it was written for.
    spec.promotion.request_id = None;
    spec.partition = None;
    spec.replication = ReplicationSpec {
        // The local address of the other side is what this side calls its peer, if that is an IP.
        local_address: None,
        peer: Some(PeerSpec {
            name: place.local_name.clone(),
            addresses: vec![socket(&place.local_address, spec.replication.port)],
        }),
        verify: None,
        port: resource
            .spec
            .replication
            .peer
            .as_ref()
            .and_then(|peer| port_of(peer.addresses.first()?))
            .unwrap_or(spec.replication.port),
        ..spec.replication
    };
    Ok(PeerManifest {
        secret,
        resource: json!({
            "apiVersion": "drqm.io/v1alpha1",
            "kind": "DrQueueManager",
            "metadata": { "name": resource.name_any(), "namespace": namespace },
            "spec": spec,
        }),
    })
}

fn shared_secret(
    resource: &DrQueueManager,
    secret: Option<&Secret>,
    namespace: &str,
) -> Result<Value, NoManifest> {
    let name = secret_name(resource);
    let data = secret
        .and_then(|secret| secret.data.as_ref())
        .ok_or_else(|| {
            NoManifest::NotYet(format!(
                "Secret {name} does not exist yet: wait until the operator has made the pair's keys"
            ))
        })?;
    let mut shared = BTreeMap::<&str, &ByteString>::new();
    for key in [CA_CRT, CA_KEY, PAIR_ID] {
        let value = data.get(key).ok_or_else(|| {
            NoManifest::Never(format!(
                "Secret {name} has no {key}: print the manifest on the other side"
            ))
        })?;
        shared.insert(key, value);
    }
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": { labels::INSTANCE: resource.name_any() },
        },
        "data": shared,
    }))
}

fn socket(address: &str, port: u16) -> String {
    if address.contains(':') && !address.starts_with('[') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

fn port_of(address: &str) -> Option<u16> {
    address.rsplit_once(':')?.1.parse().ok()
}

#[cfg(test)]
mod tests;
