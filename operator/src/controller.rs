//! Reconcile: observe → validate → plan → apply → drive → publish status → when to look again.
//!
//! Lives here: the order of the steps, the finalizer wrapper, the error policy. Does not live here:
//! building requests (`apply`, `drive`), texts (`drqm_core::status`), decisions (`drqm_core`).
//!
//! Invariants
//! - Nothing asks why it was called; a crash between two steps is no special case.
//! - At most one command per pass; failure is a value until the status has been written.
//! - Every external call has a deadline; nothing sleeps or polls inside a pass.

pub mod apply;
pub mod cleanup;
pub mod drive;
pub mod error;
pub mod observe;
pub mod publish_status;

use std::{hash::BuildHasher, sync::Arc, time::Duration};

use drqm_api::{conditions::reason, labels, v1alpha1::DataOnDelete};
use drqm_core::{
    deletion,
    outcome::{ErrorClass, Outcome, RESYNC, StepFailure},
    plan::{Finalizer, Plan, plan},
    retry::{jittered, retry_delay},
    status,
    validate::{Valid, validate},
};
use kube::{
    Api, Resource, ResourceExt,
    core::error_boundary::InvalidObject,
    runtime::{
        controller::Action,
        events::{Event, EventType},
        finalizer::{self, finalizer},
    },
};
use tracing::Instrument;

use self::{
    drive::{Driven, drive},
    error::Error,
    observe::{Found, Seen, observe},
    publish_status::{publish_events, publish_status},
};
use crate::{
    context::{Context, ObjectMetadata},
    metrics::PassOutcome,
    replicator_client::convert::configure_request,
    telemetry::chain,
};

/// How often to look at what only a person can mend, in another object than this.
const PERMANENT: Duration = Duration::from_secs(60);

/// How a pass over one object ended.
pub type PassResult = Result<Action, finalizer::Error<Error>>;

/// One pass over one object, with its span, metrics and failure count.
pub async fn reconcile(object: Arc<ObjectMetadata>, context: Arc<Context>) -> PassResult {
    let began = context.clock.instant();
    let span = tracing::info_span!(
        "reconcile",
        namespace = object.namespace(),
        name = object.name_any(),
        generation = object.metadata.generation,
    );
    let uid = object.uid().unwrap_or_default();
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<ObjectMetadata> = Api::namespaced(context.client.clone(), &namespace);
    let steps = finalizer(&api, labels::FINALIZER, object, async |event| match event {
        finalizer::Event::Apply(object) => pass(&object, &context).await,
        finalizer::Event::Cleanup(object) => clean_up(&object, &context).await,
    });
    let result = steps.instrument(span).await;
    let (outcome, kind) = match &result {
        Ok(_) => (PassOutcome::Done, ""),
        Err(error) if pending(error).is_some() => (PassOutcome::Deleting, ""),
        Err(error) => (PassOutcome::Failed, kind_of(error)),
    };
    let now = context.clock.now().as_second() as f64;
    context.metrics.pass(outcome, kind, began, now);
    if result.is_ok() {
        context.failures.forget(&uid);
        context.metrics.failing(context.failures.len());
    }
    result
}

/// When to try again after a failure.
pub fn error_policy(
    object: Arc<ObjectMetadata>,
    error: &finalizer::Error<Error>,
    context: Arc<Context>,
) -> Action {
    if let Some(after) = pending(error) {
        return Action::requeue(after);
    }
    let attempt = context.failures.add(&object.uid().unwrap_or_default());
    context.metrics.failing(context.failures.len());
    tracing::warn!(
        namespace = object.namespace(),
        name = object.name_any(),
        kind = kind_of(error),
        attempt,
        error = %chain(error),
        "the pass failed"
    );
    Action::requeue(retry_delay(attempt, &context.retry, jitter()))
}

async fn pass(object: &ObjectMetadata, context: &Context) -> Result<Action, Error> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    match observe(context, &namespace, &name)
        .await
        .map_err(Error::Observe)?
    {
        Found::Gone => Ok(Action::await_change()),
        Found::Unreadable(invalid) => {
            report_unreadable(context, object, &invalid).await;
            Ok(Action::requeue(RESYNC))
        }
        Found::Object(seen) => carry_out(context, &seen).await.map(|done| done.action),
    }
}

async fn clean_up(object: &ObjectMetadata, context: &Context) -> Result<Action, Error> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let seen = match observe(context, &namespace, &name)
        .await
        .map_err(Error::Observe)?
    {
        Found::Gone => return Ok(Action::await_change()),
        Found::Unreadable(_) => None,
        Found::Object(seen) => Some(seen),
    };
    let Some(seen) = seen else {
        cleanup::by_metadata(context, object).await?;
        return Ok(Action::await_change());
    };
    let done = carry_out(context, &seen).await?;
    match done.finalizer {
        Finalizer::Keep => Err(Error::CleanupPending { after: done.after }),
        Finalizer::Release => {
            let keys = match seen.observed.object.spec.deletion.data {
                DataOnDelete::Retain => cleanup::Keys::Keep,
                DataOnDelete::Delete => cleanup::Keys::Delete,
            };
            cleanup::finish(context, object, keys)
                .await
                .map_err(Error::Cleanup)?;
            Ok(Action::await_change())
        }
    }
}

/// What a pass came to.
struct Done {
    action: Action,
    after: Duration,
    finalizer: Finalizer,
}

