//! The bytes that are sent, and the check that exactly they arrive.
//!
//! A stream is a sequence of [`BLOCK`]-byte blocks. Block `n` of stream `s` is a
//! header, `s` and `n` as little-endian 64-bit numbers, followed by random bytes
//! taken from a shared base at an offset that depends on `n`. The stream ends with
//! a header that has [`END`] in place of `s` and the length of all before it in
//! place of `n`. Thus every byte has one right value, and bytes that are lost,
//! doubled, swapped or of another stream do not pass, while the comparison is a
//! `memcmp` and costs next to nothing beside the network.

use std::io::{self, IoSlice, Write};

/// Length of a block, header included, in bytes.
pub(super) const BLOCK: usize = 64 << 10;

/// Length of a header in bytes.
pub(super) const HEADER: usize = 16;

/// Stands in the last header in place of the stream's number.
const END: u64 = u64::MAX;

/// Length of the random base, without the last block's worth of it, in bytes.
const BASE: usize = 1 << 20;

/// Blocks that are handed to one write.
const BATCH: usize = 4;

/// What arrived is not what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Mismatch {
    /// A byte has the wrong value.
    #[error("the data is not what was sent, from byte {at} on")]
    Different {
        /// Position of the first wrong byte or of the piece that has it.
        at: u64,
    },
    /// The stream ended without saying so.
    #[error("the stream ended early, after {after} bytes")]
    Early {
        /// How many bytes came.
        after: u64,
    },
    /// Something came after the end.
    #[error("data came after the end of the stream, at byte {at}")]
    Late {
        /// Position of the first byte too many.
        at: u64,
    },
}

/// The random bytes that both sides know.
#[derive(Debug)]
pub(super) struct Pattern {
    base: Vec<u8>,
}

impl Pattern {
    /// The pattern of `seed`.
    pub(super) fn new(seed: u64) -> Self {
        let mut state = seed;
        let mut base = Vec::with_capacity(BASE + BLOCK);
        while base.len() < BASE + BLOCK {
            base.extend_from_slice(&split_mix(&mut state).to_le_bytes());
        }
        Self { base }
    }

    /// The bytes of block `number` behind its header.
    fn body(&self, number: u64) -> &[u8] {
        self.slice(number, BLOCK - HEADER)
    }

    /// `length` bytes, at most a block's, that depend on `number`.
    fn slice(&self, number: u64, length: usize) -> &[u8] {
        // An odd factor, so that offsets repeat as late as possible.
        let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44;
        let offset = usize::try_from(mixed).unwrap_or(0) % BASE;
        &self.base[offset..offset + length]
    }

    /// Fills `datagram`: numbers of phase and datagram, then bytes that depend on
    /// the latter. Does nothing to one shorter than a header.
    pub(super) fn fill_datagram(&self, phase: u64, number: u64, datagram: &mut [u8]) {
        if let Some((head, body)) = datagram.split_at_mut_checked(HEADER) {
            head.copy_from_slice(&header(phase, number));
            let length = body.len();
            body.copy_from_slice(self.slice(number, length));
        }
    }

    /// What a datagram of `phase` with the right length is.
    pub(super) fn check_datagram(&self, phase: u64, datagram: &[u8]) -> Datagram {
        match parse_header(datagram) {
            Some((sent_in, number)) if sent_in == phase => {
                let body = &datagram[HEADER..];
                if body.len() <= BLOCK && body == self.slice(number, body.len()) {
                    Datagram::Good(number)
                } else {
                    Datagram::Corrupt
                }
            }
            _ => Datagram::Foreign,
        }
    }
}

/// What a received datagram is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Datagram {
    /// As it was sent, with this number.
    Good(u64),
    /// One of this phase, with other bytes than were sent.
    Corrupt,
    /// Not of this phase.
    Foreign,
}

/// Next number of Steele's and Vigna's SplitMix64.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn header(stream: u64, number: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&stream.to_le_bytes());
    header[8..].copy_from_slice(&number.to_le_bytes());
    header
}

fn parse_header(bytes: &[u8]) -> Option<(u64, u64)> {
    let (stream, rest) = bytes.split_first_chunk()?;
    let (number, _) = rest.split_first_chunk()?;
    Some((u64::from_le_bytes(*stream), u64::from_le_bytes(*number)))
}

