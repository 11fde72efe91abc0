//! The activity log: which 4 MiB extents may hold writes that a crash would leave in doubt.
//!
//! A data write starts only when its extents are in a durable transaction (R-AL1). Every transaction
//! holds the complete active set, so recovery takes the newest valid one. One transaction is under
//! way at a time; what is needed meanwhile joins the next (R-AL3). Who writes one extent after the other gets
//! some ahead in the same transaction (R-AL4). What stands after the newest valid one and cannot be read was torn by
//! the crash, and then nothing was written under it, or has been durable and is lost: that looks the same (R-AL6).
//!
//! Does not live here: what must be durable before an extent leaves the set (the engine flushes data
//! and pages first, R-AL2).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::ids::NodeId;
use crate::meta::codec::{Reader, Writer};
use crate::meta::{self, ACTIVITY, ACTIVITY_SLOTS, ACTIVITY_STRIDE, BLOCK, Kind};
use crate::settings::EXTENT_SHIFT;

/// Extents in one transaction: what fits its block.
pub(crate) const ACTIVE_MAX: usize = 1000;

/// Extents that join with one that follows the last: 32 MiB in one transaction.
const AHEAD: u64 = 8;

/// With so many waiting for a transaction, none joins ahead: those that leave for them must be found.
const WANTED_MAX: usize = 32;

/// Extents that a byte range touches.
pub(crate) fn extents_of(offset: u64, len: u64) -> std::ops::RangeInclusive<u64> {
    offset >> EXTENT_SHIFT..=(offset + len.max(1) - 1) >> EXTENT_SHIFT
}

/// The active set and its transactions.
#[derive(Clone, Hash)]
pub(crate) struct ActivityLog {
    /// Durable members, with the time of their last use.
    active: BTreeMap<u64, u64>,
    wanted: BTreeSet<u64>,
    under_way: Option<BTreeSet<u64>>,
    seq: u64,
    clock: u64,
    /// The last extent that joined, and how many the volume has.
    last: u64,
    count: u64,
    /// There may have been a newer transaction: its place held something that could not be read.
    may_be_incomplete: bool,
}

impl ActivityLog {
    /// From the metadata.
    pub(crate) fn load(raw: &[u8], node: NodeId, size: u64) -> Self {
        let blocks = (0..ACTIVITY_SLOTS).map(|s| ACTIVITY + s * ACTIVITY_STRIDE);
        let mut log = Self {
            active: BTreeMap::new(),
            wanted: BTreeSet::new(),
            under_way: None,
            seq: 0,
            clock: 0,
            last: u64::MAX,
            count: 0,
            may_be_incomplete: false,
        };
        log.grow(size);
        if let Some((seq, body)) = meta::newest(raw, Kind::ActivityLog, node, blocks) {
            log.seq = seq;
            let mut r = Reader(body);
            let count = r.word().unwrap_or(0).min(ACTIVE_MAX as u64);
            for _ in 0..count {
                let low = r.byte().zip(r.byte()).zip(r.byte().zip(r.byte()));
                if let Some(((a, b), (c, d))) = low {
                    log.active
                        .insert(u64::from(u32::from_le_bytes([a, b, c, d])), 0);
                }
            }
        }
        let next = Self::place(log.seq + 1);
        log.may_be_incomplete = meta::unseal(raw, Kind::ActivityLog, Some(node), next).is_none()
            && meta::block(raw, next).is_some_and(|block| block.iter().any(|b| *b != 0));
        log
    }

    /// Whether there may have been a newer transaction than the newest that could be read: until the
    /// next one takes its place.
    pub(crate) const fn may_be_incomplete(&self) -> bool {
        self.may_be_incomplete
    }

    /// The block of a transaction.
    const fn place(seq: u64) -> u64 {
        ACTIVITY + seq % ACTIVITY_SLOTS * ACTIVITY_STRIDE
    }

    /// The volume has so many bytes.
    pub(crate) const fn grow(&mut self, size: u64) {
        self.count = size.div_ceil(1 << EXTENT_SHIFT);
    }

    /// The active set.
    pub(crate) fn extents(&self) -> impl Iterator<Item = u64> {
        self.active.keys().copied()
    }

