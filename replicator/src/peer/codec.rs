//! Wire to engine and back. Everything that arrives is checked as far as that needs no state; a
//! frame that fails is a violation with a text, never a panic.
//!
//! Does not live here: what a frame means, batching, sockets. Small enumerations are in [`words`].

// The paths are said for the fuzz targets, which compile this file too.
#[path = "codec/words.rs"]
mod words;

#[cfg(test)]
#[path = "codec/tests.rs"]
mod tests;

use bytes::Bytes;
use drqm_engine::compare::{Facts, Grant, LogRange, SentCompletion};
use drqm_engine::frame::{Frame, Payload, PeerReport, PrimaryClock, WireWrite};
use drqm_engine::hashes::hashes_len;
use drqm_engine::ids::{Epoch, NodeId, Position, ResyncId, RunId, Seq, VolumeId};
use drqm_engine::settings::{CHUNK_SHIFT, HASHED_BLOCK, HASHED_MAX, SIZE_MAX};
use drqm_engine::time::Wall;
use drqm_rpc::peer::v1 as pb;
use pb::frame::Body;

/// Largest payload of one write.
pub(super) const MAX_WRITE: usize = 1 << 20;

/// Requests are multiples of this.
const SECTOR: u64 = 512;

/// More generations than a pair has in a lifetime; bounds what a State frame costs.
const MAX_LINEAGE: usize = 4096;

/// Longest name or text that a peer may send.
const MAX_TEXT: usize = 1024;

/// What a peer did that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Violation(pub(crate) String);

fn violation<T>(text: impl Into<String>) -> Result<T, Violation> {
    Err(Violation(text.into()))
}

/// A 128-bit identifier on the wire; nothing is no bytes.
pub(super) fn wide(id: u128) -> Bytes {
    if id == 0 {
        Bytes::new()
    } else {
        Bytes::copy_from_slice(&id.to_be_bytes())
    }
}

pub(super) fn wide_from(bytes: &[u8], what: &str) -> Result<u128, Violation> {
    match bytes {
        [] => Ok(0),
        _ => match <[u8; 16]>::try_from(bytes) {
            Ok(array) => Ok(u128::from_be_bytes(array)),
            Err(_) => violation(format!("{what} has {} bytes, not 16", bytes.len())),
        },
    }
}

pub(super) fn bounded(text: String, what: &str) -> Result<String, Violation> {
    if text.len() <= MAX_TEXT {
        Ok(text)
    } else {
        violation(format!("{what} is too long"))
    }
}

