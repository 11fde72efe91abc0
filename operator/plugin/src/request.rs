//! A role request: what to write so that it is one, and what the status says about it later.
//!
//! Lives here: pure functions from an object to a JSON patch, and from an object to "done, refused,
//! pending". Does not live here: sending the patch, waiting, printing.
//!
//! Invariants
//! - A patch tests what the person was shown: of two people who ask at the same time, one is told.
//! - Nothing but `spec.role` and `spec.promotion.requestId` is ever written.

use drqm_api::{
    conditions::condition as types,
    v1alpha1::{
        DrQueueManager, DrQueueManagerStatus, EffectiveRole, QueueManagerStatusWord, RequestState,
        Role, VerdictWord,
    },
};
use serde_json::{Value, json};

/// What is needed to make the wish a request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ask {
    /// This patch; it changes the role.
    ChangeRole(Value),
    /// This patch; the role stands there already, but the request was refused or never counted.
    Renew(Value),
    /// Nothing: the request stands.
    Stands,
}

/// The patch that asks for `wish`, on the object as it was shown. `request_id` must be new.
#[must_use]
pub(crate) fn ask(object: &DrQueueManager, wish: Role, request_id: &str) -> Ask {
    if object.spec.role != wish {
        return Ask::ChangeRole(json!([
            {"op": "test", "path": "/spec/role", "value": object.spec.role},
            {"op": "replace", "path": "/spec/role", "value": wish},
        ]));
    }
    let Some(status) = &object.status else {
        return Ask::Stands;
    };
    let rejected = status
        .request
        .as_ref()
        .is_some_and(|request| match request.verdict {
            VerdictWord::Refuse | VerdictWord::Hold => true,
            VerdictWord::Steady | VerdictWord::Proceed | VerdictWord::Wait => false,
        });
    if rejected && status.role != EffectiveRole::from(wish) {
        return Ask::Renew(json!([
            {"op": "test", "path": "/spec/role", "value": wish},
            {"op": "test", "path": "/metadata/generation", "value": object.metadata.generation},
            {"op": "add", "path": "/spec/promotion/requestId", "value": request_id},
        ]));
    }
    Ask::Stands
}

/// What the status says about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The role is taken; a Primary's queue manager runs, if it shall.
    Done,
    /// Judged, and not to be done.
    Refused {
        /// One stable word.
        reason: String,
        /// Why, and what to do.
        message: String,
    },
    /// Somebody asked for the other role meanwhile.
    Overtaken,
    /// Not yet; the text says what it waits for.
    Pending(String),
}

/// Reads the answer to a request for `wish` out of an object. `generation` is the object's when the
/// request was made: an older status speaks of something else.
#[must_use]
pub(crate) fn answer(object: &DrQueueManager, wish: Role, generation: i64) -> Answer {
    if object.spec.role != wish {
        return Answer::Overtaken;
    }
    let seen = object
        .status
        .as_ref()
        .filter(|status| status.observed_generation >= Some(generation));
    let Some(status) = seen else {
        return Answer::Pending("the operator has not looked at the request yet".to_owned());
    };
    let ours = status.request.as_ref().filter(|request| {
        request.desired == wish && request.request_id == object.spec.promotion.request_id
    });
    if let Some(RequestState {
        verdict: VerdictWord::Refuse | VerdictWord::Hold,
        reason,
        message,
        ..
    }) = ours
    {
        return Answer::Refused {
            reason: reason.clone(),
            message: message.clone(),
        };
    }
    if status.role == EffectiveRole::from(wish) && settled(status) && runs_as_wished(object, status)
    {
        return Answer::Done;
    }
    Answer::Pending(waiting_for(status))
}

fn settled(status: &DrQueueManagerStatus) -> bool {
    condition(status, types::ROLE_SETTLED).is_some_and(|condition| condition.status == "True")
}

fn runs_as_wished(object: &DrQueueManager, status: &DrQueueManagerStatus) -> bool {
    match object.spec.role {
        Role::Secondary => true,
        Role::Primary => {
            !object.spec.queue_manager.running
                || status.serving
                || status.queue_manager.status == QueueManagerStatusWord::Running
        }
    }
}

/// The condition that says what is missing: the role's first, then Ready.
fn waiting_for(status: &DrQueueManagerStatus) -> String {
    [types::ROLE_SETTLED, types::READY]
        .iter()
        .filter_map(|type_| condition(status, type_))
        .find(|condition| condition.status != "True")
        .map_or_else(
            || "no condition says what is missing".to_owned(),
            |condition| format!("{}: {}", condition.reason, condition.message),
        )
}

fn condition<'a>(
    status: &'a DrQueueManagerStatus,
    type_: &str,
) -> Option<&'a k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> {
    status
        .conditions
        .iter()
        .find(|condition| condition.type_ == type_)
}

/// Conditions whose status or reason differs between two looks, as lines for people. Messages alone
/// do not count: they carry figures that move all the time.
#[must_use]
pub(crate) fn changes(
    before: Option<&DrQueueManagerStatus>,
    after: &DrQueueManagerStatus,
) -> Vec<String> {
    after
        .conditions
        .iter()
        .filter(|now| {
            !before
                .and_then(|status| condition(status, &now.type_))
                .is_some_and(|then| then.status == now.status && then.reason == now.reason)
        })
        .map(|now| {
            format!(
                "{}={}/{}: {}",
                now.type_, now.status, now.reason, now.message
            )
        })
        .collect()
}

#[cfg(test)]
mod tests;
