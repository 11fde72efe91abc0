//! A tar archive (POSIX ustar) with the same bytes for the same content: no times, no owners.

use std::io::{self, Write};

/// Header fields and padding come in blocks of this size.
const BLOCK: usize = 512;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
}

/// Writes entries; [`Archive::finish`] writes the end mark.
pub(super) struct Archive<W> {
    output: W,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(output: W) -> Self {
        Self { output }
    }

    /// # Errors
    /// When the path is longer than the format's 100 bytes, the content too large, or writing fails.
    pub(super) fn add(
        &mut self,
        path: &str,
        kind: Kind,
        mode: u32,
        content: &[u8],
    ) -> io::Result<()> {
        self.output
            .write_all(&header(path, kind, mode, content.len())?)?;
        self.output.write_all(content)?;
        let rest = content.len().next_multiple_of(BLOCK) - content.len();
        self.output.write_all(&[0; BLOCK][..rest])
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        self.output.write_all(&[0; 2 * BLOCK])?;
        self.output.flush()?;
        Ok(self.output)
    }
}

/// | offset | size | field |
/// |---|---|---|
/// | 0 | 100 | path, folders with a slash at the end |
/// | 100 | 8 | mode, octal |
/// | 108, 116 | 8, 8 | owner, group: 0 |
/// | 124 | 12 | size, octal |
/// | 136 | 12 | time: 0 |
/// | 148 | 8 | checksum: six octal digits, NUL, space; counted as eight spaces |
/// | 156 | 1 | kind |
/// | 257 | 8 | `ustar`, NUL, `00` |
fn header(path: &str, kind: Kind, mode: u32, size: usize) -> io::Result<[u8; BLOCK]> {
    let (suffix, flag) = match kind {
        Kind::File => ("", b'0'),
        Kind::Folder => ("/", b'5'),
    };
    let path = format!("{path}{suffix}");
    if path.len() > 100 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("too long for an image: {path}"),
        ));
    }
    // Eleven octal digits.
    if size >= 1 << 33 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("too large for an image: {path}"),
        ));
    }
    let mut block = [0; BLOCK];
    let mut put = |offset: usize, text: &str| {
        block[offset..offset + text.len()].copy_from_slice(text.as_bytes());
    };
    put(0, &path);
    put(100, &format!("{mode:07o}"));
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{size:011o}"));
    put(136, "00000000000");
    put(148, "        ");
    put(257, "ustar\x0000");
    block[156] = flag;
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_systems_tar_reads_it() {
        let mut archive = Archive::new(Vec::new());
        archive.add("etc", Kind::Folder, 0o755, &[]).expect("short");
        archive
            .add("etc/x", Kind::File, 0o640, &[7; 1000])
            .expect("short");
        let bytes = archive.finish().expect("in memory");
        assert_eq!(bytes.len() % BLOCK, 0);
        let mut tar = Command::new("tar")
            .args(["-tv", "--numeric-owner"])
            .env("TZ", "UTC")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("tar");
        tar.stdin
            .take()
            .expect("piped")
            .write_all(&bytes)
            .expect("tar reads");
        let output = tar.wait_with_output().expect("tar ends");
        let listing = String::from_utf8(output.stdout).expect("text");
        let lines: Vec<Vec<&str>> = listing
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            lines[0],
            ["drwxr-xr-x", "0/0", "0", "1970-01-01", "00:00", "etc/"]
        );
        assert_eq!(
            lines[1],
            ["-rw-r-----", "0/0", "1000", "1970-01-01", "00:00", "etc/x"]
        );
        assert!(output.status.success());
    }

    #[test]
    fn a_long_path_is_refused() {
        assert!(header(&"x".repeat(101), Kind::File, 0o644, 0).is_err());
    }
}