/// An engine frame as a message.
pub(super) fn encode(frame: Frame) -> pb::Frame {
    let body = match frame {
        Frame::State(facts) => Body::State(state(&facts)),
        Frame::Decision(decision) => Body::Decision(pb::Decision {
            kind: words::decision(decision),
        }),
        Frame::Bitmap { runs, union } => Body::Bitmap(pb::Bitmap {
            runs: gaps(&runs),
            union,
        }),
        Frame::BitmapStored => Body::BitmapStored(pb::BitmapStored {}),
        Frame::LeftBehind => Body::LeftBehind(pb::LeftBehind {}),
        Frame::Capacity(bytes) => Body::Capacity(bytes),
        Frame::Grow(size) => Body::Grow(size),
        Frame::Grown(size) => Body::Grown(size),
        Frame::Compared => Body::Compared(pb::Compared {}),
        Frame::Writes { writes, clock } => Body::Writes(pb::WriteBatch {
            writes: writes.into_iter().map(write).collect(),
            wall_unix_ms: clock.wall.0,
            last_seq: clock.last_seq.0,
            completed_bytes: clock.completed_bytes,
        }),
        Frame::ResyncBegin { id, total_chunks } => Body::ResyncBegin(pb::ResyncBegin {
            id: wide(id.0),
            total_chunks,
        }),
        Frame::ResyncReady { id } => Body::ResyncReady(pb::ResyncReady { id: wide(id.0) }),
        Frame::Hashes {
            after,
            offset,
            len,
            key,
            hashes,
        } => Body::Hashes(pb::Hashes {
            after: after.0,
            offset,
            len,
            key: wide(key.0),
            hashes,
        }),
        Frame::Differs {
            key,
            offset,
            blocks,
        } => Body::Differs(pb::Differs {
            key: wide(key.0),
            offset,
            runs: gaps(&blocks),
        }),
        Frame::ResyncComplete {
            id,
            lineage: line,
            seq,
            volume,
        } => Body::ResyncComplete(pb::ResyncComplete {
            id: wide(id.0),
            lineage: lineage(&line),
            seq: seq.0,
            volume_id: wide(volume.0),
        }),
        Frame::ResyncAdopted { id } => Body::ResyncAdopted(pb::ResyncAdopted { id: wide(id.0) }),
        Frame::Ack { applied, durable } => Body::Ack(pb::Ack {
            applied: applied.0,
            durable: durable.0,
        }),
        Frame::Ping {
            nonce,
            clock,
            report: summary,
            sync_done_chunks,
        } => Body::Ping(pb::Ping {
            nonce,
            wall_unix_ms: clock.wall.0,
            last_seq: clock.last_seq.0,
            completed_bytes: clock.completed_bytes,
            report: Some(report(&summary)),
            sync_done_chunks,
        }),
        Frame::Pong {
            nonce,
            report: summary,
        } => Body::Pong(pb::Pong {
            nonce,
            report: Some(report(&summary)),
        }),
        Frame::PromoteRequest { epoch } => Body::PromoteRequest(pb::PromoteRequest {
            epoch: wide(epoch.0),
        }),
        Frame::PromoteAnswer { epoch, refusal } => Body::PromoteAnswer(pb::PromoteAnswer {
            epoch: wide(epoch.0),
            granted: refusal.is_none(),
            refusal: refusal
                .as_ref()
                .map_or(0, |r| crate::convert::refusal_code(r) as u32),
        }),
        Frame::PromoteConfirm { epoch, run } => Body::PromoteConfirm(pb::PromoteConfirm {
            epoch: wide(epoch.0),
            run: wide(run.0),
        }),
        Frame::PromoteAdopted { epoch } => Body::PromoteAdopted(pb::PromoteAdopted {
            epoch: wide(epoch.0),
        }),
        Frame::PromoteCancel { epoch } => Body::PromoteCancel(pb::PromoteCancel {
            epoch: wide(epoch.0),
        }),
        Frame::Report(summary) => Body::Report(report(&summary)),
        Frame::Bye { text } => Body::Bye(pb::Bye { reason: 0, text }),
    };
    pb::Frame { body: Some(body) }
}

fn lineage(line: &[Epoch]) -> Vec<Bytes> {
    line.iter().map(|e| wide(e.0)).collect()
}

fn state(facts: &Facts) -> pb::State {
    pb::State {
        volume_id: wide(facts.volume.0),
        node_id: wide(facts.node.0),
        size_bytes: facts.size,
        capacity_bytes: facts.capacity,
        chunk_shift: facts.chunk_shift,
        mode: words::mode(facts.mode),
        queue_manager_name: facts.queue_manager.clone(),
        role: words::role(facts.role),
        disk: words::disk(facts.disk),
        lineage: lineage(&facts.lineage),
        base_index: facts.base_index,
        full_dirty: facts.full_dirty,
        grant_epoch: wide(facts.grant.map_or(0, |g| g.epoch.0)),
        grant_to: wide(facts.grant.map_or(0, |g| g.to.0)),
        crashed_primary: facts.crashed_primary,
        dirty_chunks: facts.dirty,
        role_epoch: wide(facts.role_epoch.0),
        tail: facts.tail.map(|p| position(&p)),
        fork: facts.fork.map(|p| position(&p)),
        completion_sent: wide(facts.completion_sent.map_or(0, |c| c.id.0)),
        adopted: wide(facts.adopted.0),
        sealed: facts.sealed,
        run: wide(facts.run.0),
        data: words::data(facts.data),
        dirty_after: facts.dirty_after,
        completion_epoch: wide(facts.completion_sent.map_or(0, |c| c.epoch.0)),
        log: facts.log.map(|l| pb::LogRange {
            from: l.from.0,
            last: l.last.0,
            empty: l.is_empty,
        }),
        position: facts.position.map(|p| position(&p)),
        given_up_for: wide(facts.given_up_for.0),
        in_doubt: facts.in_doubt,
    }
}

