//! The file of confirmed numbers: a line `NUMBER UNIX_MILLISECONDS` each, written when the confirmation
//! has arrived, never before.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

/// The file, open for appending.
pub(crate) struct Ledger {
    file: File,
}

impl Ledger {
    /// Opens the file, or makes it.
    pub(crate) fn append_to(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path);
        Ok(Self {
            file: file.with_context(|| format!("cannot open {}", path.display()))?,
        })
    }

    /// Writes a line down; one write, so that a reader sees whole lines.
    pub(crate) fn confirm(&mut self, number: u64) -> Result<()> {
        let line = format!("{number} {}\n", unix_millis());
        self.file
            .write_all(line.as_bytes())
            .context("cannot write the log of confirmed messages")
    }
}

/// Reads the confirmed numbers and when each was first confirmed.
pub(crate) fn read(path: &Path) -> Result<BTreeMap<u64, u64>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| path.display().to_string())
}

fn parse(text: &str) -> Result<BTreeMap<u64, u64>> {
    let mut confirmed = BTreeMap::new();
    // A line without its end was being written when the writer was killed.
    for line in text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
    {
        let (number, time) = line
            .trim()
            .split_once(' ')
            .with_context(|| format!("not a line of ours: {line:?}"))?;
        let number = number
            .parse()
            .with_context(|| format!("not a number: {line:?}"))?;
        let time = time
            .parse()
            .with_context(|| format!("not a time: {line:?}"))?;
        confirmed.entry(number).or_insert(time);
    }
    Ok(confirmed)
}

fn unix_millis() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the clock is past 1970")
        .as_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_a_torn_last_one_is_not() {
        let confirmed = parse("3 1700\n1 1701\n3 1800\n4 17").expect("our own lines");
        assert_eq!(confirmed, BTreeMap::from([(1, 1701), (3, 1700)]));
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        assert!(parse("hello\n").is_err());
        assert!(parse("1 two\n").is_err());
    }
}
