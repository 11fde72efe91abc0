//! What verdicts mean for a person: what happened and what to do.
//!
//! Lives here: one text per reason. Does not live here: deciding. Texts are stable: no figures, no
//! durations, so that status does not change while nothing does.

use drqm_api::conditions::reason;
use drqm_api::v1alpha1::VerdictWord;

/// Names that appear in texts.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// How the peer is called; `None` without a peer.
    pub peer: Option<&'a str>,
    /// The verdict that the text goes with.
    pub verdict: VerdictWord,
}

impl Names<'_> {
    fn peer(&self) -> &str {
        self.peer.unwrap_or("the peer")
    }
}

/// The text for a reason of the decision table, of `request` or of `creation`.
#[must_use]
pub fn explain(why: &str, names: Names<'_>) -> String {
    steady(why, names)
        .or_else(|| promotion(why, names))
        .or_else(|| demotion(why, names))
        .or_else(|| request(why, names))
        .or_else(|| creation(why, names))
        .unwrap_or_else(|| why.to_owned())
}

fn steady(why: &str, names: Names<'_>) -> Option<String> {
    let peer = names.peer();
    Some(match why {
        reason::NORMAL => format!("connected to {peer} and in step"),
        reason::SYNC_IN_PROGRESS if names.verdict == VerdictWord::Wait => {
            "a synchronization is under way; wait until it is finished".to_owned()
        }
        reason::SYNC_IN_PROGRESS => "a synchronization is under way".to_owned(),
        reason::REMOTE_UNAVAILABLE => format!(
            "{peer} does not get what is written here; restore the link, or, if it is connected and Primary too, patch its spec.role to Secondary"
        ),
        reason::REMOTE_UNCONFIGURED => {
            "no peer is configured; set spec.replication.peer to protect the data".to_owned()
        }
        reason::INACTIVE => "both sides are Secondary; patch spec.role of one to Primary".to_owned(),
        reason::INCONSISTENT => {
            "a synchronization was interrupted and the copy here is inconsistent; it heals by itself when the link is back".to_owned()
        }
        reason::CATCHING_UP => format!("{peer} is sending what this side missed"),
        reason::SUPERSEDED_BY_PEER => format!(
            "{peer} holds what comes after the data here, so this side must not serve; patch spec.role to Secondary: nothing is lost"
        ),
        reason::SPLIT_BRAIN => format!(
            "this side and {peer} changed data on their own; to keep the data of {peer}, patch here spec.role to Secondary and spec.partition to {{resolution: KeepRemote, epoch: status.epoch.current}}; to keep the data here, do that on {peer}"
        ),
        reason::DUAL_PRIMARY_SUSPECTED => format!(
            "{peer} is said to be Primary too while the link is down; demote one of the two"
        ),
        reason::DISK_FAILED => {
            "the disk or its metadata failed; see StorageHealthy, replace the disk, then delete this object and create it as Secondary".to_owned()
        }
        reason::INVARIANT_VIOLATION => {
            "a combination of role, link and data that should not exist; nothing is done until it passes. If it stays, report it with the replicator's log".to_owned()
        }
        _ => return None,
    })
}

fn promotion(why: &str, names: Names<'_>) -> Option<String> {
    let peer = names.peer();
    Some(match why {
        reason::PEER_IS_PRIMARY => format!(
            "{peer} is Primary and reachable; patch its spec.role to Secondary first. Nothing was changed here"
        ),
        reason::PEER_IS_PRIMARY_OUT_OF_BAND => {
            format!("{peer} is said to be a living Primary; demote it first")
        }
        reason::PROMOTION_CLEAN => "promoted without loss".to_owned(),
        reason::PROMOTION_CLEAN_PEER_SYNCING => {
            format!("promoted without loss while {peer} is being synchronized from here")
        }
        reason::PROMOTION_SEALED => {
            format!("{peer} was demoted cleanly and everything it had is here")
        }
        reason::PROMOTION_NO_PEER => "promoted; no peer is configured".to_owned(),
        reason::PROMOTION_PEER_UNKNOWN => format!(
            "{peer} cannot be reached: promoting with what is here; status.lastTransition.recoveryPoint says how old that is"
        ),
        reason::NEVER_SYNCHRONIZED => format!(
            "this side never held data, there is nothing to promote; connect it to {peer} and wait for the first synchronization, or delete it and create it with role Primary to begin anew"
        ),
        reason::NO_CONSISTENT_DATA => {
            "a synchronization was interrupted and no consistent copy exists here; restore the link and let it finish".to_owned()
        }
        reason::REVERT_THEN_PROMOTE => format!(
            "{peer} cannot be reached and the copy here is inconsistent: it goes back to its snapshot, is promoted, and then says in status.lastTransition.recoveryPoint how old that is"
        ),
        reason::SPLIT_BRAIN_UNRESOLVED => format!(
            "this side and {peer} changed data on their own; choose whose data stay first, by spec.partition: KeepRemote on the side that makes way, or KeepLocal here if {peer} is lost"
        ),
        reason::BEHIND_DEMOTION_TOKEN => format!(
            "{peer} was demoted with more data than is here; restore the link and let it catch up"
        ),
        _ => return None,
    })
}