fn position(p: &Position) -> pb::Position {
    pb::Position {
        epoch: wide(p.epoch.0),
        run: wide(p.run.0),
        seq: p.seq.0,
        wall_unix_ms: p.wall.0,
    }
}

fn report(r: &PeerReport) -> pb::Report {
    pb::Report {
        role: words::role(r.role),
        data: words::data(r.data),
        epoch: wide(r.epoch.0),
        sealed: r.sealed,
        mode: words::mode(r.mode),
    }
}

fn gaps(runs: &[(u64, u64)]) -> Vec<u64> {
    let mut end = 0;
    let pair = |&(first, len): &(u64, u64)| {
        let gap = first.saturating_sub(end);
        end = first.saturating_add(len);
        [gap, len]
    };
    runs.iter().flat_map(pair).collect()
}

fn write(w: WireWrite) -> pb::Write {
    let (kind, offset, zero_len, data) = match w.payload {
        Payload::Data { offset, data } => (1, offset, 0, data),
        Payload::Zero { offset, len } => (2, offset, len, Bytes::new()),
        Payload::FlushMark => (3, 0, 0, Bytes::new()),
    };
    pb::Write {
        seq: w.seq.0,
        dep_seq: w.dep_seq.0,
        dep_flush: w.dep_flush.0,
        offset,
        zero_len,
        kind,
        fua: w.fua,
        resync: w.resync,
        crc32c: crc32c::crc32c(&data),
        data,
    }
}

/// A message as an engine frame. Whether a range lies inside the volume, which may grow, is the engine's to
/// say; here it lies inside the largest that there may be.
pub(super) fn decode(frame: pb::Frame) -> Result<Frame, Violation> {
    let Some(body) = frame.body else {
        return violation("a frame of an unknown kind");
    };
    Ok(match body {
        Body::Hello(_) => return violation("Hello in the middle of a session"),
        Body::State(s) => Frame::State(Box::new(state_from(s)?)),
        Body::Decision(d) => Frame::Decision(words::decision_from(d.kind)?),
        Body::Bitmap(b) => Frame::Bitmap {
            runs: runs_from(&b.runs, SIZE_MAX >> CHUNK_SHIFT)?,
            union: b.union,
        },
        Body::BitmapStored(_) => Frame::BitmapStored,
        Body::LeftBehind(_) => Frame::LeftBehind,
        Body::Capacity(bytes) => Frame::Capacity(bytes),
        Body::Grow(size) => Frame::Grow(size),
        Body::Grown(size) => Frame::Grown(size),
        Body::Compared(_) => Frame::Compared,
        Body::Writes(batch) => writes_from(batch)?,
        Body::ResyncBegin(r) => Frame::ResyncBegin {
            id: resync_from(&r.id)?,
            total_chunks: r.total_chunks,
        },
        Body::ResyncReady(r) => Frame::ResyncReady {
            id: resync_from(&r.id)?,
        },
        Body::Hashes(h) => hashes_from(h)?,
        Body::Differs(d) => Frame::Differs {
            key: resync_from(&d.key)?,
            offset: d.offset,
            blocks: runs_from(&d.runs, HASHED_MAX / HASHED_BLOCK)?,
        },
        Body::ResyncComplete(r) => Frame::ResyncComplete {
            id: resync_from(&r.id)?,
            lineage: lineage_from(&r.lineage)?,
            seq: Seq(r.seq),
            volume: VolumeId(wide_from(&r.volume_id, "volume id")?),
        },
        Body::ResyncAdopted(r) => Frame::ResyncAdopted {
            id: resync_from(&r.id)?,
        },
        Body::Ack(a) => Frame::Ack {
            applied: Seq(a.applied),
            durable: Seq(a.durable),
        },
        Body::Ping(p) => Frame::Ping {
            nonce: p.nonce,
            clock: clock_from(p.wall_unix_ms, p.last_seq, p.completed_bytes),
            report: report_from(p.report)?,
            sync_done_chunks: p.sync_done_chunks,
        },
        Body::Pong(p) => Frame::Pong {
            nonce: p.nonce,
            report: report_from(p.report)?,
        },
        Body::PromoteRequest(p) => Frame::PromoteRequest {
            epoch: epoch_from(&p.epoch)?,
        },
        Body::PromoteAnswer(p) => Frame::PromoteAnswer {
            epoch: epoch_from(&p.epoch)?,
            refusal: if p.granted {
                None
            } else {
                Some(words::refusal_from(p.refusal)?)
            },
        },
        Body::PromoteConfirm(p) => Frame::PromoteConfirm {
            epoch: epoch_from(&p.epoch)?,
            run: RunId(wide_from(&p.run, "run id")?),
        },
        Body::PromoteAdopted(p) => Frame::PromoteAdopted {
            epoch: epoch_from(&p.epoch)?,
        },
        Body::PromoteCancel(p) => Frame::PromoteCancel {
            epoch: epoch_from(&p.epoch)?,
        },
        Body::Report(r) => Frame::Report(report_from(Some(r))?),
        Body::Bye(b) => Frame::Bye {
            text: bounded(b.text, "the text of Bye")?,
        },
    })
}