    /// Whether every extent of the range may be written now; asks for those that may not.
    pub(crate) fn covers(&mut self, offset: u64, len: u64) -> bool {
        self.clock += 1;
        let mut all = true;
        for extent in extents_of(offset, len) {
            match self.active.get_mut(&extent) {
                Some(used) => *used = self.clock,
                None => {
                    self.want(extent);
                    all = false;
                }
            }
        }
        all
    }

    fn want(&mut self, extent: u64) {
        if self.under_way.as_ref().is_some_and(|u| u.contains(&extent)) {
            return;
        }
        let follows = self.last.checked_add(1) == Some(extent);
        let ahead = if follows && self.wanted.len() < WANTED_MAX {
            AHEAD
        } else {
            1
        };
        if self.wanted.insert(extent) {
            self.last = extent + ahead - 1;
            let more = extent + 1..(extent + ahead).min(self.count);
            self.wanted
                .extend(more.filter(|e| !self.active.contains_key(e)));
        }
    }

    /// The moment of the last use, for [`ActivityLog::used_since`].
    pub(crate) const fn moment(&self) -> u64 {
        self.clock
    }

    /// Whether one of the extents was used after that moment.
    pub(crate) fn used_since(&self, extents: &[u64], moment: u64) -> bool {
        extents
            .iter()
            .any(|e| self.active.get(e).is_some_and(|used| *used > moment))
    }

    /// Whether a transaction is needed and none is under way.
    pub(crate) fn is_due(&self) -> bool {
        self.under_way.is_none() && !self.wanted.is_empty()
    }

    pub(crate) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Least recently used extents that must leave so that the wanted ones fit; `None` if too many
    /// of them are in use.
    pub(crate) fn victims(&self, in_use: impl Fn(u64) -> bool) -> Option<Vec<u64>> {
        let excess = (self.active.len() + self.wanted.len()).saturating_sub(ACTIVE_MAX);
        let mut idle: Vec<(u64, u64)> = self
            .active
            .iter()
            .filter(|(extent, _)| !in_use(**extent))
            .map(|(extent, used)| (*used, *extent))
            .collect();
        if idle.len() < excess {
            return None;
        }
        idle.sort_unstable();
        Some(
            idle.into_iter()
                .take(excess)
                .map(|(_, extent)| extent)
                .collect(),
        )
    }

    /// The next transaction, without the victims: `(offset, block)`.
    pub(crate) fn begin(&mut self, node: NodeId, victims: &[u64]) -> (u64, Bytes) {
        for victim in victims {
            self.active.remove(victim);
        }
        // What was asked for since the victims were chosen waits for the next.
        let free = ACTIVE_MAX.saturating_sub(self.active.len());
        let rest = self.wanted.iter().nth(free).copied();
        let later = rest.map(|first| self.wanted.split_off(&first));
        let joining = std::mem::replace(&mut self.wanted, later.unwrap_or_default());
        let set: BTreeSet<u64> = self
            .active
            .keys()
            .copied()
            .chain(joining.iter().copied())
            .collect();
        self.under_way = Some(joining);
        self.transaction(node, &set)
    }

    /// A transaction with nobody in it: everything is settled.
    pub(crate) fn begin_empty(&mut self, node: NodeId) -> (u64, Bytes) {
        self.active.clear();
        self.wanted.clear();
        self.under_way = Some(BTreeSet::new());
        self.transaction(node, &BTreeSet::new())
    }

    fn transaction(&mut self, node: NodeId, set: &BTreeSet<u64>) -> (u64, Bytes) {
        let mut w = Writer::default();
        w.word(set.len() as u64);
        for extent in set {
            w.0.extend_from_slice(&(*extent as u32).to_le_bytes());
        }
        self.seq += 1;
        self.may_be_incomplete = false;
        let block = Self::place(self.seq);
        (
            block * BLOCK as u64,
            meta::seal(Kind::ActivityLog, node, block, self.seq, &w.0),
        )
    }