fn demotion(why: &str, names: Names<'_>) -> Option<String> {
    let peer = names.peer();
    Some(match why {
        reason::DEMOTION_SEALED => {
            format!("stopping the queue manager; {peer} gets everything before the role changes")
        }
        reason::PEER_SYNC_IN_PROGRESS => format!(
            "{peer} is being synchronized from here; the queue manager goes on and is stopped when that is finished"
        ),
        reason::REJOIN_SUPERSEDED => {
            format!("becoming Secondary; {peer} holds newer data and nothing is lost")
        }
        reason::DEMOTED_DIVERGED => {
            "becoming Secondary; the diverged data is kept until a survivor is chosen".to_owned()
        }
        reason::DEMOTION_PEER_PRIMARY => {
            format!("becoming Secondary; {peer} is said to be Primary")
        }
        reason::DEMOTION_UNSEALED_PEER_BEHIND => format!(
            "becoming Secondary while {peer} cannot be reached: it lacks the data that is out of sync"
        ),
        reason::DEMOTION_NO_PEER => {
            "becoming Secondary; no peer is configured and nobody serves".to_owned()
        }
        reason::STOPPING_QUEUE_MANAGER => {
            "waiting until the queue manager is stopped and its volume unmounted".to_owned()
        }
        reason::DEVICE_HELD => {
            "the device is still in use on the node; it is never taken away by force".to_owned()
        }
        _ => return None,
    })
}

fn request(why: &str, names: Names<'_>) -> Option<String> {
    let peer = names.peer();
    Some(match why {
        reason::PEER_UNKNOWN => format!(
            "{peer} cannot be reached and this request may not lose data; to promote with what is here set spec.promotion.whenPeerUnknown to Allow and spec.promotion.requestId to a new string"
        ),
        reason::STALE_ROLE_REQUEST => {
            "spec.role is older than the data, or belongs to another object (a backup, a re-created resource): nothing was changed. If it is meant, set spec.promotion.requestId to a new string".to_owned()
        }
        reason::PREVIOUS_SWITCH_NOT_PROTECTED => format!(
            "{peer} was Primary after this side and is not synchronized to here yet; restore the link and let it catch up, or set spec.promotion.requestId to a new string to accept the loss"
        ),
        reason::TIMED_OUT => {
            "the request waited longer than spec.promotion.timeoutSeconds; to ask again set spec.promotion.requestId to a new string".to_owned()
        }
        reason::ASKING_PEER => {
            format!("asking {peer}, or waiting until the link to it is declared down")
        }
        _ => return None,
    })
}

fn creation(why: &str, names: Names<'_>) -> Option<String> {
    let peer = names.peer();
    Some(match why {
        reason::CREATION => "creating the queue manager's volume".to_owned(),
        reason::PEER_HAS_DATA => format!(
            "{peer} has data of this pair, so this side does not begin an empty queue manager; patch spec.role to Secondary to receive it"
        ),
        reason::PEER_UNREACHABLE_AT_CREATION => format!(
            "{peer} is configured and cannot be reached, or does not know this pair, so it is not known whether it has data; create the other side as Secondary with what `kubectl drqm peer-manifest` prints here, or create this object with spec.bootstrap: New to begin without it"
        ),
        reason::LISTENING_FOR_PEER => {
            format!("listening for {peer} for 30 seconds before beginning without it")
        }
        reason::AUTH_FAILED => format!(
            "something answers at the address of {peer} and the certificates do not match; apply the output of `kubectl drqm peer-manifest` on the other side, or correct spec.replication.peer.addresses"
        ),
        reason::PROTOCOL_MISMATCH => {
            format!("{peer} speaks another protocol version; upgrade the older side")
        }
        reason::PEER_MISMATCH => format!(
            "{peer} refuses the pair; status.conditions PeerConnected and PeerConfigMatches name the difference"
        ),
        reason::DATA_MISSING => {
            "this object once had data and the node has none; an empty queue manager is not made in its place. Bring the disk back, or delete this object and create it as Secondary to get a copy from the peer".to_owned()
        }
        _ => return None,
    })
}
