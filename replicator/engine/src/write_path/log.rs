//! The retained log: writes that the peer does not have durably, kept so that it gets them in order
//! when it is back, and its copy never becomes inconsistent for a short absence.
//!
//! The log is the part of [`super::WritePath`]'s writes that is `kept`. It has the bounds of the window;
//! when it is full, or the activity log needs its extents, all of it becomes dirty bits at once (E7).
//!
//! ```text
//!   from          peer's position p     promised            last
//!     │ dropped or kept │ sent with last content │ sent as it was │
//! ```
//! What lies above p and was promised (users were told that the peer has it) is one flush epoch: a flush
//! mark is acknowledged only after p has passed it. The peer's process may have been restarted, and have
//! applied any part of it; so each write of that stretch is sent with the content that its place had at
//! the end of it, and nothing that the peer shows goes back.
//!
//! Does not live here: whether a peer is served from the log ([`crate::compare`]).

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use crate::compare::LogRange;
use crate::effect::Effect;
use crate::engine::Engine;
use crate::frame::{Payload, WireWrite};
use crate::ids::Seq;
use crate::role::Role;

impl Engine {
    /// From here on, what the peer lacks is kept.
    pub(crate) fn begin_log(&mut self) {
        let last = self.guest.last_seq;
        self.guest.log_from.get_or_insert(last);
    }

    /// What a peer could be served from the log.
    pub(crate) fn log_range(&self) -> Option<LogRange> {
        let (held, last) = (
            self.guest.log_from?.max(self.guest.peer_durable),
            self.guest.last_seq,
        );
        let promised = self.kept_between(held, self.guest.promised);
        // Whoever has all that was promised is served from there on.
        let from = match last_contents(promised) {
            Some(_) => held,
            None => self.guest.promised,
        };
        (self.sb.role == Role::Primary).then_some(LogRange {
            from,
            last,
            is_empty: held == last,
        })
    }

    fn kept_between(&self, after: Seq, upto: Seq) -> Vec<WireWrite> {
        let between = self.sent_between(after, upto).into_iter();
        between
            .filter_map(|seq| self.guest.writes[&seq].kept.clone())
            .collect()
    }

    /// The peer holds everything up to `position` durably and takes the rest in order.
    pub(crate) fn send_log(&mut self, position: Seq, out: &mut Vec<Effect>) {
        let promised = self.guest.promised.max(position);
        let again = last_contents(self.kept_between(position, promised)).unwrap_or_default();
        let rest = self.kept_between(promised, self.guest.last_seq);
        for w in self.guest.writes.values_mut().filter(|w| w.kept.is_some()) {
            self.guest.off_session -= usize::from(!w.on_session);
            w.on_session = true;
        }
        self.guest.peer_applied = position;
        self.guest.peer_durable = position;
        self.complete_ready(out);
        for write in again.into_iter().chain(rest) {
            self.send_write(write, out);
        }
    }

    /// What the peer lacks is told by bits from now on.
    pub(crate) fn log_becomes_bits(&mut self) {
        if self.guest.log_from.take().is_none() {
            return;
        }
        for seq in self.guest.writes.keys().copied().collect::<Vec<_>>() {
            let w = self.guest.writes.get_mut(&seq).expect("just listed");
            if w.on_session || w.kept.take().is_none() {
                continue;
            }
            self.guest.window_bytes -= w.len;
            self.guest.window_count -= 1;
            if !w.is_flush {
                self.marks.mark(w.offset, w.len);
            }
            self.retire_write(seq);
        }
    }

    /// A full log of an absent peer gives way; nobody waits for room in it.
    pub(super) fn bound_log(&mut self) {
        let full = self.window_is_full() || self.guest.window_bytes > self.settings.log_bytes;
        if full && !self.link.is_present() {
            self.log_becomes_bits();
        }
    }

    /// The activity log needs extents that only the log of an absent peer still holds.
    pub(crate) fn log_yields_extents(&mut self) {
        if !self.link.is_present() {
            self.log_becomes_bits();
        }
    }
}

#[derive(Clone, Hash)]
enum Content {
    Data(Bytes),
    Zeros,
}

/// Zeros that have data over them are sent as data up to this size, which is the largest of a write.
const WRITTEN_OUT_MAX: u64 = 1 << 20;

