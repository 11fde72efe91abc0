//! Ranges whose hashes the source has sent: each is compared with what is here exactly where it stands in the
//! stream, after everything before it and before everything after it.
//!
//! Does not live here: the hashes themselves ([`crate::hashes`]).

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::effect::Effect;
use crate::engine::{Engine, Job};
use crate::event::IoError;
use crate::frame::Frame;
use crate::hashes;
use crate::ids::{ResyncId, Seq};
use crate::settings::{HASHED_MAX, RESYNC_WINDOW_BYTES};

#[derive(Clone, Hash)]
struct Question {
    after: Seq,
    offset: u64,
    len: u64,
    key: ResyncId,
    hashes: Bytes,
    reading: bool,
}

/// What is to be compared, in the order of arrival.
#[derive(Clone, Hash, Default)]
pub(super) struct Questions {
    open: BTreeMap<u64, Question>,
    bytes: u64,
    last: u64,
}

impl Questions {
    /// Another session asks its own.
    pub(super) fn forget(&mut self) {
        self.open.clear();
        self.bytes = 0;
    }

    /// Whether a write at this place of the stream would change what is still to be compared.
    pub(super) fn hold(&self, seq: Seq, offset: u64, len: u64) -> bool {
        let over = |q: &Question| q.offset < offset + len && offset < q.offset + q.len;
        self.open.values().any(|q| q.after < seq && over(q))
    }
}

impl Engine {
    /// Hashes of a range arrived. `Err` names what is wrong with them.
    pub(crate) fn hashes_arrived(
        &mut self,
        after: Seq,
        (offset, len): (u64, u64),
        key: ResyncId,
        hashes: Bytes,
    ) -> Result<(), String> {
        let ends = offset.checked_add(len);
        if len == 0 || len > HASHED_MAX || ends.is_none_or(|end| end > self.identity.size) {
            return Err(format!("hashes of {len} bytes at {offset}"));
        }
        if hashes::hashes_len(len) != hashes.len() {
            return Err(format!("{} bytes of hashes for {len} bytes", hashes.len()));
        }
        let r = &mut self.replica;
        if r.anchored && after > r.received {
            return Err(format!(
                "hashes after {}, not yet at {}",
                after.0, r.received.0
            ));
        }
        if r.questions.bytes > RESYNC_WINDOW_BYTES {
            return Err("more hashes than are answered".to_owned());
        }
        r.questions.bytes += len;
        r.questions.last += 1;
        let question = Question {
            after,
            offset,
            len,
            key,
            hashes,
            reading: false,
        };
        r.questions.open.insert(r.questions.last, question);
        Ok(())
    }

    /// Reads what is to be compared, once everything before it is here.
    pub(super) fn start_comparing(&mut self, out: &mut Vec<Effect>) {
        let (anchored, applied) = (self.replica.anchored, self.replica.applied);
        let mut ready = Vec::new();
        for (id, q) in &mut self.replica.questions.open {
            // Before the first write of a session, everything that is ever here is here.
            if !q.reading && (!anchored || q.after <= applied) {
                q.reading = true;
                ready.push((*id, q.offset, q.len as u32));
            }
        }
        for (id, offset, len) in ready {
            let job = self.job(Job::Compare(id));
            out.push(Effect::ReadData { job, offset, len });
        }
    }

    /// What is here was read for a comparison.
    pub(crate) fn compared(
        &mut self,
        id: u64,
        result: Result<Bytes, IoError>,
        out: &mut Vec<Effect>,
    ) {
        let data = match result {
            Ok(data) => data,
            Err(e) => return self.fail(&format!("read of the data: {e}"), out),
        };
        let Some(q) = self.replica.questions.open.remove(&id) else {
            return;
        };
        self.replica.questions.bytes -= q.len;
        let blocks = hashes::differing(q.key, &data, &q.hashes);
        let (key, offset) = (q.key, q.offset);
        let frame = Frame::Differs {
            key,
            offset,
            blocks,
        };
        self.send(frame, out);
    }
}
