//! `peer-manifest`: what to apply on the other cluster.

use anyhow::anyhow;
use drqm_api::{
    peer_manifest::{PeerPlace, peer_manifest, secret_name},
    v1alpha1::DrQueueManager,
};
use serde_json::Value;

use crate::{
    args::{KubeArgs, PeerManifestArgs},
    cluster::Cluster,
    failure::Failure,
    output,
};

/// Longest name that `spec.replication.peer.name` takes.
const NAME_MAX: usize = 63;

/// Prints the other side's Secret and DrQueueManager.
pub(super) async fn run(kube: &KubeArgs, args: &PeerManifestArgs) -> Result<(), Failure> {
    let cluster = Cluster::connect(kube).await?;
    let object = cluster.queue_manager(&args.name).await?;
    let secret = cluster.secret(&secret_name(&object)).await?;
    let place = PeerPlace {
        local_name: args
            .local_name
            .clone()
            .unwrap_or_else(|| cluster.context.chars().take(NAME_MAX).collect()),
        local_address: local_address(&object)?,
        namespace: args.peer_namespace.clone(),
    };
    let manifest =
        peer_manifest(&object, secret.as_ref(), &place).map_err(|error| anyhow!(error))?;
    if manifest.secret.is_none() {
        output::progress(&format!(
            "the pair uses the Secret {}, named in spec.replication.tls.secretName: the other cluster needs its own, \
             signed by the same CA",
            secret_name(&object)
        ));
    }
    let documents: Vec<Value> = manifest
        .secret
        .into_iter()
        .chain([manifest.resource])
        .collect();
    Ok(output::data(&output::yaml_documents(&documents)?)?)
}

/// The address the other side shall dial: the one asked for, or the one the node turned out to have.
fn local_address(object: &DrQueueManager) -> Result<String, Failure> {
    let asked = object.spec.replication.local_address.clone();
    let found = object
        .status
        .as_ref()
        .and_then(|status| status.dr.local_address.clone());
    asked.or(found).ok_or_else(|| {
        Failure::Failed(anyhow!(
            "status.dr.localAddress is not known yet: wait until the replicator holds the volume \
             (kubectl drqm status), or set spec.replication.localAddress"
        ))
    })
}
