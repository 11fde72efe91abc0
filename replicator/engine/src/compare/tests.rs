use super::*;

fn facts(node: u128, line: &[u128]) -> Facts {
    Facts {
        node: NodeId(node),
        volume: VolumeId(9),
        size: 1 << 20,
        capacity: 1 << 20,
        disk: Disk::Consistent,
        lineage: line.iter().map(|e| Epoch(*e)).collect(),
        ..Facts::default()
    }
}

/// Every state of one side with lineages over three epochs.
fn all(node: u128) -> Vec<Facts> {
    let lines: [&[u128]; 10] = [
        &[1],
        &[2],
        &[3],
        &[2, 1],
        &[3, 1],
        &[1, 2],
        &[3, 2, 1],
        &[3, 2],
        &[2, 3],
        &[2, 3, 1],
    ];
    let other = NodeId(3 - node);
    let position = |run, seq| {
        Some(Position {
            run: RunId(run),
            seq: Seq(seq),
            ..Position::default()
        })
    };
    let mut states = vec![Facts {
        disk: Disk::Empty,
        volume: VolumeId::NONE,
        ..facts(node, &[])
    }];
    for line in lines {
        for bits in 0..1_u32 << 9 {
            let bit = |n: u32| bits >> n & 1 == 1;
            let base = facts(node, line);
            states.push(Facts {
                role: if bit(0) {
                    Role::Primary
                } else {
                    Role::Secondary
                },
                disk: if bit(1) && !bit(0) {
                    Disk::Inconsistent
                } else {
                    Disk::Consistent
                },
                full_dirty: bit(2),
                crashed_primary: bit(3),
                dirty: u64::from(bit(4)) * 2,
                dirty_after: u64::from(bit(4) && bit(5)),
                base_index: u32::from(bit(5)),
                grant: bit(6).then_some(Grant {
                    epoch: Epoch(3),
                    to: other,
                }),
                tail: bit(7).then(|| position(5, 7)).flatten(),
                fork: bit(8)
                    .then(|| position(5, if bit(5) { 9 } else { 3 }))
                    .flatten(),
                completion_sent: bit(8).then(|| SentCompletion {
                    id: ResyncId(4),
                    epoch: base.lineage[0],
                }),
                adopted: ResyncId(if bit(7) { 4 } else { 0 }),
                role_epoch: Epoch(if bit(3) { line[0] } else { 0 }),
                run: RunId(u128::from(bit(0)) * 6),
                log: (bit(0) && bit(6)).then_some(LogRange {
                    from: Seq(2),
                    last: Seq(if bit(8) { 4 } else { 2 }),
                    is_empty: bit(5) || !bit(8),
                }),
                position: position(if bit(3) { 5 } else { 6 }, if bit(7) { 3 } else { 4 }),
                ..base
            });
        }
    }
    states
}

/// Some of them, each with everything that a person may have given it up for.
fn with_choices(node: u128) -> Vec<Facts> {
    let some = all(node).into_iter().step_by(29);
    let chosen = |f: Facts| {
        [0, 1, 2, 3].map(|epoch| Facts {
            given_up_for: Epoch(epoch),
            ..f.clone()
        })
    };
    some.flat_map(chosen).collect()
}

fn pairs() -> [(Vec<Facts>, Vec<Facts>); 2] {
    [(all(1), all(2)), (with_choices(1), with_choices(2))]
}

#[test]
fn both_sides_decide_mirror_images() {
    let mut kinds = std::collections::HashSet::new();
    for (left, right) in pairs() {
        for a in &left {
            for b in &right {
                let d = decide(a, b);
                assert_eq!(d, decide(b, a).mirrored(), "\n{a:?}\n{b:?}");
                kinds.insert(d);
            }
        }
    }
    assert!(
        kinds.len() >= 15,
        "the states reach too few decisions: {kinds:?}"
    );
}

/// Differences that no completion has resolved meanwhile.
fn unresolved(mine: &Facts, theirs: &Facts) -> bool {
    !completion_arrived(mine, theirs) && (mine.crashed_primary || mine.full_dirty)
}

#[test]
fn no_decision_sends_from_a_bad_copy_or_to_a_primary() {
    for (left, right) in pairs() {
        for a in &left {
            right.iter().for_each(|b| assert_sound(a, b));
        }
    }
}

