//! Keeps the replicators deployed as the configuration says.
//!
//! Lives here: the control channel's Secrets and the DaemonSet, applied at start, after a change by
//! somebody else, and once an hour for renewals. Does not live here: what the DaemonSet looks like
//! (`drqm_core::desired::replicator`), certificates (`certificates::control`).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aws_lc_rs::digest;
use drqm_api::labels;
use drqm_core::desired::replicator::daemon_set;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::Secret};
use kube::{
    Api, ResourceExt,
    api::ObjectMeta,
    core::PartialObjectMeta,
    runtime::{WatchStreamExt, watcher},
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    api_server::{ApiError, read},
    certificates::{
        CertificateError, SecretData,
        control::{ControlTls, SECRET, SERVER_SECRET},
    },
    config::Config,
    context::Context,
    telemetry::chain,
};

/// Certificates are renewed 30 days ahead; an hour more or less is nothing.
const RENEWAL: Duration = Duration::from_secs(3600);
/// After a failure.
const RETRY: Duration = Duration::from_secs(5);
/// Under which the applied objects are remembered.
const OWNER: &str = "installation";

/// Why the replicators could not be deployed.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The API server did not do it.
    #[error("failed to deploy the replicators")]
    Api(#[source] ApiError),
    /// No certificates.
    #[error("failed to make the control channel's certificates")]
    Certificates(#[source] CertificateError),
}

/// Deploys the replicators and keeps them deployed until `shutdown`.
pub async fn keep(context: Arc<Context>, shutdown: CancellationToken) {
    let namespace = &context.config.namespace;
    let sets: Api<PartialObjectMeta<DaemonSet>> =
        Api::namespaced(context.client.clone(), namespace);
    let only = watcher::Config::default().fields(&format!("metadata.name={}", labels::REPLICATOR));
    // An error of the watch is a reason to look as good as any.
    let changes = watcher(sets, only)
        .default_backoff()
        .touched_objects()
        .map_ok(|_| ())
        .inspect_err(|error| tracing::debug!(error = %chain(error), "watch failed"));
    let mut changes = std::pin::pin!(changes);
    loop {
        let pause = match deploy(&context).await {
            Ok(()) => RENEWAL,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "cannot deploy the replicators yet");
                RETRY
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = sleep(pause) => {}
            Some(_) = changes.next(), if pause == RENEWAL => {}
        }
    }
}

async fn deploy(context: &Context) -> Result<(), DeployError> {
    let Config { namespace, .. } = &context.config;
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), namespace);
    let held = read(&secrets, SECRET).await.map_err(DeployError::Api)?;
    let held = held.and_then(|secret| secret.data);
    let tls = ControlTls::ensured(held.as_ref(), context.clock.now())
        .map_err(DeployError::Certificates)?;
    for (name, data) in [(SECRET, tls.data()), (SERVER_SECRET, tls.server_data())] {
        let secret = control_secret(name, namespace, data);
        let (applied, metrics) = (&context.applied, &context.metrics);
        applied
            .apply(metrics, &secrets, OWNER, name, &secret)
            .await
            .map_err(DeployError::Api)?;
    }
    // Only what is stored is used: an identity that nobody else knows would be of no use.
    context
        .replicators
        .set_identity(&tls)
        .map_err(DeployError::Certificates)?;
    let sets: Api<DaemonSet> = Api::namespaced(context.client.clone(), namespace);
    // No owner: an operator that is removed, or replaced by deleting it first, must not take the
    // devices of running queue managers with it.
    let set = daemon_set(
        namespace,
        &context.config.replicator,
        &fingerprint(&tls),
        None,
    );
    let name = set.name_any();
    let (applied, metrics) = (&context.applied, &context.metrics);
    applied
        .apply(metrics, &sets, OWNER, &name, &set)
        .await
        .map_err(DeployError::Api)?;
    Ok(())
}

fn control_secret(name: &str, namespace: &str, data: SecretData) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(BTreeMap::from([(
                labels::MANAGED_BY.to_owned(),
                labels::MANAGER.to_owned(),
            )])),
            ..ObjectMeta::default()
        },
        data: Some(data),
        ..Secret::default()
    }
}

/// Changes with the replicators' keys, about once a year.
fn fingerprint(tls: &ControlTls) -> String {
    let text = format!("{}{}", tls.authority.bundle, tls.server.certificate);
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    hash.as_ref()[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
