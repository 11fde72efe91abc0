//! What a volume needs before it can be configured, and what stands in the way.
//!
//! Lives here: keys, Secrets, ports, foreign objects, missing data. Does not live here: roles.

use drqm_api::conditions::reason;
use drqm_api::v1alpha1::{DataWord, Role};

use super::{Blocked, KeyWork};
use crate::observed::{Configuration, Keys, Observed, ReplicatorView};
use crate::validate::Valid;

/// Whether the replicator has its configuration.
pub(super) enum Configured {
    /// It has what it needs.
    Yes,
    /// It is to be sent.
    To,
    /// Something else has to happen first.
    Cannot,
    /// It once had data, and the node has none.
    DataMissing,
}

pub(super) fn configuration(
    valid: &Valid,
    seen: &Observed,
    obstacle: Option<&Blocked>,
    keys: Option<KeyWork>,
) -> Configured {
    let known = seen.replicator.volume().filter(|volume| volume.configured);
    let missing = match seen.replicator.volume() {
        None => had_data(seen),
        Some(volume) => {
            had_data(seen) && volume.data == DataWord::Empty && valid.role == Role::Primary
        }
    };
    if missing {
        return Configured::DataMissing;
    }
    let due = known.is_none() || seen.configuration == Configuration::Due;
    let usable_keys = match (&seen.keys, &valid.peer) {
        (Keys::Present { leaf: true, .. }, _) => true,
        // Without a peer there is nobody to talk to.
        (Keys::Missing | Keys::Invalid { .. } | Keys::Present { .. }, peer) => {
            peer.is_none() && keys.is_none()
        }
    };
    match (due, usable_keys && obstacle.is_none()) {
        (false, _) => Configured::Yes,
        (true, true) => Configured::To,
        (true, false) => Configured::Cannot,
    }
}

/// Whether this object once had data: its status names an epoch.
fn had_data(seen: &Observed) -> bool {
    seen.object
        .status
        .as_ref()
        .and_then(|status| status.epoch.as_ref())
        .is_some_and(|epoch| !epoch.current.is_empty())
}

/// What keeps the volume from being configured, or its objects from being applied.
pub(super) fn obstacle(valid: &Valid, seen: &Observed) -> Option<Blocked> {
    if let Some(foreign) = &seen.children.foreign {
        return Some(Blocked {
            reason: reason::FOREIGN_OBJECT,
            message: format!("{foreign}; remove or rename it, or rename this object"),
        });
    }
    if let ReplicatorView::Unreachable { message } = &seen.replicator {
        return Some(Blocked {
            reason: reason::REPLICATOR_UNREACHABLE,
            message: format!(
                "the replicator on the node does not answer ({message}); replication goes on by itself if it runs there"
            ),
        });
    }
    if let Some(other) = &seen.port_taken_by {
        return Some(Blocked {
            reason: reason::PORT_TAKEN,
            message: format!(
                "spec.replication.port {} is used by {other} on the same node with other settings; choose another port",
                valid.port
            ),
        });
    }
    let secret = &valid.pair_secret;
    match &seen.keys {
        Keys::Present { leaf: true, .. } => None,
        Keys::Present { ca_key: true, .. } => None,
        Keys::Present { .. } => Some(Blocked {
            reason: reason::SECRET_INVALID,
            message: format!(
                "Secret {secret} holds no usable certificate and no CA key to make one"
            ),
        }),
        Keys::Invalid { message } => Some(Blocked {
            reason: reason::SECRET_INVALID,
            message: format!("Secret {secret} cannot be used: {message}"),
        }),
        Keys::Missing if key_work(valid, seen).is_some() || no_keys_needed(valid) => None,
        Keys::Missing if valid.own_keys && valid.role == Role::Secondary => Some(Blocked {
            reason: reason::SECRET_MISSING,
            message: format!(
                "Secret {secret} does not exist; apply the output of `kubectl drqm peer-manifest` of the other side, it contains it"
            ),
        }),
        Keys::Missing => Some(Blocked {
            reason: reason::SECRET_MISSING,
            message: format!(
                "Secret {secret} does not exist; bring it back, the other side's `kubectl drqm peer-manifest` prints what an operator-made one holds"
            ),
        }),
    }
}

fn no_keys_needed(valid: &Valid) -> bool {
    valid.own_keys && valid.peer.is_none() && valid.role == Role::Secondary
}

/// A Primary that begins makes the pair's keys; whoever has the CA's key issues its own certificate.
/// Keys are never made anew for a pair that exists: its other side would not know them.
pub(super) fn key_work(valid: &Valid, seen: &Observed) -> Option<KeyWork> {
    if !valid.own_keys {
        return None;
    }
    match &seen.keys {
        Keys::Missing => {
            let begins = match &seen.replicator {
                ReplicatorView::Reached(volume) => volume
                    .as_ref()
                    .is_none_or(|volume| !volume.configured || volume.data == DataWord::Empty),
                ReplicatorView::NoNode | ReplicatorView::Unreachable { .. } => false,
            };
            (begins && valid.role == Role::Primary && !had_data(seen)).then_some(KeyWork::MakePair)
        }
        Keys::Present {
            ca_key: true,
            leaf: false,
            ..
        } => Some(KeyWork::IssueLeaf),
        Keys::Present { .. } | Keys::Invalid { .. } => None,
    }
}
