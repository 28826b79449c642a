//! Frames on a byte stream: each behind its length, in network byte order.
//!
//! | framing | length | who speaks it |
//! |---|---|---|
//! | [`Prefix::Len16`] | 2 bytes | `vde_plug` on its standard input and output, `udp:` with `framing=len16` |
//! | [`Prefix::Len32`] | 4 bytes | QEMU's `-netdev stream` and `socket` |
//!
//! A stream has no way back once a length is wrong, so a frame that is too long
//! ends it ([`FrameTooLong`]).

use std::ops::Range;

use crate::net::MAX_FRAME_LEN;

/// How long the length is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefix {
    /// Two bytes.
    Len16,
    /// Four bytes.
    Len32,
}

/// A length that no frame has: the stream is out of step, or not what it was
/// said to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the other end announces a frame of {0} bytes, more than the {MAX_FRAME_LEN} that any has; \
     does it use another framing?"
)]
pub struct FrameTooLong(pub u32);

/// A length as it stands in front of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoded {
    bytes: [u8; 4],
    len: usize,
}

impl Encoded {
    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Prefix {
    /// Bytes of the length.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::Len16 => 2,
            Self::Len32 => 4,
        }
    }

    /// What stands in front of a frame of `len` bytes; `None` when `len` does
    /// not fit.
    #[must_use]
    pub fn encode(self, len: usize) -> Option<Encoded> {
        let mut bytes = [0; 4];
        match self {
            Self::Len16 => bytes[..2].copy_from_slice(&u16::try_from(len).ok()?.to_be_bytes()),
            Self::Len32 => bytes.copy_from_slice(&u32::try_from(len).ok()?.to_be_bytes()),
        }
        Some(Encoded {
            bytes,
            len: self.size(),
        })
    }

    /// The length at the start of `bytes`; `None` when they are too few.
    #[must_use]
    pub fn decode(self, bytes: &[u8]) -> Option<u32> {
        match self {
            Self::Len16 => bytes.first_chunk().map(|b| u16::from_be_bytes(*b).into()),
            Self::Len32 => bytes.first_chunk().map(|b| u32::from_be_bytes(*b)),
        }
    }
}

/// Bytes taken from a stream at once. More than the longest frame and its
/// length, so that any frame fits.
const CAPACITY: usize = 256 * 1024;

/// Finds the frames in a stream that arrives in pieces.
#[derive(Debug)]
pub struct Deframer {
    prefix: Prefix,
    buffer: Box<[u8]>,
    /// What was read and not yet handed out.
    held: Range<usize>,
}

impl Deframer {
    /// One for a stream that begins here.
    #[must_use]
    pub fn new(prefix: Prefix) -> Self {
        Self {
            prefix,
            buffer: vec![0; CAPACITY].into(),
            held: 0..0,
        }
    }

    /// Where the stream's next bytes belong; never empty once
    /// [`Deframer::next_frame`] has said that it has no more.
    pub fn space(&mut self) -> &mut [u8] {
        if self.held.is_empty() {
            self.held = 0..0;
        } else if self.held.start > 0 {
            // At most one frame that is not complete: little is moved, once for
            // each time that the stream is read.
            self.buffer.copy_within(self.held.clone(), 0);
            self.held = 0..self.held.len();
        }
        &mut self.buffer[self.held.end..]
    }

    /// Says that the first `n` bytes of [`Deframer::space`] were filled.
    pub fn filled(&mut self, n: usize) {
        self.held.end = (self.held.end + n).min(self.buffer.len());
    }

