//! Walks over the records of a message without decoding them.

/// The sections, in the order of their counts in the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    Question = 0,
    Answer = 1,
    Authority = 2,
    Additional = 3,
}

/// Where a record stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct RecordView {
    pub(super) section: Section,
    pub(super) start: usize,
    /// End of the owner's name.
    name_end: usize,
    pub(super) rtype: u16,
    pub(super) class: u16,
    /// Time to live, in seconds.
    pub(super) ttl: u32,
    pub(super) end: usize,
}

impl RecordView {
    fn read(bytes: &[u8], section: Section, start: usize) -> Option<Self> {
        let name_end = skip_name(bytes, start)?;
        let end = name_end + 10 + usize::from(u16_at(bytes, name_end + 8)?);
        let (rtype, class) = (u16_at(bytes, name_end)?, u16_at(bytes, name_end + 2)?);
        (end <= bytes.len()).then_some(Self {
            section,
            start,
            name_end,
            rtype,
            class,
            ttl: u32_at(bytes, name_end + 4)?,
            end,
        })
    }

    /// Where the data starts.
    pub(super) fn data(&self) -> usize {
        self.name_end + 10
    }
}

/// Walks the records behind the question; `None` once, at the end, when the
/// message is too short for what its header promises.
pub(super) struct Records<'a> {
    bytes: &'a [u8],
    /// End of the last record, `None` after a failure.
    at: Option<usize>,
    left: [(Section, u16); 3],
}

impl<'a> Records<'a> {
    pub(super) fn after_question(bytes: &'a [u8], question_end: usize) -> Self {
        let left = [Section::Answer, Section::Authority, Section::Additional];
        Self {
            bytes,
            at: Some(question_end),
            left: left.map(|s| (s, count(bytes, s))),
        }
    }
}

impl Iterator for Records<'_> {
    type Item = Option<RecordView>;

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.at?;
        let (section, left) = self.left.iter_mut().find(|(_, left)| *left > 0)?;
        *left -= 1;
        let record = RecordView::read(self.bytes, *section, at);
        self.at = record.map(|r| r.end);
        Some(record)
    }
}

/// Records that the header promises for a section.
pub(super) fn count(bytes: &[u8], section: Section) -> u16 {
    u16_at(bytes, 4 + 2 * section as usize).unwrap_or(0)
}

/// The field at `at`, if it lies within.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([field[0], field[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_be_bytes(*field))
}

/// The end of the name at `at`, which may end in a pointer (RFC 1035 section
/// 4.1.4). The pointer is not followed.
fn skip_name(bytes: &[u8], at: usize) -> Option<usize> {
    let (end, last) = skip_labels(bytes, at)?;
    match last {
        0 => Some(end),
        0xc0.. => (end < bytes.len()).then_some(end + 1),
        _ => None,
    }
}

/// The end of the name at `at`, which must not be compressed.
pub(super) fn skip_plain_name(bytes: &[u8], at: usize) -> Option<usize> {
    let (end, last) = skip_labels(bytes, at)?;
    (last == 0).then_some(end)
}

/// Skips labels; gives the place behind the byte that was no label's length,
/// and that byte.
fn skip_labels(bytes: &[u8], mut at: usize) -> Option<(usize, u8)> {
    let start = at;
    loop {
        let len = *bytes.get(at)?;
        at += 1;
        if !(1..=63).contains(&len) {
            return Some((at, len));
        }
        at += usize::from(len);
        // 255 bytes with the final zero (RFC 1035 section 2.3.4).
        if at - start > 254 {
            return None;
        }
    }
}