    /// The transaction under way is durable.
    pub(crate) fn ended(&mut self) {
        for extent in self.under_way.take().into_iter().flatten() {
            self.active.insert(extent, self.clock);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extent_counts_only_when_its_transaction_ended_and_the_newest_one_is_recovered() {
        let node = NodeId(4);
        let mut log = ActivityLog::load(&[], node, 6000 << EXTENT_SHIFT);
        let mut raw = vec![0; (ACTIVITY + ACTIVITY_SLOTS * ACTIVITY_STRIDE) as usize * BLOCK];
        let mut put = |(offset, block): (u64, Bytes)| {
            raw[offset as usize..offset as usize + BLOCK].copy_from_slice(&block);
            ActivityLog::load(&raw, node, 6000 << EXTENT_SHIFT)
                .extents()
                .collect::<Vec<_>>()
        };
        assert!(!log.covers(0, 4096) && log.is_due());
        assert_eq!(put(log.begin(node, &[])), [0]);
        assert!(
            !log.covers(0, 4096) && log.wanted.is_empty(),
            "it is on its way"
        );
        assert!(!log.covers(5 << EXTENT_SHIFT, 1));
        log.ended();
        assert!(log.covers(0, 4096) && log.is_due());
        assert_eq!(put(log.begin(node, &[])), [0, 5]);
        log.ended();
        assert_eq!(put(log.begin_empty(node)), Vec::<u64>::new());
    }

    #[test]
    fn only_what_cannot_be_read_after_the_newest_leaves_doubt() {
        let node = NodeId(4);
        let mut log = ActivityLog::load(&[], node, 6000 << EXTENT_SHIFT);
        let mut raw = vec![0; (ACTIVITY + ACTIVITY_SLOTS * ACTIVITY_STRIDE) as usize * BLOCK];
        for extent in (0..4 * ACTIVITY_SLOTS).step_by(2) {
            assert!(!log.covers(extent << EXTENT_SHIFT, 1));
            let (offset, block) = log.begin(node, &[]);
            let place = offset as usize..offset as usize + BLOCK;
            let before = raw[place.clone()].to_vec();
            raw[place.clone()].copy_from_slice(&block);
            assert!(!ActivityLog::load(&raw, node, 0).may_be_incomplete());
            raw[place.start + BLOCK - 1] ^= 1;
            assert!(ActivityLog::load(&raw, node, 0).may_be_incomplete());
            raw[place.clone()].copy_from_slice(&before);
            assert!(!ActivityLog::load(&raw, node, 0).may_be_incomplete());
            raw[place].copy_from_slice(&block);
            log.ended();
        }
    }

    #[test]
    fn who_writes_on_gets_extents_ahead() {
        let node = NodeId(4);
        let transactions = |extents: std::ops::Range<u64>, step: usize| {
            let mut log = ActivityLog::load(&[], node, 2000 << EXTENT_SHIFT);
            let mut count = 0;
            for extent in extents.step_by(step) {
                while !log.covers(extent << EXTENT_SHIFT, 4096) {
                    let victims = log.victims(|_| false).expect("nobody is in use");
                    let _ = log.begin(node, &victims);
                    log.ended();
                    count += 1;
                }
                assert!(log.active.len() <= ACTIVE_MAX);
                assert!(log.extents().all(|e| e < 2000));
            }
            count
        };
        assert_eq!(transactions(0..800, 1), 101);
        assert_eq!(transactions(0..800, 2), 400);
        assert_eq!(transactions(0..2000, 1), 251);
    }

    #[test]
    fn the_least_recently_used_leave_first_and_never_those_in_use() {
        let node = NodeId(4);
        let mut log = ActivityLog::load(&[], node, 6000 << EXTENT_SHIFT);
        for extent in 0..ACTIVE_MAX as u64 {
            log.covers(extent << EXTENT_SHIFT, 1);
        }
        let _ = log.begin(node, &[]);
        log.ended();
        log.covers(0, 1);
        log.covers(5000 << EXTENT_SHIFT, 1);
        assert_eq!(log.victims(|e| e == 1), Some(vec![2]));
        assert_eq!(log.victims(|_| true), None);
        let _ = log.begin(node, &[2]);
        log.ended();
        assert!(!log.covers(2 << EXTENT_SHIFT, 1) && log.covers(5000 << EXTENT_SHIFT, 1));
    }
}
