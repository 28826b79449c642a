//! Selective acknowledgements (RFC 2018): which bytes above the cumulative
//! acknowledgement the guest has.

use arrayvec::ArrayVec;

/// Blocks of one segment at most: what 40 bytes of options have room for.
const MAX_BLOCKS: usize = 4;

/// Ranges remembered of one connection. A guest with more holes has those
/// above repaired when the ones below are.
const MAX_RANGES: usize = 32;

/// Sequence numbers `left..right`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) left: u32,
    pub(super) right: u32,
}

impl Range {
    /// Bytes in it.
    pub(super) const fn len(self) -> u32 {
        self.right.wrapping_sub(self.left)
    }
}

/// The blocks of one segment.
pub(super) type Blocks = ArrayVec<Range, MAX_BLOCKS>;

/// True when `a` comes before `b` (RFC 9293 section 3.4).
pub(super) const fn before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) > i32::MAX as u32
}

/// The later one of two sequence numbers.
pub(super) const fn later(a: u32, b: u32) -> u32 {
    if before(a, b) { b } else { a }
}

/// The earlier one of two sequence numbers.
const fn earlier(a: u32, b: u32) -> u32 {
    if before(a, b) { a } else { b }
}

/// The blocks in the options of the TCP segment; none when it is malformed.
/// A segment without options, the rule, costs one comparison.
pub(super) fn blocks(segment: &[u8]) -> Blocks {
    const HEADER: usize = 20;
    let mut blocks = Blocks::new();
    let len = segment
        .get(12)
        .map_or(0, |offset| usize::from(offset >> 4) * 4);
    if len <= HEADER {
        return blocks;
    }
    let mut options = segment.get(HEADER..len).unwrap_or_default();
    while let Some(block) = next_option(&mut options) {
        let (pairs, _) = block.as_chunks::<8>();
        for &[l0, l1, l2, l3, r0, r1, r2, r3] in pairs {
            // Not more fit the options: a fifth cannot come.
            let _ = blocks.try_push(Range {
                left: u32::from_be_bytes([l0, l1, l2, l3]),
                right: u32::from_be_bytes([r0, r1, r2, r3]),
            });
        }
    }
    blocks
}

/// Takes the next option off the front: the content of a SACK option, nothing
/// of any other. `None` at the end.
fn next_option<'a>(options: &mut &'a [u8]) -> Option<&'a [u8]> {
    const END: u8 = 0;
    const NOP: u8 = 1;
    const SACK: u8 = 5;
    match **options {
        [] | [END, ..] => None,
        [NOP, ref rest @ ..] => {
            *options = rest;
            Some(&[])
        }
        [kind, len, ..] => {
            let len = usize::from(len);
            let content = options.get(2..len)?;
            *options = &options[len..];
            Some(if kind == SACK { content } else { &[] })
        }
        [_] => None,
    }
}

/// What the guest has above the cumulative acknowledgement: ranges in order
/// that do not touch.
#[derive(Debug, Default)]
pub(super) struct Scoreboard {
    ranges: ArrayVec<Range, MAX_RANGES>,
}

impl Scoreboard {
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Bytes in all ranges.
    pub(super) fn bytes(&self) -> u32 {
        self.ranges.iter().map(|r| r.len()).sum()
    }

    /// One past the highest byte that the guest has.
    pub(super) fn top(&self) -> Option<u32> {
        self.ranges.last().map(|r| r.right)
    }

    /// Forgets what is below the cumulative acknowledgement.
    pub(super) fn acknowledge(&mut self, una: u32) {
        self.ranges.retain(|r| before(una, r.right));
        if let Some(first) = self.ranges.first_mut() {
            first.left = later(first.left, una);
        }
    }

