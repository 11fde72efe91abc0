//! Step 5: at most one command for the replicator, with a deadline.
//!
//! Lives here: which call carries which command, and what is remembered of its answer.
//! Does not live here: whether to send it (`drqm_core::plan`), retries (the next pass).

use drqm_api::v1alpha1::{PartitionResolution, Role};
use drqm_core::{
    observed::{Judged, StepRefusal},
    outcome::{ErrorClass, StepFailure},
    plan::{Command, ControlStep},
};
use drqm_rpc::control::v1::{
    ConfigureRequest, DeleteVolumeRequest, Keep, RecordVerdictRequest, Refusal, ResolveRequest,
    RevertRequest, SetRoleRequest,
};

use super::{
    error::call_failure,
    observe::{Key, Seen},
};
use crate::{
    context::Context,
    controller::observe::configuration_fingerprint,
    replicator_client::{
        CallError, Place,
        convert::{judged_to_wire, refusal_code, role_to_wire, volume_ref},
    },
};

/// Whether another pass is due at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driven {
    /// The world is different now.
    Changed,
    /// The replicator refused, or did the same as before; the plan's own time applies.
    Unchanged,
}

/// Sends the command. `configuration` is what a `Configure` sends.
pub async fn drive(
    context: &Context,
    seen: &Seen,
    configuration: Option<ConfigureRequest>,
    command: &Command,
) -> Result<Driven, StepFailure> {
    let key = seen.key();
    let Some(place) = &seen.place else {
        return Err(StepFailure {
            kind: "NoReplicator",
            class: ErrorClass::Transient,
            message: "no replicator runs on the node of this queue manager".to_owned(),
        });
    };
    tracing::info!(command = command.id, step = ?command.step, node = place.node, "driving");
    let refusal = send(context, place, &key, configuration, command).await;
    let refusal = refusal.map_err(|error| call_failure(&error))?;
    let Some(refusal) = refusal else {
        let again = context.memory.of(&key.uid).last_command.as_deref() == Some(&command.id);
        context.memory.update(&key.uid, |memory| {
            memory.last_command = Some(command.id.clone());
            if matches!(
                command.step,
                ControlStep::Initialize { .. }
                    | ControlStep::Promote { .. }
                    | ControlStep::Revert { .. }
                    | ControlStep::Demote { .. }
            ) {
                memory.refused = None;
            }
        });
        return Ok(if again {
            Driven::Unchanged
        } else {
            Driven::Changed
        });
    };
    tracing::info!(command = command.id, code = ?refusal.code(), refusal.message, "refused");
    let code = refusal_code(refusal.code());
    if matches!(command.step, ControlStep::Delete { .. }) {
        // Nothing of a deletion is stored with the data, so the status has to say why it waits.
        return Err(StepFailure {
            kind: "DeletionRefused",
            class: ErrorClass::Transient,
            message: refusal.message,
        });
    }
    let refused = StepRefusal {
        command_id: command.id.clone(),
        code,
        message: refusal.message,
    };
    // The plan of the next pass turns the refusal into a verdict, once.
    let known = context.memory.of(&key.uid).refused.as_ref() == Some(&refused);
    context
        .memory
        .update(&key.uid, |memory| memory.refused = Some(refused));
    Ok(if known {
        Driven::Unchanged
    } else {
        Driven::Changed
    })
}

async fn send(
    context: &Context,
    place: &Place,
    key: &Key,
    configuration: Option<ConfigureRequest>,
    command: &Command,
) -> Result<Option<Refusal>, CallError> {
    let replicators = &context.replicators;
    let volume = volume_ref(&key.namespace, &key.name);
    let role_request = |role: Role, expected_epoch: &str, request: &Judged| SetRoleRequest {
        volume: Some(volume.clone()),
        command_id: command.id.clone(),
        role: role_to_wire(role).into(),
        expected_epoch: expected_epoch.to_owned(),
        initialize: false,
        without_peer: false,
        request: Some(judged_to_wire(request)),
    };
    match &command.step {
        ControlStep::Configure => {
            // A plan with this step has a valid spec.
            let Some(request) = configuration else {
                return Ok(None);
            };
            let session = context.sessions.of(&place.node);
            let fingerprint = configuration_fingerprint(&request, &place.node, session);
            replicators.configure(place, request).await?;
            context
                .memory
                .update(&key.uid, |memory| memory.configured = Some(fingerprint));
            Ok(None)
        }
        ControlStep::Initialize {
            without_peer,
            request,
        } => {
            let message = SetRoleRequest {
                initialize: true,
                without_peer: *without_peer,
                ..role_request(Role::Primary, "", request)
            };
            Ok(replicators.set_role(place, message).await?.refusal)
        }
        ControlStep::Promote {
            expected_epoch,
            request,
        } => {
            let message = role_request(Role::Primary, expected_epoch, request);
            Ok(replicators.set_role(place, message).await?.refusal)
        }
        ControlStep::Revert { expected_epoch } => {
            let message = RevertRequest {
                volume: Some(volume),
                command_id: command.id.clone(),
                expected_epoch: expected_epoch.clone(),
            };
            Ok(replicators.revert(place, message).await?.refusal)
        }
        ControlStep::Resolve {
            expected_epoch,
            keep,
        } => {
            let keep = match keep {
                PartitionResolution::KeepLocal => Keep::Local,
                PartitionResolution::KeepRemote => Keep::Remote,
            };
            let message = ResolveRequest {
                volume: Some(volume),
                command_id: command.id.clone(),
                expected_epoch: expected_epoch.clone(),
                keep: keep.into(),
            };
            Ok(replicators.resolve(place, message).await?.refusal)
        }
        ControlStep::Demote {
            expected_epoch,
            request,
        } => {
            let message = role_request(Role::Secondary, expected_epoch, request);
            Ok(replicators.set_role(place, message).await?.refusal)
        }
        ControlStep::RecordVerdict { request } => {
            let request = Some(judged_to_wire(request));
            let message = RecordVerdictRequest {
                volume: Some(volume),
                request,
            };
            replicators.record_verdict(place, message).await?;
            Ok(None)
        }
        ControlStep::HealDevice => {
            replicators.heal_device(place, volume).await?;
            Ok(None)
        }
        ControlStep::Delete { erase } => {
            let message = DeleteVolumeRequest {
                volume: Some(volume),
                erase: *erase,
            };
            match replicators.delete_volume(place, message).await {
                Ok(answer) => Ok(answer.refusal),
                // It is gone, or never was: what a deletion wants.
                Err(CallError::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        }
    }
}
