//! The book of what was written, and the judge of what is found: every write has a number and says which
//! ones were completed before it began.
//!
//! Pure. One write at most is under way per block, so a block shows a write exactly if it holds its number
//! or a later one.

/// Bytes of a block.
pub(crate) const BLOCK: usize = 4096;

/// A block's content: number, block, what it depends on, and the rest told by the number.
pub(crate) fn content(number: u64, block: u32, depends_on: u64) -> Vec<u8> {
    let head = [number, u64::from(block), depends_on];
    let rest = (3..BLOCK as u64 / 8).map(|n| number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n);
    head.into_iter()
        .chain(rest)
        .flat_map(u64::to_le_bytes)
        .collect()
}

/// A write of the present history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write {
    block: u32,
    /// All writes up to this one were completed when it began.
    depends_on: u64,
    /// All writes up to this one were flushed when it began.
    after_flush: u64,
    /// When it was completed, milliseconds since 1970.
    pub(crate) completed: Option<i64>,
    /// When a flush was completed that began after it was completed, milliseconds since 1970.
    pub(crate) flushed: Option<i64>,
}

/// More writes than anybody makes whose history is over.
const ABANDONED: u64 = 1 << 32;

/// What must be there, with a write that is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// Everything that was completed before it began.
    Completions,
    /// Everything that was flushed before it began: power was lost.
    Flushes,
}

/// The history that the device's users have seen.
pub(crate) struct Book {
    /// What each block held when this history began.
    base: Vec<u64>,
    /// Number of the first write of this history.
    first: u64,
    writes: Vec<Write>,
    /// All writes up to this one are completed.
    frontier: u64,
    flushed: u64,
}

impl Book {
    pub(crate) fn new(blocks: usize) -> Self {
        Self {
            base: vec![0; blocks],
            first: 1,
            writes: Vec::new(),
            frontier: 0,
            flushed: 0,
        }
    }

    pub(crate) fn blocks(&self) -> u32 {
        self.base.len() as u32
    }

    /// Writes of this history.
    pub(crate) fn len(&self) -> usize {
        self.writes.len()
    }

    /// A write begins: its number, and what it depends on.
    pub(crate) fn begins(&mut self, block: u32) -> (u64, u64) {
        let number = self.first + self.writes.len() as u64;
        self.writes.push(Write {
            block,
            depends_on: self.frontier,
            after_flush: self.flushed,
            completed: None,
            flushed: None,
        });
        (number, self.frontier)
    }

    pub(crate) fn completed(&mut self, number: u64, at: i64) {
        self.writes[(number - self.first) as usize].completed = Some(at);
        while let Some(next) = self.writes.get((self.frontier + 1 - self.first) as usize)
            && next.completed.is_some()
        {
            self.frontier += 1;
        }
    }

    /// A flush begins: what it will cover.
    pub(crate) fn flush_begins(&self) -> u64 {
        self.frontier
    }

    pub(crate) fn flush_completed(&mut self, covered: u64, at: i64) {
        for number in self.flushed + 1..=covered {
            self.writes[(number - self.first) as usize].flushed = Some(at);
        }
        self.flushed = self.flushed.max(covered);
    }

    /// Judges a copy of the blocks: it holds whole blocks of this history only, is closed, and holds every
    /// write that `required` says. Returns how many completed writes it lacks.
    pub(crate) fn judge(
        &self,
        image: &[u8],
        closed: Closed,
        required: impl Fn(&Write) -> bool,
    ) -> Result<usize, String> {
        let shown = self.shown(image)?;
        let newest = shown.iter().filter_map(|number| self.write(*number));
        let needed = newest.map(|write| match closed {
            Closed::Completions => write.depends_on,
            Closed::Flushes => write.after_flush,
        });
        let closure = needed.max().unwrap_or(0);
        let mut lacking = 0;
        for (number, write) in (self.first..).zip(&self.writes) {
            if shown[write.block as usize] >= number || write.completed.is_none() {
                continue;
            }
            lacking += 1;
            let why = if number <= closure {
                "a write that it shows depends on it"
            } else if required(write) {
                "it was promised"
            } else {
                continue;
            };
            return Err(format!(
                "block {} shows write {}, not {number}: {why}; {write:?}",
                write.block, shown[write.block as usize]
            ));
        }
        Ok(lacking)
    }

    /// The history that begins with this copy; whoever still writes in the old one uses other numbers.
    pub(crate) fn next(&self, image: &[u8]) -> Result<Self, String> {
        let first = self.first + ABANDONED;
        Ok(Self {
            base: self.shown(image)?,
            first,
            writes: Vec::new(),
            frontier: first - 1,
            flushed: first - 1,
        })
    }