    /// The next whole frame; `None` when more must be read first. Frames of no
    /// bytes are passed over.
    ///
    /// # Errors
    /// [`FrameTooLong`]; the stream is of no use any more.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, FrameTooLong> {
        loop {
            let held = &self.buffer[self.held.clone()];
            let Some(announced) = self.prefix.decode(held) else {
                return Ok(None);
            };
            let len = usize::try_from(announced).unwrap_or(usize::MAX);
            if len > MAX_FRAME_LEN {
                return Err(FrameTooLong(announced));
            }
            let start = self.held.start + self.prefix.size();
            if len > self.held.end - start {
                return Ok(None);
            }
            self.held.start = start + len;
            if len > 0 {
                return Ok(Some(&self.buffer[start..start + len]));
            }
        }
    }

    /// True when the stream ended here, between two frames.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames_of(deframer: &mut Deframer) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        while let Some(frame) = deframer.next_frame().expect("in step") {
            frames.push(frame.to_vec());
        }
        frames
    }

    fn prefix() -> impl Strategy<Value = Prefix> {
        prop_oneof![Just(Prefix::Len16), Just(Prefix::Len32)]
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting_of_the_stream(
            prefix in prefix(),
            frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..3000), 0..20),
            cuts in proptest::collection::vec(1..5000usize, 1..40),
        ) {
            let mut stream = Vec::new();
            for frame in &frames {
                stream.extend_from_slice(prefix.encode(frame.len()).expect("fits").as_bytes());
                stream.extend_from_slice(frame);
            }
            let mut deframer = Deframer::new(prefix);
            let mut seen = Vec::new();
            let mut rest = &stream[..];
            let mut cuts = cuts.iter().cycle();
            while !rest.is_empty() {
                let n = (*cuts.next().expect("endless")).min(rest.len());
                let space = deframer.space();
                let n = n.min(space.len());
                space[..n].copy_from_slice(&rest[..n]);
                deframer.filled(n);
                rest = &rest[n..];
                seen.extend(frames_of(&mut deframer));
            }
            prop_assert!(deframer.is_between_frames());
            let expected: Vec<_> = frames.into_iter().filter(|f| !f.is_empty()).collect();
            prop_assert_eq!(seen, expected);
        }

        #[test]
        fn any_bytes_are_frames_or_an_error(prefix in prefix(), bytes: Vec<u8>) {
            let mut deframer = Deframer::new(prefix);
            deframer.space()[..bytes.len()].copy_from_slice(&bytes);
            deframer.filled(bytes.len());
            while let Ok(Some(frame)) = deframer.next_frame() {
                prop_assert!(!frame.is_empty() && frame.len() <= bytes.len());
            }
        }
    }

    #[test]
    fn the_longest_frame_fits_wherever_it_begins() {
        let mut deframer = Deframer::new(Prefix::Len32);
        for _ in 0..20 {
            let len = Prefix::Len32.encode(MAX_FRAME_LEN).expect("fits");
            let mut bytes = len.as_bytes().to_vec();
            bytes.resize(bytes.len() + MAX_FRAME_LEN, 7);
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let space = deframer.space();
                let n = rest.len().min(space.len()).min(40_000);
                assert!(n > 0);
                space[..n].copy_from_slice(&rest[..n]);
                deframer.filled(n);
                rest = &rest[n..];
                if !rest.is_empty() {
                    assert!(frames_of(&mut deframer).is_empty());
                }
            }
            assert_eq!(frames_of(&mut deframer), [vec![7; MAX_FRAME_LEN]]);
        }
    }

    #[test]
    fn a_length_that_no_frame_has_ends_the_stream() {
        let mut deframer = Deframer::new(Prefix::Len32);
        deframer.space()[..4].copy_from_slice(b"GET ");
        deframer.filled(4);
        let error = deframer.next_frame().expect_err("out of step");
        assert!(error.to_string().contains("another framing"), "{error}");
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        assert_eq!(Prefix::Len16.encode(65536), None);
        let encoded = Prefix::Len16.encode(0x1234).expect("fits");
        assert_eq!(encoded.as_bytes(), [0x12, 0x34]);
        assert_eq!(Prefix::Len32.decode(&[0, 0, 1]), None);
    }
}
