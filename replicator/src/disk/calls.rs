//! The system calls behind a job: pread, pwrite, fdatasync, fallocate. Blocking.
//!
//! Guarantees: a read returns exactly what was asked; a write that is reported done was written
//! whole, and durably if that was asked; a failed flush is reported once and never repeated.
//!
//! Page-aligned requests go past the page cache when the file system can, all others through it.
//! The engine never lets two requests of one page overlap in time, and the kernel writes a page
//! back before a direct request touches it, so that both ways see the same bytes.
//!
//! Does not live here: on which thread they are made ([`super::threads`], [`super::inline`]).

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use drqm_engine::ids::JobId;
use drqm_engine::{Event, IoError};
use rustix::fs::FallocateFlags;
use rustix::io::{Errno, ReadWriteFlags, pwritev2};

use super::buffer::{AlignedBuf, direct_fits, place_fits};
use super::{DiskJob, MetaJob};
use crate::pool::{VolumeFiles, room};

/// Bytes written at once where a file system cannot punch holes.
const ZERO_CHUNK: usize = 256 << 10;

pub(super) fn perform(files: &VolumeFiles, job: DiskJob) -> Event {
    match job {
        DiskJob::Read { job, offset, len } => {
            let result = read(files, offset, len as usize).map_err(|e| log(job, "read", &e));
            Event::DataRead { job, result }
        }
        DiskJob::Write {
            job,
            offset,
            data,
            fua,
        } => {
            let result = write(files, offset, &data, fua).map_err(|e| log(job, "write", &e));
            Event::DataWritten { job, result }
        }
        DiskJob::Zero { job, offset, len } => {
            let result = zero(files, offset, len).map_err(|e| log(job, "zero", &e));
            Event::DataWritten { job, result }
        }
        DiskJob::Flush { job } => {
            let result = files.data.sync_data().map_err(|e| log(job, "flush", &e));
            Event::DataFlushed { job, result }
        }
    }
}

/// Writes a group of metadata blocks and makes them durable with one flush.
pub(super) fn perform_meta(
    files: &VolumeFiles,
    jobs: impl IntoIterator<Item = MetaJob>,
) -> Vec<Event> {
    let write = |m: MetaJob| (m.job, files.meta.write_all_at(&m.data, m.offset));
    let written: Vec<_> = jobs.into_iter().map(write).collect();
    let flushed = files.meta.sync_data();
    let end = |(job, result): (JobId, io::Result<()>)| {
        let flushed = match &flushed {
            Ok(()) => Ok(()),
            Err(e) => Err(io::Error::from(e.kind())),
        };
        let result = result.and(flushed).map_err(|e| log(job, "metadata", &e));
        Event::MetaWritten { job, result }
    };
    written.into_iter().map(end).collect()
}

fn log(job: JobId, what: &'static str, error: &io::Error) -> IoError {
    tracing::error!(job = job.0, what, %error, "local I/O failed");
    if room::is_full(error) {
        IoError::NoSpace
    } else {
        IoError::Failed
    }
}

fn read(files: &VolumeFiles, offset: u64, len: usize) -> io::Result<Bytes> {
    let mut buffer = AlignedBuf::new(len);
    let file = match &files.direct {
        Some(direct) if direct_fits(buffer.as_slice().as_ptr(), offset, len) => direct,
        Some(_) | None => &files.data,
    };
    file.read_exact_at(buffer.as_mut(), offset)?;
    Ok(buffer.freeze(0..len))
}

