//! Little-endian fields, one after the other.

/// Appends fields.
#[derive(Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn byte(&mut self, v: u8) -> &mut Self {
        self.0.push(v);
        self
    }

    pub(crate) fn flag(&mut self, v: bool) -> &mut Self {
        self.byte(u8::from(v))
    }

    pub(crate) fn word(&mut self, v: u64) -> &mut Self {
        self.0.extend_from_slice(&v.to_le_bytes());
        self
    }

    pub(crate) fn wide(&mut self, v: u128) -> &mut Self {
        self.0.extend_from_slice(&v.to_le_bytes());
        self
    }

    /// At most `limit` bytes, cut at a character boundary.
    pub(crate) fn text(&mut self, v: &str, limit: usize) -> &mut Self {
        let mut end = v.len().min(limit);
        while !v.is_char_boundary(end) {
            end -= 1;
        }
        self.word(end as u64);
        self.0.extend_from_slice(&v.as_bytes()[..end]);
        self
    }
}

/// Takes fields off; `None` where the block is too short.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    pub(crate) fn flag(&mut self) -> Option<bool> {
        self.byte().map(|b| b != 0)
    }

    pub(crate) fn word(&mut self) -> Option<u64> {
        self.take(8)
            .map(|b| u64::from_le_bytes(b.try_into().expect("eight bytes")))
    }

    pub(crate) fn wide(&mut self) -> Option<u128> {
        self.take(16)
            .map(|b| u128::from_le_bytes(b.try_into().expect("sixteen bytes")))
    }

    pub(crate) fn text(&mut self) -> Option<String> {
        let len = usize::try_from(self.word()?).ok()?;
        String::from_utf8(self.take(len)?.to_vec()).ok()
    }
}
