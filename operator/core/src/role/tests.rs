//! The table against its specification, and properties that no row may break.

use super::*;
use crate::testing;

const SPECIFICATION: &str = include_str!("../../tests/role_transitions.csv");

fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for character in line.chars() {
        match character {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            other => fields.last_mut().expect("never empty").push(other),
        }
    }
    fields
}

fn word<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_json::from_value(text.into()).expect("a known word")
}

fn situation_of(row: &[String]) -> Situation {
    Situation {
        desired: word(&row[0]),
        actual: word(&row[1]),
        link: if row[2] == "Up" { Up } else { Down },
        data: word(&row[3]),
        peer: match row[4].as_str() {
            "Primary" => PeerRole::Primary,
            "Secondary" => PeerRole::Secondary,
            "Unknown" => PeerRole::Unknown,
            "Unconfigured" => PeerRole::Unconfigured,
            other => panic!("unknown peer role {other}"),
        },
    }
}

#[test]
fn every_row_of_the_specification() {
    let (mut real, mut impossible) = (0, 0);
    for line in SPECIFICATION.lines().skip(1) {
        let row = fields(line);
        let answer = table(situation_of(&row));
        if row[5] == "Impossible" {
            impossible += 1;
            assert_eq!(
                (answer.verdict, answer.reason),
                (Hold, reason::INVARIANT_VIOLATION),
                "{line}"
            );
        } else {
            real += 1;
            assert_eq!(answer.verdict, word::<VerdictWord>(&row[5]), "{line}");
            assert_eq!(answer.reason, row[7], "{line}");
            assert_eq!(answer.dr_status, word::<DrStatusWord>(&row[8]), "{line}");
        }
    }
    assert_eq!((real, impossible), (98, 158));
}

fn all_situations() -> Vec<Situation> {
    SPECIFICATION
        .lines()
        .skip(1)
        .map(|line| situation_of(&fields(line)))
        .collect()
}

#[test]
fn no_promotion_while_a_reachable_peer_is_primary() {
    for situation in all_situations() {
        let promotion = situation.desired == Role::Primary && situation.actual == Role::Secondary;
        if promotion && situation.link == Up && situation.peer == PeerRole::Primary {
            assert_ne!(table(situation).verdict, Proceed, "{situation:?}");
        }
    }
}

#[test]
fn nothing_empty_inconsistent_or_diverged_is_promoted() {
    for situation in all_situations() {
        let row = table(situation);
        let bad = matches!(
            situation.data,
            Empty | Syncing | InconsistentSnap | InconsistentNoSnap | Diverged
        );
        if situation.desired == Role::Primary && bad && row.verdict == Proceed {
            // The copy goes back to its snapshot first, and is consistent then.
            let found = (situation.data, row.reason);
            assert_eq!(found, (InconsistentSnap, reason::REVERT_THEN_PROMOTE));
        }
    }
}

#[test]
fn a_failed_disk_holds_everything() {
    for situation in all_situations() {
        let failed = Situation {
            data: DataWord::Failed,
            ..situation
        };
        assert_eq!(table(failed).verdict, Hold, "{failed:?}");
    }
}

/// Whatever the replicator reports, the columns made from it are a row that exists, unless it reports
/// a state that the engine must not have.
#[test]
fn observed_states_map_to_rows() {
    let cases: [(Role, Role, LinkState, DataWord, Option<Role>, Row); 9] = {
        use LinkState as L;
        use Role::{Primary as P, Secondary as S};
        [
            // A cut-off Secondary that still says UpToDate, sealed or not: judged as Unknown (E6).
            (
                P,
                S,
                L::Down,
                UpToDate,
                Some(S),
                row(
                    Proceed,
                    reason::PROMOTION_PEER_UNKNOWN,
                    Dr::RemoteUnavailable,
                ),
            ),
            // A Primary behind a Secondary peer (E5).
            (
                P,
                P,
                L::Connected,
                Behind,
                Some(S),
                row(Hold, reason::SUPERSEDED_BY_PEER, Dr::Superseded),
            ),
            (
                P,
                P,
                L::Down,
                Behind,
                None,
                row(Hold, reason::SUPERSEDED_BY_PEER, Dr::Superseded),
            ),
            // Session ended in the middle of a synchronization, on both sides.
            (
                S,
                S,
                L::Down,
                Syncing,
                Some(P),
                row(Steady, reason::INCONSISTENT, Dr::Inconsistent),
            ),
            (
                P,
                P,
                L::Down,
                SyncSource,
                Some(S),
                row(Steady, reason::REMOTE_UNAVAILABLE, Dr::RemoteUnavailable),
            ),
            // Refused for a reason other than divergence: not linked, but a known Primary counts.
            (
                P,
                P,
                L::Refused,
                UpToDate,
                Some(S),
                row(Steady, reason::REMOTE_UNAVAILABLE, Dr::RemoteUnavailable),
            ),
            (
                P,
                S,
                L::Refused,
                UpToDate,
                Some(P),
                row(Refuse, reason::PEER_IS_PRIMARY, Dr::Normal),
            ),
            (
                P,
                P,
                L::Refused,
                Diverged,
                Some(P),
                row(Hold, reason::SPLIT_BRAIN, Dr::Partitioned),
            ),
            // The peer was removed from the spec while diverged.
            (
                P,
                P,
                L::Unconfigured,
                Diverged,
                None,
                row(Hold, reason::SPLIT_BRAIN, Dr::Partitioned),
            ),
        ]
    };
    for (desired, actual, link, data, told, expected) in cases {
        let volume = testing::volume(actual, link, data, told);
        let situation = situation(desired, &volume);
        assert_eq!(table(situation), expected, "{situation:?}");
    }
}

fn row(verdict: VerdictWord, reason: &'static str, dr_status: DrStatusWord) -> Row {
    Row {
        verdict,
        reason,
        dr_status,
    }
}

#[test]
fn every_reason_has_a_text() {
    let names = explain::Names {
        peer: Some("dr2"),
        verdict: Steady,
    };
    for situation in all_situations() {
        let row = table(situation);
        let text = explain::explain(row.reason, names);
        assert_ne!(text, row.reason, "no text for {}", row.reason);
    }
}