fn write(files: &VolumeFiles, offset: u64, data: &Bytes, fua: bool) -> io::Result<()> {
    let (file, data) = placed(files, offset, data);
    if !fua {
        return file.write_all_at(&data, offset);
    }
    let mut done = 0;
    while done < data.len() {
        let rest = [IoSlice::new(&data[done..])];
        match pwritev2(file, &rest, offset + done as u64, ReadWriteFlags::DSYNC) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => done += n,
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                file.write_all_at(&data[done..], offset + done as u64)?;
                return file.sync_data();
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// The way past the page cache if there is one. A peer's payload lies where HTTP/2 has put it, so
/// that it is copied once; where there is no such way, never.
fn placed<'a>(files: &'a VolumeFiles, offset: u64, data: &Bytes) -> (&'a File, Bytes) {
    match &files.direct {
        Some(direct) if direct_fits(data.as_ptr(), offset, data.len()) => (direct, data.clone()),
        Some(direct) if place_fits(offset, data.len()) => (direct, AlignedBuf::copy_of(data)),
        Some(_) | None => (&files.data, data.clone()),
    }
}

/// Gives the room back unless it is reserved; then a hole is filled again at once, where a file system
/// can do no better.
fn zero(files: &VolumeFiles, offset: u64, len: u64) -> io::Result<()> {
    const HOLE: FallocateFlags = FallocateFlags::PUNCH_HOLE;
    const ZEROS: FallocateFlags = FallocateFlags::ZERO_RANGE;
    let ways: [&[FallocateFlags]; 2] = if files.is_reserved {
        [&[ZEROS], &[HOLE, FallocateFlags::empty()]]
    } else {
        [&[HOLE], &[ZEROS]]
    };
    for way in ways {
        if change_range(files, way, offset, len)? {
            return Ok(());
        }
    }
    let zeros = vec![0; ZERO_CHUNK];
    let mut done = 0;
    while done < len {
        let part = (len - done).min(ZERO_CHUNK as u64);
        files
            .data
            .write_all_at(&zeros[..part as usize], offset + done)?;
        done += part;
    }
    Ok(())
}

/// Whether the file system can do all that.
fn change_range(
    files: &VolumeFiles,
    steps: &[FallocateFlags],
    offset: u64,
    len: u64,
) -> io::Result<bool> {
    for step in steps {
        if !room::change_room(&files.data, *step | FallocateFlags::KEEP_SIZE, offset, len)? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::testing::scratch_files;

    #[test]
    fn zeros_keep_their_room_only_where_it_is_reserved() {
        use std::os::unix::fs::MetadataExt as _;
        const LEN: u64 = 1 << 20;
        let (_dir, mut files) = scratch_files(LEN);
        for is_reserved in [false, true] {
            files.is_reserved = is_reserved;
            files.data.write_all_at(&[7; LEN as usize], 0).unwrap();
            files.data.sync_all().unwrap();
            zero(&files, 4096, LEN - 4096).unwrap();
            let mut found = [7; 4097];
            files.data.read_exact_at(&mut found, 4095).unwrap();
            assert_eq!((found[0], &found[1..]), (7, &[0; 4096][..]));
            let room = files.data.metadata().unwrap().blocks() * 512;
            assert_eq!(room >= LEN, is_reserved, "{room}");
        }
    }

    #[test]
    fn a_payload_is_copied_only_for_direct_writes() {
        let (_dir, mut files) = scratch_files(1 << 20);
        let odd = Bytes::from(vec![7; 8192 + 13]).slice(13..);
        let own = Some(files.data.try_clone().unwrap());
        for (direct, offset, len, copied) in [
            (own.as_ref(), 4096, 8192, true),
            (own.as_ref(), 512, 8192, false),
            (own.as_ref(), 4096, 512, false),
            (None, 4096, 8192, false),
        ] {
            files.direct = direct.map(|f| f.try_clone().unwrap());
            let data = odd.slice(..len);
            let (file, placed) = placed(&files, offset, &data);
            assert_eq!(placed, data);
            assert_eq!(placed.as_ptr() != data.as_ptr(), copied);
            assert_eq!(!std::ptr::eq(file, &raw const files.data), copied);
        }
        // Memory that is aligned already is used as it is.
        let data = AlignedBuf::copy_of(&odd);
        files.direct = own;
        assert_eq!(placed(&files, 0, &data).1.as_ptr(), data.as_ptr());
    }
}