/// Writes stream `stream` while `more` says so, and its end; returns its length
/// in bytes, without the end.
///
/// # Errors
/// When writing fails.
pub(super) fn send(
    to: &mut impl Write,
    pattern: &Pattern,
    stream: u64,
    mut more: impl FnMut() -> bool,
) -> io::Result<u64> {
    let mut block = 0;
    while more() {
        let numbers: [u64; BATCH] = std::array::from_fn(|index| block + index as u64);
        let headers = numbers.map(|number| header(stream, number));
        let mut pieces: Vec<IoSlice<'_>> = numbers
            .iter()
            .zip(&headers)
            .flat_map(|(&number, header)| [&header[..], pattern.body(number)])
            .map(IoSlice::new)
            .collect();
        write_all_vectored(to, &mut pieces)?;
        block += BATCH as u64;
    }
    let length = block * BLOCK as u64;
    to.write_all(&header(END, length))?;
    Ok(length)
}

/// Writes all pieces.
fn write_all_vectored(to: &mut impl Write, mut pieces: &mut [IoSlice<'_>]) -> io::Result<()> {
    while !pieces.is_empty() {
        match to.write_vectored(pieces) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut pieces, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Checks a stream as it arrives, in pieces of any length.
#[derive(Debug)]
pub(super) struct Verifier<'a> {
    pattern: &'a Pattern,
    stream: u64,
    /// The current block.
    block: u64,
    /// Bytes of it that were checked; less than [`BLOCK`].
    within: usize,
    /// The current header, as far as it has arrived.
    header: [u8; HEADER],
    /// How many bytes of it.
    header_filled: usize,
    ended: bool,
}

impl<'a> Verifier<'a> {
    /// Expects stream `stream` of `pattern`.
    pub(super) fn new(pattern: &'a Pattern, stream: u64) -> Self {
        Self {
            pattern,
            stream,
            block: 0,
            within: 0,
            header: [0; HEADER],
            header_filled: 0,
            ended: false,
        }
    }

    /// Checks the next bytes.
    ///
    /// # Errors
    /// When they are not what was sent.
    pub(super) fn check(&mut self, mut bytes: &[u8]) -> Result<(), Mismatch> {
        while !bytes.is_empty() {
            if self.ended {
                return Err(Mismatch::Late {
                    at: self.position(),
                });
            }
            let taken = if self.within == 0 {
                self.check_header(bytes)?
            } else {
                self.check_body(bytes)?
            };
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// The stream is over; returns its length in bytes.
    ///
    /// # Errors
    /// When its end was not seen.
    pub(super) fn finish(&self) -> Result<u64, Mismatch> {
        if self.ended {
            Ok(self.position())
        } else {
            Err(Mismatch::Early {
                after: self.position(),
            })
        }
    }

    /// Whether the stream's end was seen.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Bytes checked, the end's not included.
    fn position(&self) -> u64 {
        self.block * BLOCK as u64 + self.within as u64
    }

    /// Takes bytes of a header, and checks it once it is complete.
    fn check_header(&mut self, bytes: &[u8]) -> Result<usize, Mismatch> {
        let taken = bytes.len().min(HEADER - self.header_filled);
        self.header[self.header_filled..][..taken].copy_from_slice(&bytes[..taken]);
        self.header_filled += taken;
        if self.header_filled == HEADER {
            self.header_filled = 0;
            if self.header == header(END, self.position()) {
                self.ended = true;
            } else if self.header == header(self.stream, self.block) {
                self.within = HEADER;
            } else {
                return Err(Mismatch::Different {
                    at: self.position(),
                });
            }
        }
        Ok(taken)
    }

    /// Checks bytes of a body.
    fn check_body(&mut self, bytes: &[u8]) -> Result<usize, Mismatch> {
        let expected = &self.pattern.body(self.block)[self.within - HEADER..];
        let taken = bytes.len().min(expected.len());
        if bytes[..taken] != expected[..taken] {
            let same = bytes
                .iter()
                .zip(expected)
                .take_while(|(a, b)| a == b)
                .count();
            return Err(Mismatch::Different {
                at: self.position() + same as u64,
            });
        }
        self.within += taken;
        if self.within == BLOCK {
            self.within = 0;
            self.block += 1;
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A stream of `batches` writes with its end.
    fn stream(pattern: &Pattern, number: u64, batches: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut left = batches;
        let more = || {
            left = left.wrapping_sub(1);
            left != usize::MAX
        };
        let length = send(&mut bytes, pattern, number, more).expect("write");
        assert_eq!(length + HEADER as u64, bytes.len() as u64);
        assert_eq!(bytes.len(), batches * BATCH * BLOCK + HEADER);
        bytes
    }

    /// Checks all bytes in pieces of `piece` bytes.
    fn check(pattern: &Pattern, bytes: &[u8], piece: usize) -> Result<u64, Mismatch> {
        let mut verifier = Verifier::new(pattern, 7);
        bytes
            .chunks(piece)
            .try_for_each(|chunk| verifier.check(chunk))?;
        verifier.finish()
    }

    #[test]
    fn what_was_sent_passes_in_pieces_of_any_length() {
        let pattern = Pattern::new(1);
        let bytes = stream(&pattern, 7, 3);
        for piece in [
            1,
            15,
            16,
            17,
            1448,
            BLOCK - 1,
            BLOCK,
            BLOCK + 1,
            bytes.len(),
        ] {
            assert_eq!(
                check(&pattern, &bytes, piece),
                Ok((bytes.len() - HEADER) as u64),
                "{piece}"
            );
        }
        assert_eq!(check(&pattern, &stream(&pattern, 7, 0), 5), Ok(0));
    }

    #[test]
    fn loss_doubling_swapping_truncation_and_excess_are_noticed() {
        let pattern = Pattern::new(1);
        let good = stream(&pattern, 7, 2);
        let at = |block: usize| block * BLOCK;

        let mut lost = good.clone();
        lost.drain(at(2)..at(3));
        assert_eq!(
            check(&pattern, &lost, 4096),
            Err(Mismatch::Different { at: at(2) as u64 })
        );

        let mut doubled = good.clone();
        doubled.splice(at(2)..at(2), good[at(1)..at(2)].iter().copied());
        assert!(check(&pattern, &doubled, 4096).is_err());

        let mut swapped = good.clone();
        let (first, second) = swapped.split_at_mut(at(2));
        first[at(1)..].swap_with_slice(&mut second[..BLOCK]);
        assert!(check(&pattern, &swapped, 4096).is_err());

        let short = &good[..good.len() - 1];
        assert_eq!(
            check(&pattern, short, 4096),
            Err(Mismatch::Early {
                after: (good.len() - HEADER) as u64
            })
        );

        let mut long = good.clone();
        long.push(0);
        assert!(matches!(
            check(&pattern, &long, 4096),
            Err(Mismatch::Late { .. })
        ));

        let other = stream(&pattern, 8, 2);
        assert_eq!(
            check(&pattern, &other, 4096),
            Err(Mismatch::Different { at: 0 })
        );
    }

    #[test]
    fn datagrams_are_told_apart() {
        let pattern = Pattern::new(3);
        let mut datagram = [0; 1400];
        pattern.fill_datagram(5, 99, &mut datagram);
        assert_eq!(pattern.check_datagram(5, &datagram), Datagram::Good(99));
        assert_eq!(pattern.check_datagram(6, &datagram), Datagram::Foreign);
        assert_eq!(
            pattern.check_datagram(5, &datagram[..10]),
            Datagram::Foreign
        );
        datagram[1399] ^= 1;
        assert_eq!(pattern.check_datagram(5, &datagram), Datagram::Corrupt);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn one_wrong_bit_is_noticed(at in 0..4 * BLOCK + HEADER, bit in 0..8, piece in 1..100_000usize) {
            let pattern = Pattern::new(2);
            let mut bytes = stream(&pattern, 7, 1);
            bytes[at] ^= 1_u8 << bit;
            prop_assert!(check(&pattern, &bytes, piece).is_err());
        }

        #[test]
        fn any_bytes_are_taken_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..3000),
            piece in 1..3000usize,
        ) {
            let pattern = Pattern::new(2);
            let _ = check(&pattern, &bytes, piece);
            let _ = pattern.check_datagram(0, &bytes);
        }
    }
}