fn epoch_from(bytes: &[u8]) -> Result<Epoch, Violation> {
    Ok(Epoch(wide_from(bytes, "epoch")?))
}

fn resync_from(bytes: &[u8]) -> Result<ResyncId, Violation> {
    Ok(ResyncId(wide_from(bytes, "resync id")?))
}

fn lineage_from(line: &[Bytes]) -> Result<Vec<Epoch>, Violation> {
    if line.len() > MAX_LINEAGE {
        return violation(format!("a lineage of {} epochs", line.len()));
    }
    line.iter().map(|e| epoch_from(e)).collect()
}

const fn clock_from(wall: i64, last_seq: u64, completed_bytes: u64) -> PrimaryClock {
    PrimaryClock {
        wall: Wall(wall),
        last_seq: Seq(last_seq),
        completed_bytes,
    }
}

fn state_from(s: pb::State) -> Result<Facts, Violation> {
    let grant_epoch = epoch_from(&s.grant_epoch)?;
    let grant_to = NodeId(wide_from(&s.grant_to, "node id")?);
    let completion = resync_from(&s.completion_sent)?;
    let completion_epoch = epoch_from(&s.completion_epoch)?;
    let grant = Grant {
        epoch: grant_epoch,
        to: grant_to,
    };
    let sent = SentCompletion {
        id: completion,
        epoch: completion_epoch,
    };
    Ok(Facts {
        volume: VolumeId(wide_from(&s.volume_id, "volume id")?),
        node: NodeId(wide_from(&s.node_id, "node id")?),
        size: s.size_bytes,
        capacity: s.capacity_bytes,
        chunk_shift: s.chunk_shift,
        mode: words::mode_from(s.mode)?,
        queue_manager: bounded(s.queue_manager_name, "the queue manager's name")?,
        role: words::role_from(s.role)?,
        disk: words::disk_from(s.disk)?,
        lineage: lineage_from(&s.lineage)?,
        base_index: s.base_index,
        full_dirty: s.full_dirty,
        grant: (!grant_epoch.is_none()).then_some(grant),
        crashed_primary: s.crashed_primary,
        dirty: s.dirty_chunks,
        dirty_after: s.dirty_after,
        role_epoch: epoch_from(&s.role_epoch)?,
        tail: s.tail.map(position_from).transpose()?,
        fork: s.fork.map(position_from).transpose()?,
        completion_sent: (!completion.is_none()).then_some(sent),
        adopted: resync_from(&s.adopted)?,
        sealed: s.sealed,
        run: RunId(wide_from(&s.run, "run id")?),
        log: s.log.map(|l| LogRange {
            from: Seq(l.from),
            last: Seq(l.last),
            is_empty: l.empty,
        }),
        position: s.position.map(position_from).transpose()?,
        given_up_for: epoch_from(&s.given_up_for)?,
        in_doubt: s.in_doubt,
        data: words::data_from(s.data)?,
    })
}

