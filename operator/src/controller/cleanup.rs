//! The end of an object: what remains to be removed before the finalizer goes.
//!
//! Lives here: objects without an owner reference, the namespace's label, the way out for objects
//! whose spec this build cannot read. Does not live here: when the finalizer may go
//! (`drqm_core::deletion`). "Not found" is success everywhere.

use drqm_api::labels;
use drqm_core::desired;
use drqm_rpc::control::v1::DeleteVolumeRequest;
use futures::future::join_all;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Secret},
};
use kube::{Api, ResourceExt};

use super::{apply, error::Error};
use crate::{
    api_server::{ApiError, delete, read},
    context::{Context, ObjectMetadata},
    replicator_client::{CallError, convert::volume_ref},
    telemetry::chain,
};

/// What happens to the pair's Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// It stays with the retained data.
    Keep,
    /// It goes with the erased data.
    Delete,
}

/// Removes what has no owner reference. Idempotent.
pub async fn finish(
    context: &Context,
    object: &ObjectMetadata,
    keys: Keys,
) -> Result<(), ApiError> {
    let (name, uid) = (object.name_any(), object.uid().unwrap_or_default());
    let namespace = object.namespace().unwrap_or_default();
    let client = &context.client;
    // The claim first: its volume stays until the claim is gone.
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);
    let claim_name = desired::claim_name(&name);
    if let Some(claim) = read(&claims, &claim_name).await?
        && apply::is_ours(&claim)
    {
        delete(&claims, &claim_name, claim.metadata.uid.as_deref()).await?;
    }
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    delete(&volumes, &desired::persistent_volume_name(&uid), None).await?;
    if keys == Keys::Delete {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
        let secret_name = format!("{name}-pair");
        if let Some(secret) = read(&secrets, &secret_name).await?
            && apply::is_ours(&secret)
        {
            delete(&secrets, &secret_name, secret.metadata.uid.as_deref()).await?;
        }
    }
    let is_last = !context.objects.state().iter().any(|other| {
        other.namespace().as_deref() == Some(&namespace) && other.uid().as_deref() != Some(&uid)
    });
    if is_last {
        apply::label_namespace(context, &namespace, None).await?;
    }
    context.forget(&uid);
    Ok(())
}

/// Cleans up with nothing but metadata: stops the queue manager, lets every replicator forget the
/// volume (data is retained), then the rest. Returns Pending until all of it is done.
pub async fn by_metadata(context: &Context, object: &ObjectMetadata) -> Result<(), Error> {
    let name = object.name_any();
    let namespace = object.namespace().unwrap_or_default();
    let sets: Api<StatefulSet> = Api::namespaced(context.client.clone(), &namespace);
    if let Some(set) = read(&sets, &name).await.map_err(Error::Cleanup)?
        && apply::is_ours(&set)
    {
        // In the background: the garbage collector stops the pod in the ordinary way.
        delete(&sets, &name, set.metadata.uid.as_deref())
            .await
            .map_err(Error::Cleanup)?;
        return Err(pending());
    }
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &namespace);
    let pod = read(&pods, &format!("{name}-0"))
        .await
        .map_err(Error::Cleanup)?;
    if pod.is_some_and(|pod| pod.labels().get(labels::QUEUE_MANAGER) == Some(&name)) {
        return Err(pending());
    }
    let skip = object
        .annotations()
        .get(labels::SKIP_DATA_CLEANUP)
        .map(String::as_str);
    if skip != Some("true") {
        forget_volumes(context, &namespace, &name).await?;
    }
    finish(context, object, Keys::Keep)
        .await
        .map_err(Error::Cleanup)
}

async fn forget_volumes(context: &Context, namespace: &str, name: &str) -> Result<(), Error> {
    let message = || DeleteVolumeRequest {
        volume: Some(volume_ref(namespace, name)),
        erase: false,
    };
    // Only nodes that exist: what a node that is gone held is gone with it.
    let places: Vec<_> = context
        .places()
        .into_iter()
        .filter(|place| context.node_facts(&place.node).exists)
        .collect();
    let answers = places
        .iter()
        .map(|place| context.replicators.delete_volume(place, message()));
    for answer in join_all(answers).await {
        match answer {
            Ok(answer) if answer.refusal.is_none() => {}
            Err(CallError::NotFound { .. }) => {}
            Ok(answer) => {
                let why = answer
                    .refusal
                    .map(|refusal| refusal.message)
                    .unwrap_or_default();
                tracing::info!(why, "the replicator keeps the volume for now");
                return Err(pending());
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "a replicator gave no answer");
                return Err(pending());
            }
        }
    }
    Ok(())
}

fn pending() -> Error {
    Error::CleanupPending {
        after: std::time::Duration::from_secs(2),
    }
}