/// Every write with the content that its place has after the last of them; `None` if zeros have data
/// over them and are too many to be written out.
fn last_contents(mut writes: Vec<WireWrite>) -> Option<Vec<WireWrite>> {
    // What later writes left, without overlaps: start → (end, content).
    let mut later: BTreeMap<u64, (u64, Content)> = BTreeMap::new();
    for write in writes.iter_mut().rev() {
        let (offset, len) = match &write.payload {
            Payload::Data { offset, data } => (*offset, data.len() as u64),
            Payload::Zero { offset, len } => (*offset, *len),
            Payload::FlushMark => continue,
        };
        let end = offset + len;
        let over: Vec<(u64, u64)> = later
            .range(..end)
            .rev()
            .take_while(|(_, (e, _))| *e > offset)
            .map(|(s, (e, _))| (*s, *e))
            .collect();
        if !over.is_empty() {
            let mut content = match &write.payload {
                Payload::Data { data, .. } => BytesMut::from(&data[..]),
                Payload::Zero { .. } if len <= WRITTEN_OUT_MAX => BytesMut::zeroed(len as usize),
                Payload::Zero { .. } | Payload::FlushMark => return None,
            };
            for (start, stop) in &over {
                let (from, to) = ((*start).max(offset), (*stop).min(end));
                let here = &mut content[(from - offset) as usize..(to - offset) as usize];
                match &later[start].1 {
                    Content::Data(d) => {
                        here.copy_from_slice(&d[(from - start) as usize..(to - start) as usize]);
                    }
                    Content::Zeros => here.fill(0),
                }
            }
            let data = content.freeze();
            write.payload = Payload::Data { offset, data };
        }
        // The gaps between them are this write's.
        let mut at = offset;
        for (start, stop) in over.into_iter().rev().chain([(end, end)]) {
            if at < start {
                let content = match &write.payload {
                    Payload::Data { data, .. } => {
                        Content::Data(data.slice((at - offset) as usize..(start - offset) as usize))
                    }
                    Payload::Zero { .. } | Payload::FlushMark => Content::Zeros,
                };
                later.insert(at, (start, content));
            }
            at = at.max(stop);
        }
    }
    Some(writes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(seq: u64, offset: u64, bytes: &[u8]) -> WireWrite {
        let data = Bytes::copy_from_slice(bytes);
        write(seq, Payload::Data { offset, data })
    }

    fn write(seq: u64, payload: Payload) -> WireWrite {
        WireWrite {
            seq: Seq(seq),
            dep_seq: Seq(0),
            dep_flush: Seq(0),
            fua: false,
            resync: false,
            payload,
        }
    }

    /// Applies writes one after the other; the image after each.
    fn images(writes: &[WireWrite]) -> Vec<Vec<u8>> {
        let mut image = vec![b'.'; 16];
        let mut all = Vec::new();
        for write in writes {
            let (offset, bytes) = match &write.payload {
                Payload::Data { offset, data } => (*offset, data.to_vec()),
                Payload::Zero { offset, len } => (*offset, vec![0; *len as usize]),
                Payload::FlushMark => (0, Vec::new()),
            };
            image[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
            all.push(image.clone());
        }
        all
    }

    #[test]
    fn an_image_that_has_everything_shows_it_throughout() {
        let zero = |seq, offset, len| write(seq, Payload::Zero { offset, len });
        let histories = [
            vec![data(1, 0, b"aaaa"), data(2, 2, b"bbbb"), data(3, 3, b"c")],
            vec![
                data(1, 4, b"aaaaaaaa"),
                data(2, 5, b"b"),
                data(3, 8, b"cc"),
                data(4, 2, b"dddd"),
            ],
            vec![
                data(1, 0, b"aaaaaaaa"),
                zero(2, 2, 4),
                write(3, Payload::FlushMark),
                data(4, 7, b"dd"),
            ],
            vec![zero(1, 0, 4), data(2, 4, b"bb"), zero(3, 6, 2)],
            vec![
                zero(1, 0, 8),
                data(2, 4, b"bb"),
                zero(3, 5, 2),
                data(4, 7, b"c"),
            ],
        ];
        for history in histories {
            let last = images(&history).pop().expect("an image");
            let again = last_contents(history.clone()).expect("no zeros are written over");
            let mut image = last.clone();
            for write in &again {
                if let Payload::Data { offset, data } = &write.payload {
                    image[*offset as usize..][..data.len()].copy_from_slice(data);
                }
                assert_eq!(image, last, "{history:?}");
            }
            assert_eq!(images(&again).pop(), Some(last));
            let places = |w: &WireWrite| (w.seq, w.fua);
            assert!(again.iter().map(places).eq(history.iter().map(places)));
        }
    }

    #[test]
    fn many_zeros_with_data_over_them_are_not_served() {
        let zero = |len| write(1, Payload::Zero { offset: 0, len });
        let served = |len| last_contents(vec![zero(len), data(2, 7, b"x")]).is_some();
        assert!(served(WRITTEN_OUT_MAX) && !served(WRITTEN_OUT_MAX + 1));
    }
}
