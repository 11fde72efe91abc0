//! The first Primary of a pair: may this side begin an empty queue manager?
//!
//! Lives here: the creation table (one row per answer of the peer). Does not live here: when a request
//! is about creation (`request`), what a Secondary does (it is configured, and receives).
//!
//! Nothing begins beside a peer that has data, and nothing begins without the peer's word unless
//! `bootstrap: New` says so, after listening for a while.

use std::time::Duration;

use drqm_api::conditions::reason;
use drqm_api::v1alpha1::{Bootstrap, DataWord, Role, VerdictWord};
use jiff::Timestamp;

use crate::observed::{LinkState, Volume};

/// How long `bootstrap: New` listens for the peer.
pub const LISTEN: Duration = Duration::from_secs(30);

/// What becomes of the first request for a Primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// Verdict.
    pub verdict: VerdictWord,
    /// Reason.
    pub reason: &'static str,
    /// For `Proceed`: whether to begin without the peer's word.
    pub without_peer: bool,
}

impl Beginning {
    fn held_back(verdict: VerdictWord, reason: &'static str) -> Self {
        Self {
            verdict,
            reason,
            without_peer: false,
        }
    }

    fn begin(without_peer: bool) -> Self {
        Self {
            verdict: VerdictWord::Proceed,
            reason: reason::CREATION,
            without_peer,
        }
    }
}

/// The creation table. `since` is when the request was first judged.
#[must_use]
pub fn beginning(
    volume: &Volume,
    bootstrap: Bootstrap,
    since: Timestamp,
    now: Timestamp,
) -> Beginning {
    use VerdictWord::{Hold, Refuse, Wait};
    match volume.link.state {
        LinkState::Unconfigured => Beginning::begin(true),
        LinkState::Connected => connected(volume),
        LinkState::AuthFailed => Beginning::held_back(Hold, reason::AUTH_FAILED),
        LinkState::ProtocolMismatch => Beginning::held_back(Hold, reason::PROTOCOL_MISMATCH),
        LinkState::Refused => Beginning::held_back(Refuse, reason::PEER_MISMATCH),
        LinkState::Connecting | LinkState::Down => match bootstrap {
            Bootstrap::Auto => Beginning::held_back(Wait, reason::PEER_UNREACHABLE_AT_CREATION),
            Bootstrap::New if listened(since, now) && volume.link.state == LinkState::Down => {
                Beginning::begin(true)
            }
            Bootstrap::New => Beginning::held_back(Wait, reason::LISTENING_FOR_PEER),
        },
    }
}

fn connected(volume: &Volume) -> Beginning {
    use VerdictWord::{Refuse, Wait};
    let Some(peer) = &volume.peer else {
        return Beginning::held_back(Wait, reason::ASKING_PEER);
    };
    match (peer.data, peer.role) {
        (Some(DataWord::Empty), Some(Role::Secondary)) => Beginning::begin(false),
        (None, _) | (_, None) => Beginning::held_back(Wait, reason::ASKING_PEER),
        (Some(_), Some(Role::Primary | Role::Secondary)) => {
            Beginning::held_back(Refuse, reason::PEER_HAS_DATA)
        }
    }
}

fn listened(since: Timestamp, now: Timestamp) -> bool {
    Duration::try_from(now.duration_since(since)).is_ok_and(|elapsed| elapsed >= LISTEN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{now, seconds_ago, volume};
    use LinkState as L;
    use Role::{Primary as P, Secondary as S};
    use VerdictWord::{Hold, Proceed, Refuse, Wait};

    fn empty(link: L, peer: Option<(Role, DataWord)>) -> Volume {
        let mut volume = volume(S, link, DataWord::Empty, peer.map(|(role, _)| role));
        if let (Some(told), Some((_, data))) = (volume.peer.as_mut(), peer) {
            told.data = Some(data);
        }
        volume
    }

    #[test]
    fn the_creation_table() {
        let auto = Bootstrap::Auto;
        let new = Bootstrap::New;
        let old = 31;
        let cases = [
            (
                L::Unconfigured,
                None,
                auto,
                0,
                (Proceed, reason::CREATION, true),
            ),
            (
                L::Connected,
                Some((S, DataWord::Empty)),
                auto,
                0,
                (Proceed, reason::CREATION, false),
            ),
            (
                L::Connected,
                Some((S, DataWord::Empty)),
                new,
                0,
                (Proceed, reason::CREATION, false),
            ),
            (
                L::Connected,
                Some((S, DataWord::UpToDate)),
                new,
                old,
                (Refuse, reason::PEER_HAS_DATA, false),
            ),
            (
                L::Connected,
                Some((P, DataWord::UpToDate)),
                new,
                old,
                (Refuse, reason::PEER_HAS_DATA, false),
            ),
            (
                L::Connected,
                Some((S, DataWord::InconsistentNoSnap)),
                auto,
                0,
                (Refuse, reason::PEER_HAS_DATA, false),
            ),
            (
                L::Connected,
                None,
                auto,
                0,
                (Wait, reason::ASKING_PEER, false),
            ),
            (
                L::AuthFailed,
                None,
                new,
                old,
                (Hold, reason::AUTH_FAILED, false),
            ),
            (
                L::ProtocolMismatch,
                None,
                new,
                old,
                (Hold, reason::PROTOCOL_MISMATCH, false),
            ),
            (
                L::Refused,
                None,
                new,
                old,
                (Refuse, reason::PEER_MISMATCH, false),
            ),
            (
                L::Down,
                None,
                auto,
                old,
                (Wait, reason::PEER_UNREACHABLE_AT_CREATION, false),
            ),
            (
                L::Down,
                None,
                new,
                29,
                (Wait, reason::LISTENING_FOR_PEER, false),
            ),
            (
                L::Connecting,
                None,
                new,
                old,
                (Wait, reason::LISTENING_FOR_PEER, false),
            ),
            (L::Down, None, new, old, (Proceed, reason::CREATION, true)),
        ];
        for (link, peer, bootstrap, age, (verdict, reason, without_peer)) in cases {
            let answer = beginning(&empty(link, peer), bootstrap, seconds_ago(age), now());
            let expected = Beginning {
                verdict,
                reason,
                without_peer,
            };
            assert_eq!(answer, expected, "{link:?} {peer:?} {bootstrap:?} {age}");
        }
    }
}