async fn carry_out(context: &Context, seen: &Seen) -> Result<Done, Error> {
    let now = context.clock.now();
    let (outcome, result) = match validate(&seen.observed) {
        Ok(valid) => {
            let plan = plan(&valid, &seen.observed, now);
            let steps = run(context, seen, Some(&valid), &plan).await;
            let failure = steps.as_ref().err().cloned();
            let outcome = Outcome::Planned {
                valid: Box::new(valid),
                plan: Box::new(plan.clone()),
                failure,
            };
            (outcome, Some((plan, steps)))
        }
        // Being deleted needs no valid spec.
        Err(why) => match deletion::plan(None, &seen.observed) {
            Some(plan) => {
                let steps = run(context, seen, None, &plan).await;
                (Outcome::Rejected(why), Some((plan, steps)))
            }
            None => (Outcome::Rejected(why), None),
        },
    };
    let next = status::next(&seen.observed, &outcome, now);
    publish_status(context, seen, next.status.as_ref())
        .await
        .map_err(Error::PublishStatus)?;
    publish_events(context, &seen.observed.object, &next.events).await;
    conclude(result)
}

/// Steps 4 and 5. The first failure ends them; it is part of the outcome.
async fn run(
    context: &Context,
    seen: &Seen,
    valid: Option<&Valid>,
    plan: &Plan,
) -> Result<Driven, StepFailure> {
    if seen.observed.node.is_none() && plan.node.is_some() {
        // A node that was chosen just now is recorded before anything exists there.
        return Ok(Driven::Changed);
    }
    let configuration = match valid {
        Some(valid) => {
            let pair = apply::keys(context, seen, valid, plan.keys).await?;
            Some(configure_request(valid, pair.as_ref()))
        }
        None => None,
    };
    apply::objects(context, &seen.key(), &plan.objects).await?;
    match &plan.step {
        None => Ok(Driven::Unchanged),
        Some(command) => drive(context, seen, configuration, command).await,
    }
}

/// Step 7.
fn conclude(result: Option<(Plan, Result<Driven, StepFailure>)>) -> Result<Done, Error> {
    let Some((plan, steps)) = result else {
        // Nothing changes until somebody changes the object, and then the watch tells.
        let action = Action::requeue(resync());
        return Ok(Done {
            action,
            after: RESYNC,
            finalizer: Finalizer::Keep,
        });
    };
    let (after, finalizer) = match steps {
        Ok(Driven::Changed) => (Duration::ZERO, plan.finalizer),
        Ok(Driven::Unchanged) => (plan.recheck_after.min(resync()), plan.finalizer),
        Err(StepFailure {
            kind,
            class: ErrorClass::Transient,
            message,
        }) => {
            return Err(Error::Step { kind, message });
        }
        Err(StepFailure {
            kind,
            class: ErrorClass::Permanent,
            message,
        }) => {
            tracing::warn!(kind, message, "nothing more can be done without a change");
            (PERMANENT, Finalizer::Keep)
        }
    };
    tracing::debug!(?after, "pass done");
    Ok(Done {
        action: Action::requeue(after),
        after,
        finalizer,
    })
}

/// A spec that this build cannot read (a newer CRD): everything stays as it is, and a person is
/// told. The status is left alone: a patch that does not know it all would drop the rest.
async fn report_unreadable(context: &Context, object: &ObjectMetadata, invalid: &InvalidObject) {
    tracing::warn!(error = %invalid, "this version cannot read the object");
    let event = Event {
        type_: EventType::Warning,
        reason: reason::INVALID_SPEC.to_owned(),
        note: Some(format!(
            "this version of the operator cannot read the object ({invalid}); nothing was changed. \
             Correct the object, or install the operator's version that belongs to the CRD"
        )),
        action: "Reconcile".to_owned(),
        secondary: None,
    };
    let reference = object.object_ref(&());
    let publish = context.recorder.publish(&event, &reference);
    if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(2), publish).await {
        tracing::warn!(error = %chain(&error), "cannot publish an Event");
    }
}

fn pending(error: &finalizer::Error<Error>) -> Option<Duration> {
    match error {
        finalizer::Error::CleanupFailed(Error::CleanupPending { after }) => Some(*after),
        finalizer::Error::CleanupFailed(_)
        | finalizer::Error::ApplyFailed(_)
        | finalizer::Error::AddFinalizer(_)
        | finalizer::Error::RemoveFinalizer(_)
        | finalizer::Error::UnnamedObject
        | finalizer::Error::InvalidFinalizer => None,
    }
}

fn kind_of(error: &finalizer::Error<Error>) -> &'static str {
    match error {
        finalizer::Error::ApplyFailed(error) | finalizer::Error::CleanupFailed(error) => {
            error.kind()
        }
        finalizer::Error::AddFinalizer(_) => "AddFinalizerFailed",
        finalizer::Error::RemoveFinalizer(_) => "RemoveFinalizerFailed",
        finalizer::Error::UnnamedObject | finalizer::Error::InvalidFinalizer => "FinalizerFailed",
    }
}

/// Ten minutes, give or take one, so that objects do not line up after a restart.
fn resync() -> Duration {
    jittered(RESYNC, jitter())
}

/// Between -1 and 1. The keys of the standard library's hasher are random.
fn jitter() -> f64 {
    let bits = std::hash::RandomState::new().hash_one(0u8) >> 11;
    bits as f64 / (1u64 << 52) as f64 - 1.0
}
