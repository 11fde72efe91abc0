//! Going through a set of chunks: what is left, what is being read, what the peer was asked about.
//!
//! Does not live here: what a read is for ([`super`], [`crate::verify`]).

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use crate::marks::{Bitmap, chunks_of};
use crate::settings::{
    CHUNK_SHIFT, HASHED_BLOCK, HASHED_MAX, RESYNC_RATE_MIN, RESYNC_WINDOW_BYTES,
};
use crate::time::Mono;

/// Reads under way at once.
const READS_MAX: usize = 8;

/// How far a walk may be ahead of its rate: enough that reads do not come one by one.
const PACE_AHEAD: Duration = Duration::from_millis(100);

/// A walk through chunks, at a rate, with a bound of what is under way.
#[derive(Clone, Hash)]
pub(crate) struct Walk {
    pub(crate) pending: Bitmap,
    cursor: u64,
    /// Ranges being read: start → length.
    reading: BTreeMap<u64, u64>,
    /// When what was read so far would have been read at the rate that is allowed.
    paced: Mono,
    /// Ranges whose hashes the peer has and has not answered: start → length.
    asked: BTreeMap<u64, u64>,
    /// Bytes being read, or sent and not answered.
    on_way: u64,
}

impl Walk {
    pub(crate) const fn new(pending: Bitmap, now: Mono) -> Self {
        Self {
            pending,
            cursor: 0,
            reading: BTreeMap::new(),
            paced: now,
            asked: BTreeMap::new(),
            on_way: 0,
        }
    }

    /// Nothing is left to read, and the peer has answered what it was asked.
    pub(crate) fn is_done(&self) -> bool {
        self.pending.count() == 0 && self.reading.is_empty() && self.asked.is_empty()
    }

    /// Chunks that are not through, about.
    pub(crate) fn left(&self) -> u64 {
        let under_way = self.reading.values().chain(self.asked.values());
        self.pending.count()
            + under_way
                .map(|len| len.div_ceil(1 << CHUNK_SHIFT))
                .sum::<u64>()
    }

    fn is_asked(&self, chunk: u64) -> bool {
        let start = chunk << CHUNK_SHIFT;
        let last = self.asked.range(..=start).next_back();
        last.is_some_and(|(offset, len)| start < offset + len)
    }

    pub(crate) fn awaits_answers(&self) -> bool {
        !self.asked.is_empty()
    }

    /// Whether a read may begin: there is room, and the rate allows it.
    pub(crate) fn may_read(&self, now: Mono, rate: Option<u64>) -> bool {
        let room = self.on_way < RESYNC_WINDOW_BYTES && self.reading.len() < READS_MAX;
        room && (rate.is_none() || now >= self.may_read_from())
    }

    /// A little may be read ahead.
    fn may_read_from(&self) -> Mono {
        Mono(self.paced.0.saturating_sub(PACE_AHEAD.as_micros() as u64))
    }

    /// When a read that is held back by its rate may begin.
    pub(crate) fn wakeup(&self, now: Mono, rate: Option<u64>) -> Option<Mono> {
        rate?;
        let next = self.may_read_from();
        (next > now).then_some(next)
    }

    /// Takes the next pending bytes that are free, at most one read's worth.
    pub(crate) fn take(&mut self, size: u64, is_free: impl Fn(u64) -> bool) -> Option<(u64, u64)> {
        let chunks = self.next_run(is_free)?;
        let offset = chunks.start << CHUNK_SHIFT;
        let len = (chunks.end << CHUNK_SHIFT).min(size) - offset;
        for chunk in chunks {
            self.pending.remove(chunk);
        }
        Some((offset, len))
    }

    /// Free pending chunks in a row, from where the last call ended, around.
    fn next_run(&mut self, is_free: impl Fn(u64) -> bool) -> Option<Range<u64>> {
        // What was written beside the stream since it was asked about is asked about once more, later.
        let is_free = |chunk: u64| !self.is_asked(chunk) && is_free(chunk);
        let ahead = self.pending.iter_from(self.cursor);
        let behind = self.pending.iter_from(0).take_while(|c| *c < self.cursor);
        let first = ahead.chain(behind).find(|c| is_free(*c))?;
        let mut end = first + 1;
        while (end + 1 - first) << CHUNK_SHIFT <= HASHED_MAX
            && end < self.pending.chunks()
            && self.pending.contains(end)
            && is_free(end)
        {
            end += 1;
        }
        self.cursor = end;
        Some(first..end)
    }

    pub(crate) fn read_began(&mut self, (offset, len): (u64, u64), now: Mono, rate: Option<u64>) {
        self.reading.insert(offset, len);
        self.on_way += len;
        if let Some(rate) = rate {
            let takes = Duration::from_micros(len * 1_000_000 / rate.max(RESYNC_RATE_MIN));
            self.paced = self.paced.max(now).after(takes);
        }
    }

    pub(crate) fn read_ended(&mut self, offset: u64) {
        self.reading.remove(&offset);
    }

    /// What was read and sent is where it should be.
    pub(crate) const fn arrived(&mut self, len: u64) {
        self.on_way -= len;
    }

    /// The hashes of a range have left.
    pub(crate) fn ask(&mut self, offset: u64, len: u64) {
        self.asked.insert(offset, len);
    }

    /// The peer has compared a range; where it differs, in bytes. `Err` if it was not asked that.
    pub(crate) fn answered(
        &mut self,
        offset: u64,
        blocks: &[(u64, u64)],
    ) -> Result<Vec<(u64, u64)>, String> {
        let Some(len) = self.asked.remove(&offset) else {
            return Err(format!("an answer about {offset}, which was not asked"));
        };
        self.on_way -= len;
        let mut end = 0;
        for (first, count) in blocks {
            let next = first
                .checked_add(*count)
                .filter(|n| *n * HASHED_BLOCK <= len);
            match next {
                Some(next) if *first >= end && *count > 0 => end = next,
                Some(_) | None => return Err("an answer beyond what was asked".to_owned()),
            }
        }
        let bytes =
            |(first, count): &(u64, u64)| (offset + first * HASHED_BLOCK, count * HASHED_BLOCK);
        Ok(blocks.iter().map(bytes).collect())
    }

    /// The session is gone: what is under way must be asked again.
    pub(crate) fn begin_again(&mut self) {
        let reading = std::mem::take(&mut self.reading);
        for (offset, len) in std::mem::take(&mut self.asked).into_iter().chain(reading) {
            for chunk in chunks_of(offset, len) {
                self.pending.insert(chunk);
            }
        }
        self.on_way = 0;
    }
}