fn assert_sound(a: &Facts, b: &Facts) {
    match decide(a, b) {
        Decision::Source(extent) => {
            assert_eq!(a.disk, Disk::Consistent);
            assert_eq!(b.role, Role::Secondary);
            let full = |x: &Facts, y| x.full_dirty && !completion_arrived(x, y);
            let unknown = full(a, b) || full(b, a) || b.disk == Disk::Empty;
            assert!(extent == Extent::Full || !unknown);
            if extent == Extent::Log {
                assert_served_from_log(a, b);
            }
            // A history of its own makes way only where a person has said so.
            if !matches!(by_history(a, b), Decision::Source(_)) {
                assert!(a.lineage.contains(&b.given_up_for));
            }
        }
        Decision::InSync => {
            assert!(a.disk == Disk::Consistent && b.disk == Disk::Consistent);
            assert!(!unresolved(a, b) && !unresolved(b, a));
        }
        Decision::Superseded => assert_eq!(a.role, Role::Primary),
        Decision::AwaitFirstPrimary
        | Decision::Target(_)
        | Decision::Superseding
        | Decision::Partitioned(_)
        | Decision::Refused(_) => {}
    }
}

#[test]
fn a_choice_ends_a_partition_and_nothing_else() {
    let (winner, loser) = (facts(1, &[3, 1]), facts(2, &[2, 1]));
    let reaching = |f: &Facts, base_index| Facts {
        base_index,
        ..f.clone()
    };
    let given_up = |f: &Facts| Facts {
        given_up_for: Epoch(3),
        ..f.clone()
    };
    let parted = Decision::Partitioned(Parted::Diverged);
    assert_eq!(decide(&winner, &loser), parted);
    let all = decide(&winner, &given_up(&loser));
    assert_eq!(all, Decision::Source(Extent::Full));
    let delta = decide(&reaching(&winner, 1), &given_up(&reaching(&loser, 1)));
    assert_eq!(delta, Decision::Source(Extent::Bitmap));
    let primary = Facts {
        role: Role::Primary,
        ..given_up(&loser)
    };
    assert_eq!(decide(&winner, &primary), parted);
    let other = facts(1, &[4, 1]);
    assert_eq!(decide(&other, &given_up(&loser)), parted);
    // The winner has crashed since, and no longer knows of its tail; the copy had begun to arrive.
    let (behind, before) = (facts(1, &[3]), facts(2, &[4, 3]));
    for disk in [Disk::Consistent, Disk::Inconsistent] {
        let ahead = Facts {
            disk,
            ..before.clone()
        };
        assert_ne!(decide(&behind, &ahead), Decision::Source(Extent::Full));
        let on = decide(&behind, &given_up(&ahead));
        assert_eq!(on, Decision::Source(Extent::Full));
    }
    // The winner has gone on.
    let later = facts(1, &[5, 3, 1]);
    let on = decide(&later, &given_up(&loser));
    assert_eq!(on, Decision::Source(Extent::Full));
    let both = Facts {
        given_up_for: Epoch(2),
        ..winner
    };
    assert_eq!(decide(&both, &given_up(&loser)), parted);
}

/// The log holds everything in which two consistent copies differ.
fn assert_served_from_log(source: &Facts, target: &Facts) {
    assert_eq!(target.disk, Disk::Consistent);
    assert!(!unresolved(source, target) && !target.crashed_primary);
    let arrived = completion_arrived(source, target);
    let dirty = if arrived {
        source.dirty_after
    } else {
        source.dirty
    };
    assert_eq!(dirty, 0);
    let (log, at) = (
        source.log.expect("a log"),
        target.position.expect("a position"),
    );
    assert_eq!(at.run, source.run);
    assert!(log.from <= at.seq && at.seq < log.last);
}

#[test]
fn a_log_serves_whoever_stands_in_it_and_lacks_nothing_else() {
    let place = |run, seq| {
        Some(Position {
            run: RunId(run),
            seq: Seq(seq),
            ..Position::default()
        })
    };
    let source = Facts {
        role: Role::Primary,
        run: RunId(6),
        base_index: 1,
        log: Some(LogRange {
            from: Seq(10),
            last: Seq(20),
            is_empty: false,
        }),
        ..facts(1, &[2, 1])
    };
    let target = |head: &[u128], run, seq| Facts {
        position: place(run, seq),
        ..facts(2, head)
    };
    let replay = Decision::Source(Extent::Log);
    for seq in [10, 19] {
        assert_eq!(decide(&source, &target(&[1], 6, seq)), replay);
        assert_eq!(decide(&source, &target(&[2, 1], 6, seq)), replay);
    }
    assert_eq!(decide(&source, &target(&[2, 1], 6, 20)), Decision::InSync);
    let bitmap = Decision::Source(Extent::Bitmap);
    for (run, seq) in [(6, 9), (6, 21), (5, 15)] {
        assert_eq!(decide(&source, &target(&[1], run, seq)), bitmap);
        assert_eq!(decide(&source, &target(&[2, 1], run, seq)), bitmap);
    }
    for target in [
        Facts {
            dirty: 1,
            ..target(&[1], 6, 15)
        },
        Facts {
            disk: Disk::Inconsistent,
            ..target(&[1], 6, 15)
        },
        Facts {
            crashed_primary: true,
            ..target(&[1], 6, 15)
        },
    ] {
        assert_eq!(decide(&source, &target), bitmap);
    }
    let marked = Facts { dirty: 1, ..source };
    assert_eq!(decide(&marked, &target(&[1], 6, 15)), bitmap);
}

