//! Which of two connections to the same peer lives on. Pure; both ends come to the same answer.

use drqm_engine::ids::NodeId;

/// What is known of a connection once the peer has said Hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// The peer process' start.
    pub(crate) boot: u128,
    /// Whether this side dialled it.
    pub(crate) dialled: bool,
}

/// What becomes of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crossing {
    /// The new one takes the place of the old one.
    Replace,
    /// The old one stays, the new one is closed.
    KeepOld,
}

/// Decides between a connection that is in use and a new one.
pub(crate) fn crossing(own: NodeId, peer: NodeId, old: Option<Known>, new: Known) -> Crossing {
    match old {
        None => Crossing::Replace,
        // The peer was restarted: the old connection is dead, known or not.
        Some(old) if old.boot != new.boot => Crossing::Replace,
        // The same side dialled twice: it has given the first one up.
        Some(old) if old.dialled == new.dialled => Crossing::Replace,
        // They crossed: the one that the lower node dialled wins.
        Some(_) if new.dialled == (own < peer) => Crossing::Replace,
        Some(_) => Crossing::KeepOld,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW: NodeId = NodeId(1);
    const HIGH: NodeId = NodeId(2);

    fn known(dialled: bool) -> Known {
        Known { boot: 7, dialled }
    }

    #[test]
    fn both_ends_keep_the_connection_that_the_lower_node_dialled() {
        for first_is_lows in [true, false] {
            // As the low node sees it, and as the high node sees the same two connections.
            let low = crossing(LOW, HIGH, Some(known(first_is_lows)), known(!first_is_lows));
            let high = crossing(HIGH, LOW, Some(known(!first_is_lows)), known(first_is_lows));
            assert_eq!(low, high);
            assert_eq!(low == Crossing::KeepOld, first_is_lows);
        }
    }

    #[test]
    fn a_restarted_peer_replaces_its_old_connection() {
        let new = Known {
            boot: 8,
            dialled: false,
        };
        assert_eq!(
            crossing(LOW, HIGH, Some(known(true)), new),
            Crossing::Replace
        );
        assert_eq!(
            crossing(HIGH, LOW, Some(known(true)), new),
            Crossing::Replace
        );
    }

    #[test]
    fn a_second_dial_of_the_same_side_replaces_the_first() {
        for dialled in [true, false] {
            assert_eq!(
                crossing(LOW, HIGH, Some(known(dialled)), known(dialled)),
                Crossing::Replace
            );
        }
    }
}
