//! `peer-manifest`: what to apply on the other cluster.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use drqm_api::{
    peer_manifest::{NoManifest, PeerManifest, PeerPlace, peer_manifest, secret_name},
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

/// Time between two looks. The operator needs some tenths of a second, a new volume a second or two.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Prints the other side's Secret and DrQueueManager.
pub(super) async fn run(kube: &KubeArgs, args: &PeerManifestArgs) -> Result<(), Failure> {
    let cluster = Cluster::connect(kube).await?;
    let manifest = wait(&cluster, args).await?;
    let documents: Vec<Value> = manifest
        .secret
        .into_iter()
        .chain([manifest.resource])
        .collect();
    Ok(output::data(&output::yaml_documents(&documents)?)?)
}

/// Looks until everything is there that the manifest is made of: it is asked for right after the
/// first half was applied.
async fn wait(cluster: &Cluster, args: &PeerManifestArgs) -> Result<PeerManifest, Failure> {
    let started = Instant::now();
    let mut told = String::new();
    loop {
        let missing = match look(cluster, args).await? {
            Ok(manifest) => return Ok(manifest),
            Err(NoManifest::Never(why)) => return Err(Failure::Failed(anyhow!(why))),
            Err(NoManifest::NotYet(missing)) => missing,
        };
        let left = args.timeout.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Err(Failure::TimedOut {
                after: args.timeout,
                last: missing,
            });
        }
        if missing != told {
            output::progress(&missing);
            told = missing;
        }
        tokio::time::sleep(LOOK_EVERY.min(left)).await;
    }
}

/// The manifest of what exists now.
async fn look(
    cluster: &Cluster,
    args: &PeerManifestArgs,
) -> Result<Result<PeerManifest, NoManifest>, Failure> {
    let object = cluster.queue_manager(&args.name).await?;
    let secret = cluster.secret(&secret_name(&object)).await?;
    Ok(local_address(&object).and_then(|local_address| {
        let place = PeerPlace {
            local_name: args
                .local_name
                .clone()
                .unwrap_or_else(|| cluster.context.chars().take(NAME_MAX).collect()),
            local_address,
            namespace: args.peer_namespace.clone(),
        };
        let manifest = peer_manifest(&object, secret.as_ref(), &place)?;
        if manifest.secret.is_none() {
            output::progress(&format!(
                "the pair uses the Secret {}, named in spec.replication.tls.secretName: the other cluster needs \
                 its own, signed by the same CA",
                secret_name(&object)
            ));
        }
        Ok(manifest)
    }))
}

/// The address the other side shall dial: the one asked for, or the one the node turned out to have.
fn local_address(object: &DrQueueManager) -> Result<String, NoManifest> {
    let asked = object.spec.replication.local_address.clone();
    let found = object
        .status
        .as_ref()
        .and_then(|status| status.dr.local_address.clone());
    asked.or(found).ok_or_else(|| {
        NoManifest::NotYet(
            "status.dr.localAddress is not known yet: wait until the replicator holds the volume \
             (kubectl drqm status), or set spec.replication.localAddress"
                .to_owned(),
        )
    })
}