#[test]
fn an_empty_side_gets_everything() {
    let empty = Facts {
        disk: Disk::Empty,
        volume: VolumeId::NONE,
        ..facts(1, &[])
    };
    assert_eq!(
        decide(&empty, &facts(2, &[1])),
        Decision::Target(Extent::Full)
    );
    let other = Facts {
        node: NodeId(2),
        ..empty.clone()
    };
    assert_eq!(decide(&empty, &other), Decision::AwaitFirstPrimary);
}

#[test]
fn a_primary_behind_anyone_is_superseded() {
    let old = Facts {
        role: Role::Primary,
        crashed_primary: true,
        ..facts(1, &[1])
    };
    for role in [Role::Primary, Role::Secondary] {
        let new = Facts {
            role,
            base_index: 1,
            ..facts(2, &[2, 1])
        };
        assert_eq!(decide(&old, &new), Decision::Superseded);
    }
}

/// E1: asynchronous write, link cut before delivery, promote B, heal, demote A.
#[test]
fn a_completed_tail_beyond_the_fork_is_a_partition() {
    let at = |seq| {
        Some(Position {
            run: RunId(5),
            seq: Seq(seq),
            ..Position::default()
        })
    };
    let new = Facts {
        role: Role::Primary,
        base_index: 1,
        fork: at(6),
        ..facts(2, &[2, 1])
    };
    let old = |tail, role| Facts {
        role,
        tail,
        ..facts(1, &[1])
    };
    assert_eq!(
        decide(&old(at(7), Role::Primary), &new),
        Decision::Partitioned(Parted::Tail)
    );
    assert_eq!(
        decide(&old(at(7), Role::Secondary), &new),
        Decision::Partitioned(Parted::Tail)
    );
    assert_eq!(
        decide(&old(at(6), Role::Primary), &new),
        Decision::Superseded
    );
    assert_eq!(
        decide(&old(None, Role::Secondary), &new),
        Decision::Target(Extent::Bitmap)
    );
}

/// E2: a lost confirmation must lock nobody.
#[test]
fn a_used_grant_counts_as_the_grantors_head() {
    let grantor = Facts {
        grant: Some(Grant {
            epoch: Epoch(2),
            to: NodeId(2),
        }),
        ..facts(1, &[1])
    };
    let user = Facts {
        role: Role::Primary,
        base_index: 1,
        ..facts(2, &[2, 1])
    };
    assert_eq!(decide(&grantor, &user), Decision::InSync);
    let unused = facts(2, &[1]);
    assert_eq!(decide(&grantor, &unused), Decision::InSync);
}

/// E3: the acknowledgement of a completion is lost.
#[test]
fn a_lost_adoption_is_received_by_the_handshake_only_in_the_same_process_and_epoch() {
    let sent = Some(SentCompletion {
        id: ResyncId(4),
        epoch: Epoch(1),
    });
    let source = Facts {
        role: Role::Primary,
        dirty: 9,
        completion_sent: sent,
        ..facts(1, &[1])
    };
    let target = Facts {
        adopted: ResyncId(4),
        ..facts(2, &[1])
    };
    assert_eq!(decide(&source, &target), Decision::InSync);
    let wrote_since = Facts {
        dirty_after: 1,
        ..source.clone()
    };
    assert_eq!(
        decide(&wrote_since, &target),
        Decision::Source(Extent::Bitmap)
    );
    let restarted = Facts {
        completion_sent: None,
        ..source.clone()
    };
    assert_eq!(
        decide(&restarted, &target),
        Decision::Source(Extent::Bitmap)
    );
    let other = Facts {
        adopted: ResyncId(3),
        ..target
    };
    assert_eq!(decide(&source, &other), Decision::Source(Extent::Bitmap));
}

#[test]
fn two_histories_are_partitioned_and_strangers_are_refused() {
    assert_eq!(
        decide(&facts(1, &[2, 1]), &facts(2, &[3, 1])),
        Decision::Partitioned(Parted::Diverged)
    );
    assert_eq!(
        decide(&facts(1, &[2]), &facts(2, &[3])),
        Decision::Refused(Mismatch::UnrelatedData)
    );
    let big = Facts {
        size: 2 << 20,
        capacity: 2 << 20,
        ..facts(2, &[1])
    };
    let small = facts(1, &[1]);
    assert_eq!(decide(&small, &big), Decision::Refused(Mismatch::Size));
    // It has room for what it missed.
    let roomy = Facts {
        capacity: 3 << 20,
        ..small
    };
    assert_eq!(decide(&roomy, &big), Decision::InSync);
}