    fn write(&self, number: u64) -> Option<&Write> {
        self.writes.get(number.checked_sub(self.first)? as usize)
    }

    /// The number of the write that each block shows.
    fn shown(&self, image: &[u8]) -> Result<Vec<u64>, String> {
        let blocks = image.chunks_exact(BLOCK).zip(&self.base).zip(0..);
        blocks
            .map(|((bytes, base), block)| {
                let word = |n: usize| {
                    let bytes = bytes[n * 8..n * 8 + 8].try_into();
                    u64::from_le_bytes(bytes.expect("eight bytes"))
                };
                let number = word(0);
                let whole = if number == 0 {
                    bytes.iter().all(|byte| *byte == 0)
                } else {
                    bytes == content(number, block, word(2))
                };
                if !whole {
                    return Err(format!(
                        "block {block} is torn: it begins with write {number}"
                    ));
                }
                let known =
                    number == *base || self.write(number).is_some_and(|write| write.block == block);
                if known {
                    Ok(number)
                } else {
                    Err(format!(
                        "block {block} shows write {number}, which is not of this history"
                    ))
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks that hold these writes; a write depends on what the book says.
    fn image(book: &Book, numbers: &[u64]) -> Vec<u8> {
        let block = |(n, number): (usize, &u64)| match book.write(*number) {
            _ if *number == 0 => vec![0; BLOCK],
            Some(write) => content(*number, n as u32, write.depends_on),
            None => content(*number, n as u32, 0),
        };
        numbers.iter().enumerate().flat_map(block).collect()
    }

    /// Three writes, one after the other, to blocks 0, 1, 0; the first two are flushed.
    fn three() -> Book {
        let mut book = Book::new(2);
        for (number, block) in [(1, 0), (2, 1), (3, 0)] {
            assert_eq!(book.begins(block), (number, number - 1));
            if number == 3 {
                let covered = book.flush_begins();
                book.flush_completed(covered, number as i64);
            }
            book.completed(number, number as i64);
        }
        book
    }

    #[test]
    fn prefixes_are_closed_and_nothing_else_is() {
        let book = three();
        for (numbers, lacking) in [([0, 0], 3), ([1, 0], 2), ([1, 2], 1), ([3, 2], 0)] {
            assert_eq!(
                book.judge(&image(&book, &numbers), Closed::Completions, |_| false),
                Ok(lacking)
            );
        }
        for numbers in [[0, 2], [3, 0]] {
            let why = book.judge(&image(&book, &numbers), Closed::Completions, |_| false);
            assert!(why.expect_err("a hole").contains("depends on it"));
        }
    }

    #[test]
    fn a_power_cut_may_lose_anything_after_the_last_flush() {
        // The third write began when the first two were completed, and only then they were flushed.
        let mut book = three();
        assert_eq!(book.begins(1), (4, 3));
        book.completed(4, 4);
        for (numbers, is_sound) in [
            ([0, 2], true),
            ([3, 0], true),
            ([3, 4], true),
            ([0, 4], false),
        ] {
            let judged = book.judge(&image(&book, &numbers), Closed::Flushes, |_| false);
            assert_eq!(judged.is_ok(), is_sound, "{numbers:?}: {judged:?}");
        }
    }

    #[test]
    fn what_was_promised_is_asked_for() {
        let book = three();
        let flushed = |write: &Write| write.flushed.is_some();
        assert_eq!(
            book.judge(&image(&book, &[1, 2]), Closed::Completions, flushed),
            Ok(1)
        );
        let why = book.judge(&image(&book, &[1, 0]), Closed::Completions, flushed);
        assert!(why.expect_err("flushed, and lost").contains("promised"));
    }

    #[test]
    fn torn_blocks_and_other_histories_are_seen() {
        let book = three();
        let mut torn = image(&book, &[3, 2]);
        torn[BLOCK - 1] ^= 1;
        assert!(
            book.judge(&torn, Closed::Flushes, |_| false)
                .expect_err("torn")
                .contains("torn")
        );
        let old = image(&book, &[3, 2]);
        let mut book = book.next(&image(&book, &[1, 2])).expect("sound");
        let (number, depends_on) = book.begins(1);
        assert_eq!(number, depends_on + 1);
        assert_eq!(
            book.judge(&image(&book, &[1, number]), Closed::Completions, |_| true),
            Ok(0)
        );
        let why = book
            .judge(&old, Closed::Flushes, |_| false)
            .expect_err("the lost branch");
        assert!(why.contains("not of this history"), "{why}");
    }
}