fn position_from(p: pb::Position) -> Result<Position, Violation> {
    Ok(Position {
        epoch: epoch_from(&p.epoch)?,
        run: RunId(wide_from(&p.run, "run id")?),
        seq: Seq(p.seq),
        wall: Wall(p.wall_unix_ms),
    })
}

fn report_from(r: Option<pb::Report>) -> Result<PeerReport, Violation> {
    let Some(r) = r else {
        return violation("a heartbeat without a summary");
    };
    Ok(PeerReport {
        role: words::role_from(r.role)?,
        data: words::data_from(r.data)?,
        epoch: epoch_from(&r.epoch)?,
        sealed: r.sealed,
        mode: words::mode_from(r.mode)?,
    })
}

fn hashes_from(h: pb::Hashes) -> Result<Frame, Violation> {
    range(h.offset, h.len)?;
    if h.len == 0 || h.len > HASHED_MAX || h.hashes.len() != hashes_len(h.len) {
        let hashes = h.hashes.len();
        return violation(format!("{hashes} bytes of hashes for {} bytes", h.len));
    }
    Ok(Frame::Hashes {
        after: Seq(h.after),
        offset: h.offset,
        len: h.len,
        key: resync_from(&h.key)?,
        hashes: h.hashes,
    })
}

/// Runs of chunks or blocks, none beyond the limit, ascending and apart.
fn runs_from(gaps: &[u64], limit: u64) -> Result<Vec<(u64, u64)>, Violation> {
    let (pairs, []) = gaps.as_chunks::<2>() else {
        return violation("half a bitmap run");
    };
    let mut end = 0_u64;
    let mut runs = Vec::with_capacity(pairs.len());
    for &[gap, len] in pairs {
        let first = end.checked_add(gap);
        let next = first
            .and_then(|f| f.checked_add(len))
            .filter(|n| *n <= limit && len > 0);
        let (Some(first), Some(next)) = (first, next) else {
            return violation("a bitmap run beyond the end, or empty");
        };
        runs.push((first, len));
        end = next;
    }
    Ok(runs)
}

fn writes_from(batch: pb::WriteBatch) -> Result<Frame, Violation> {
    let clock = clock_from(batch.wall_unix_ms, batch.last_seq, batch.completed_bytes);
    let writes = batch
        .writes
        .into_iter()
        .map(write_from)
        .collect::<Result<_, _>>()?;
    Ok(Frame::Writes { writes, clock })
}

fn write_from(w: pb::Write) -> Result<WireWrite, Violation> {
    if w.dep_seq >= w.seq || w.dep_flush >= w.seq {
        return violation(format!("write {} depends on itself or a later one", w.seq));
    }
    let payload = match (w.kind, w.zero_len, w.data.len()) {
        (1, 0, len @ 1..=MAX_WRITE) => {
            range(w.offset, len as u64)?;
            if crc32c::crc32c(&w.data) != w.crc32c {
                return violation(format!("checksum of write {} does not match", w.seq));
            }
            Payload::Data {
                offset: w.offset,
                data: w.data,
            }
        }
        (2, len @ 1.., 0) => {
            range(w.offset, len)?;
            Payload::Zero {
                offset: w.offset,
                len,
            }
        }
        (3, 0, 0) => Payload::FlushMark,
        (kind, zero_len, len) => {
            return violation(format!(
                "write of kind {kind} with {len} bytes, {zero_len} zeros"
            ));
        }
    };
    Ok(WireWrite {
        seq: Seq(w.seq),
        dep_seq: Seq(w.dep_seq),
        dep_flush: Seq(w.dep_flush),
        fua: w.fua,
        resync: w.resync,
        payload,
    })
}

fn range(offset: u64, len: u64) -> Result<(), Violation> {
    if !offset.is_multiple_of(SECTOR) || !len.is_multiple_of(SECTOR) {
        violation(format!("unaligned write: {len} bytes at {offset}"))
    } else if offset.checked_add(len).is_none_or(|end| end > SIZE_MAX) {
        violation(format!(
            "write beyond the end of any volume: {len} bytes at {offset}"
        ))
    } else {
        Ok(())
    }
}
