//! Step 4: the desired objects, written by server-side apply in an order with reasons.
//!
//! Lives here: the order, keys, the namespace's label. Does not live here: what is desired
//! (`drqm_core::desired`), the call itself and the memory that avoids writes (`api_server`).

use std::{collections::BTreeMap, fmt::Debug};

use drqm_api::labels;
use drqm_core::{
    desired::{self, Child, Objects},
    outcome::{ErrorClass, StepFailure},
    plan::KeyWork,
    validate::Valid,
};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::StatefulSet,
        core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim, Secret, Service},
    },
};
use kube::{
    Api, Resource,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    error::apply_failure,
    observe::{Key, Seen},
};
use crate::{
    api_server::{ApiError, FIELD_MANAGER, Operation, call, delete, read},
    certificates::{
        CertificateError,
        pair::{PairTls, ensured, read_operator_made},
    },
    context::Context,
    telemetry::chain,
};

/// Makes or completes the pair's Secret, and returns what the replicator needs of it.
pub async fn keys(
    context: &Context,
    seen: &Seen,
    valid: &Valid,
    work: Option<KeyWork>,
) -> Result<Option<PairTls>, StepFailure> {
    let Some(work) = work else {
        return Ok(seen.pair.clone());
    };
    let existing = match (work, &seen.secret) {
        (KeyWork::MakePair, None) => None,
        // Never a new pair over one that exists, and never one where a leaf was asked for.
        (KeyWork::MakePair | KeyWork::IssueLeaf, Some(data)) => Some(data),
        (KeyWork::IssueLeaf, None) => return Ok(None),
    };
    let now = context.clock.now();
    let content =
        ensured(existing, &valid.queue_manager_name, now).map_err(|e| certificate_failure(&e))?;
    let pair = read_operator_made(&content, now).map_err(|e| certificate_failure(&e))?;
    let secret = Secret {
        // No owner reference: retained data is of use only with its keys. The cleanup deletes the
        // Secret together with the data.
        metadata: ObjectMeta {
            name: Some(valid.pair_secret.clone()),
            namespace: Some(valid.namespace.clone()),
            labels: Some(BTreeMap::from([
                (labels::MANAGED_BY.to_owned(), labels::MANAGER.to_owned()),
                (labels::INSTANCE.to_owned(), valid.name.clone()),
                (labels::QUEUE_MANAGER.to_owned(), valid.name.clone()),
            ])),
            ..ObjectMeta::default()
        },
        data: Some(content),
        ..Secret::default()
    };
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &valid.namespace);
    if existing.is_some() {
        let (applied, metrics) = (&context.applied, &context.metrics);
        applied
            .apply(metrics, &api, &valid.uid, &valid.pair_secret, &secret)
            .await
            .map_err(|error| apply_failure(&error))?;
    } else {
        // Created, not applied: one that a person brought from the other side in this very moment
        // must win.
        let parameters = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let request = api.create(&parameters, &secret);
        let made = call::<Secret, _>(Operation::Create, &valid.pair_secret, request).await;
        made.map_err(|error| StepFailure {
            class: ErrorClass::Transient,
            ..apply_failure(&error)
        })?;
    }
    tracing::info!(secret = valid.pair_secret, ?work, expires = %pair.expires, "keys are made");
    Ok(Some(pair))
}

/// Applies the child objects.
///
/// The volume comes before the claim, else binding takes seconds; the claim before the pod that
/// mounts it; the Service last, when there may be something to serve.
pub async fn objects(context: &Context, key: &Key, objects: &Objects) -> Result<(), StepFailure> {
    let result = async {
        protect_namespace(context, &key.namespace).await?;
        let volumes: Api<PersistentVolume> = Api::all(context.client.clone());
        let volume_name = desired::persistent_volume_name(&key.uid);
        child(
            context,
            key,
            &volumes,
            &volume_name,
            &objects.persistent_volume,
        )
        .await?;
        let claim_name = desired::claim_name(&key.name);
        let claims = namespaced::<PersistentVolumeClaim>(context, key);
        child(context, key, &claims, &claim_name, &objects.claim).await?;
        let sets = namespaced::<StatefulSet>(context, key);
        child(context, key, &sets, &key.name, &objects.stateful_set).await?;
        let services = namespaced::<Service>(context, key);
        child(context, key, &services, &key.name, &objects.service).await
    };
    result
        .await
        .map_err(|error: ApiError| apply_failure(&error))
}

fn namespaced<K>(context: &Context, key: &Key) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    Api::namespaced(context.client.clone(), &key.namespace)
}

async fn child<K>(
    context: &Context,
    key: &Key,
    api: &Api<K>,
    name: &str,
    child: &Child<K>,
) -> Result<(), ApiError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug,
{
    match child {
        Child::Untouched => Ok(()),
        Child::Apply(object) => {
            let (applied, metrics) = (&context.applied, &context.metrics);
            applied
                .apply(metrics, api, &key.uid, name, object.as_ref())
                .await
                .map(|_| ())
        }
        Child::Absent => match read(api, name).await? {
            // Only what is ours: somebody may have an object of this name.
            Some(live) if is_ours(&live) && live.meta().deletion_timestamp.is_none() => {
                delete(api, name, live.meta().uid.as_deref()).await
            }
            Some(_) | None => Ok(()),
        },
    }
}

/// Whether the operator made an object.
pub fn is_ours<K: Resource>(live: &K) -> bool {
    let labels = live.meta().labels.as_ref();
    labels
        .and_then(|labels| labels.get(labels::MANAGED_BY))
        .map(String::as_str)
        == Some(labels::MANAGER)
}

/// The namespace's label makes an admission policy refuse its deletion while it holds a queue
/// manager: a namespace that terminates takes its pods with it, whatever finalizers say.
async fn protect_namespace(context: &Context, namespace: &str) -> Result<(), ApiError> {
    label_namespace(context, namespace, Some("true")).await
}

/// Writes or removes the protection label, if that changes anything.
pub async fn label_namespace(
    context: &Context,
    namespace: &str,
    value: Option<&str>,
) -> Result<(), ApiError> {
    let api: Api<Namespace> = Api::all(context.client.clone());
    let Some(live) = read(&api, namespace).await? else {
        return Ok(());
    };
    let held = live
        .metadata
        .labels
        .as_ref()
        .and_then(|all| all.get(labels::GUARDED_NAMESPACE));
    if held.map(String::as_str) == value {
        return Ok(());
    }
    let patch: Value = json!({"metadata": {"labels": {labels::GUARDED_NAMESPACE: value}}});
    let parameters = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patch = Patch::Merge(&patch);
    let request = api.patch_metadata(namespace, &parameters, &patch);
    match call::<Namespace, _>(Operation::Label, namespace, request).await {
        Ok(_) => Ok(()),
        // It goes away together with its objects.
        Err(error) if error.code() == Some(404) => Ok(()),
        Err(error) => Err(error),
    }
}

fn certificate_failure(error: &CertificateError) -> StepFailure {
    let (kind, class) = ("CertificateFailed", ErrorClass::Transient);
    StepFailure {
        kind,
        class,
        message: chain(error),
    }
}
