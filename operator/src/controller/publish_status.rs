//! Step 6: the only writer of the status, and the Events.
//!
//! Lives here: one patch, only when something visible changed, also after a failure; Events as best
//! effort. Does not live here: what the status says (`drqm_core::status`).

use std::time::Duration;

use drqm_api::v1alpha1::{DrQueueManager, DrQueueManagerStatus};
use drqm_core::status::EventFact;
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
    runtime::events::{Event, EventType},
};
use serde_json::json;
use tokio::time::timeout;

use super::observe::Seen;
use crate::{
    api_server::{ApiError, Operation, STATUS_FIELD_MANAGER, call},
    context::Context,
    metrics::WriteOutcome,
    telemetry::chain,
};

/// An Event is worth this much waiting, not more.
const EVENT_DEADLINE: Duration = Duration::from_secs(2);

/// Writes the status; None means that nothing visible changed.
///
/// *Guarantees*: the status of a re-created object of the same name is never written, since the
/// uid goes with the patch.
pub async fn publish_status(
    context: &Context,
    seen: &Seen,
    status: Option<&DrQueueManagerStatus>,
) -> Result<(), ApiError> {
    let Some(status) = status else { return Ok(()) };
    let object = &seen.observed.object;
    let (name, uid) = (object.name_any(), object.uid().unwrap_or_default());
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<DrQueueManager> = Api::namespaced(context.client.clone(), &namespace);
    let patch = json!({
        "apiVersion": DrQueueManager::api_version(&()),
        "kind": DrQueueManager::kind(&()),
        "metadata": {"name": name, "uid": uid},
        "status": status,
    });
    let parameters = PatchParams::apply(STATUS_FIELD_MANAGER).force();
    let patch = Patch::Apply(&patch);
    let request = api.patch_status(&name, &parameters, &patch);
    let answer = call::<DrQueueManager, _>(Operation::PatchStatus, &name, request).await;
    let outcome = if answer.is_ok() {
        WriteOutcome::Ok
    } else {
        WriteOutcome::Failed
    };
    context.metrics.status_patch(outcome);
    match answer {
        Ok(_) => {
            let now = context.clock.instant();
            context
                .memory
                .update(&uid, |memory| memory.status_written = Some(now));
            Ok(())
        }
        // The object went away in the middle of the pass.
        Err(error) if error.code() == Some(404) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Publishes Events about an object. A failure is logged and counted, and nothing else.
pub async fn publish_events(context: &Context, object: &DrQueueManager, events: &[EventFact]) {
    let reference = object.object_ref(&());
    for fact in events {
        let event = Event {
            type_: if fact.warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: fact.reason.to_string(),
            note: Some(fact.message.clone()),
            action: fact.action.to_string(),
            secondary: None,
        };
        tracing::info!(reason = event.reason, note = fact.message, "event");
        let answer = timeout(EVENT_DEADLINE, context.recorder.publish(&event, &reference)).await;
        let outcome = match answer {
            Ok(Ok(())) => WriteOutcome::Ok,
            Ok(Err(error)) => {
                tracing::warn!(error = %chain(&error), "cannot publish an Event");
                WriteOutcome::Failed
            }
            Err(_) => WriteOutcome::Failed,
        };
        context.metrics.event(outcome);
    }
}
