//! Requests and answers, in the situations that people meet.

use drqm_api::v1alpha1::Role;
use serde_json::json;

use super::{Answer, Ask, answer, ask, changes};
use crate::fixtures::{condition, dr1, dr2, wishing};

fn refused() -> serde_json::Value {
    json!({
        "request": {
            "generation": 3, "desired": "Primary", "verdict": "Refuse", "reason": "PeerIsPrimary",
            "message": "dr1 is Primary: demote it first.", "latched": true
        },
        "conditions": [
            condition("Ready", "True", "Standby", "A healthy standby."),
            condition("RoleSettled", "False", "PeerIsPrimary", "dr1 is Primary: demote it first.")
        ]
    })
}

#[test]
fn a_role_change_tests_the_role_that_was_shown() {
    let expected = json!([
        {"op": "test", "path": "/spec/role", "value": "Secondary"},
        {"op": "replace", "path": "/spec/role", "value": "Primary"},
    ]);
    assert_eq!(
        ask(&dr2(json!({})), Role::Primary, "r1"),
        Ask::ChangeRole(expected)
    );
}

#[test]
fn a_refused_wish_is_asked_again_by_a_new_request_id() {
    let object = wishing(dr2(refused()), Role::Primary);
    let expected = json!([
        {"op": "test", "path": "/spec/role", "value": "Primary"},
        {"op": "test", "path": "/metadata/generation", "value": 3},
        {"op": "add", "path": "/spec/promotion/requestId", "value": "r1"},
    ]);
    assert_eq!(ask(&object, Role::Primary, "r1"), Ask::Renew(expected));
}

#[test]
fn a_wish_that_is_under_way_or_done_stands() {
    assert_eq!(ask(&dr1(json!({})), Role::Primary, "r1"), Ask::Stands);
    let waiting = dr2(json!({"request": {
        "generation": 3, "desired": "Primary", "verdict": "Wait", "reason": "SyncInProgress", "message": "m"
    }}));
    assert_eq!(
        ask(&wishing(waiting, Role::Primary), Role::Primary, "r1"),
        Ask::Stands
    );
}

#[test]
fn a_settled_role_is_an_answer_only_when_the_queue_manager_runs() {
    assert_eq!(answer(&dr1(json!({})), Role::Primary, 3), Answer::Done);
    assert_eq!(answer(&dr2(json!({})), Role::Secondary, 3), Answer::Done);
    let starting = dr1(json!({
        "serving": false,
        "queueManager": {"status": "Starting"},
        "conditions": [
            condition("Ready", "False", "Starting", "The pod is not ready yet."),
            condition("RoleSettled", "True", "Settled", "Primary, as asked for.")
        ]
    }));
    assert_eq!(
        answer(&starting, Role::Primary, 3),
        Answer::Pending("Starting: The pod is not ready yet.".to_owned())
    );
    let mut stopped = starting;
    stopped.spec.queue_manager.running = false;
    assert_eq!(answer(&stopped, Role::Primary, 3), Answer::Done);
}

#[test]
fn a_refusal_is_told_with_reason_and_message() {
    assert_eq!(
        answer(&wishing(dr2(refused()), Role::Primary), Role::Primary, 3),
        Answer::Refused {
            reason: "PeerIsPrimary".to_owned(),
            message: "dr1 is Primary: demote it first.".to_owned()
        }
    );
}

#[test]
fn a_status_older_than_the_request_is_no_answer() {
    let object = wishing(dr2(refused()), Role::Primary);
    assert!(matches!(
        answer(&object, Role::Primary, 4),
        Answer::Pending(_)
    ));
}

#[test]
fn a_refusal_of_an_earlier_request_id_is_no_answer() {
    let mut object = wishing(dr2(refused()), Role::Primary);
    object.spec.promotion.request_id = Some("r2".to_owned());
    assert!(matches!(
        answer(&object, Role::Primary, 3),
        Answer::Pending(_)
    ));
}

#[test]
fn a_contrary_wish_of_somebody_else_ends_the_wait() {
    assert_eq!(answer(&dr2(json!({})), Role::Primary, 3), Answer::Overtaken);
}

#[test]
fn only_changed_conditions_are_told() {
    let before = dr2(json!({})).status.expect("the fixture has a status");
    let after = dr2(refused()).status.expect("the fixture has a status");
    assert_eq!(
        changes(Some(&before), &after),
        ["RoleSettled=False/PeerIsPrimary: dr1 is Primary: demote it first."]
    );
    assert!(changes(Some(&after), &after).is_empty());
}