    /// Adds a block; one that is not within `una..=nxt` is ignored, such as a
    /// report of a duplicate (RFC 2883) or nonsense. So is the highest range
    /// when there are too many.
    pub(super) fn insert(&mut self, block: Range, una: u32, nxt: u32) {
        let mut new = block;
        let sane = before(una, new.left) && before(new.left, new.right) && !before(nxt, new.right);
        if !sane {
            return;
        }
        self.ranges.retain(|r| {
            let apart = before(r.right, new.left) || before(new.right, r.left);
            if !apart {
                new.left = earlier(new.left, r.left);
                new.right = later(new.right, r.right);
            }
            apart
        });
        let at = self.ranges.iter().position(|r| before(new.left, r.left));
        let at = at.unwrap_or(self.ranges.len());
        if self.ranges.is_full() {
            if at == self.ranges.len() {
                return;
            }
            self.ranges.pop();
        }
        self.ranges.insert(at, new);
    }

    /// The first bytes from `from` on that the guest lacks, below something
    /// that it has.
    pub(super) fn hole(&self, from: u32) -> Option<Range> {
        let mut left = from;
        for range in &self.ranges {
            if before(left, range.left) {
                let right = range.left;
                return Some(Range { left, right });
            }
            left = later(left, range.right);
        }
        None
    }

    /// Bytes in all holes from `from` on.
    pub(super) fn missing(&self, from: u32) -> u32 {
        let mut left = from;
        let mut missing = 0;
        for range in &self.ranges {
            if before(left, range.left) {
                missing += range.left.wrapping_sub(left);
            }
            left = later(left, range.right);
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segment(options: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 20];
        bytes.extend_from_slice(options);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes[12] = u8::try_from(bytes.len() / 4).expect("short") << 4;
        bytes
    }

    #[test]
    fn reads_blocks_between_other_options() {
        let options = [
            1, 1, 5, 18, 0, 0, 0, 9, 0, 0, 0, 12, 255, 0, 0, 0, 255, 0, 0, 1, 8, 2,
        ];
        let read = blocks(&segment(&options));
        let (a, b) = (0xff00_0000, 0xff00_0001);
        let expected = [Range { left: 9, right: 12 }, Range { left: a, right: b }];
        assert_eq!(read.as_slice(), expected);
        assert!(blocks(&segment(&[])).is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_are_blocks_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = blocks(&bytes);
            if let Some(options) = bytes.get(..bytes.len().min(40)) {
                let _ = blocks(&segment(options));
            }
        }

        /// Against a map of every single byte, across the wrap of the numbers.
        #[test]
        fn is_what_a_map_of_bytes_says(
            steps in prop::collection::vec((0u32..300, 0u32..40, 0u32..12), 1..32),
        ) {
            let base = u32::MAX - 100;
            let mut board = Scoreboard::default();
            let (mut map, mut una) = ([false; 400], 0);
            for (left, len, acked) in steps {
                una = (una + acked / 4).min(300);
                board.acknowledge(base.wrapping_add(una));
                let block = Range {
                    left: base.wrapping_add(left),
                    right: base.wrapping_add(left + len),
                };
                board.insert(block, base.wrapping_add(una), base.wrapping_add(320));
                if left > una && len > 0 && left + len <= 320 {
                    map[left as usize..(left + len) as usize].fill(true);
                }
                map[..una as usize].fill(false);
                let have = u32::try_from(map.iter().filter(|b| **b).count()).expect("small");
                let top = map.iter().rposition(|b| *b);
                let hole = (una as usize..top.unwrap_or(0)).find(|i| !map[*i]);
                prop_assert_eq!(board.bytes(), have);
                prop_assert_eq!(
                    board.top().map(|t| t.wrapping_sub(base) as usize),
                    top.map(|t| t + 1)
                );
                let found = board.hole(base.wrapping_add(una));
                prop_assert_eq!(found.map(|h| h.left.wrapping_sub(base) as usize), hole);
                let missing = top.map_or(0, |t| (una as usize..t).filter(|i| !map[*i]).count());
                prop_assert_eq!(board.missing(base.wrapping_add(una)) as usize, missing);
            }
        }

        #[test]
        fn is_bounded(blocks in prop::collection::vec((1u32..5000, 1u32..4), 0..300)) {
            let mut board = Scoreboard::default();
            for (left, len) in blocks {
                board.insert(Range { left, right: left + len }, 0, 6000);
                prop_assert!(board.ranges.is_sorted_by(|a, b| before(a.right, b.left)));
            }
        }
    }
}
