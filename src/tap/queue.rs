//! Frames that wait for room in a socket.
//!
//! What the system keeps for a socket (`net.core.wmem_max`, 208 KiB on most
//! machines) is less than a window of TCP. A frame that is lost costs TCP far
//! more than one that comes a little later, so a link whose medium will say when
//! it has room keeps what did not fit, up to [`MAX_QUEUED`]. Beyond that frames
//! are lost, as on any wire.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

/// Bytes that wait at most: the greatest window of a connection. Only a reader
/// that is slow or stopped lets it come to that.
pub(super) const MAX_QUEUED: usize = 4 << 20;

/// Memory that an empty queue keeps.
const KEEP: usize = 64 << 10;

/// Bytes in the order they are to go.
#[derive(Debug, Default)]
pub(super) struct ByteQueue(VecDeque<u8>);

impl ByteQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True when another `len` bytes may wait.
    pub(super) fn has_room(&self, len: usize) -> bool {
        self.0.len() + len <= MAX_QUEUED
    }

    /// Puts `slices` behind what waits, less their first `skip` bytes.
    pub(super) fn push(&mut self, slices: &[IoSlice<'_>], mut skip: usize) {
        for slice in slices {
            let skipped = skip.min(slice.len());
            skip -= skipped;
            self.0.extend(&slice[skipped..]);
        }
    }

    /// The first `len` bytes, or as many as there are, in two pieces.
    pub(super) fn front(&self, len: usize) -> [IoSlice<'_>; 2] {
        let (a, b) = self.0.as_slices();
        let a = &a[..a.len().min(len)];
        let b = &b[..b.len().min(len - a.len())];
        [IoSlice::new(a), IoSlice::new(b)]
    }

    /// Takes the first `len` bytes away.
    pub(super) fn pop(&mut self, len: usize) {
        self.0.drain(..len.min(self.0.len()));
        if self.0.is_empty() && self.0.capacity() > KEEP {
            self.0 = VecDeque::new();
        }
    }
}

/// The same for frames that must stay apart.
#[derive(Debug, Default)]
pub(super) struct FrameQueue {
    bytes: ByteQueue,
    lengths: VecDeque<usize>,
}

impl FrameQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Lets a frame wait.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room: it is lost.
    pub(super) fn push(&mut self, frame: &[IoSlice<'_>]) -> io::Result<()> {
        let len = frame.iter().map(|slice| slice.len()).sum();
        if !self.bytes.has_room(len) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.bytes.push(frame, 0);
        self.lengths.push_back(len);
        Ok(())
    }

    /// Sends what waits by `send`, until that says `WouldBlock`. A frame that
    /// fails otherwise is lost.
    pub(super) fn flush(&mut self, mut send: impl FnMut(&[IoSlice<'_>]) -> nix::Result<()>) {
        while let Some(len) = self.lengths.front().copied() {
            match send(&self.bytes.front(len)) {
                Err(nix::Error::EAGAIN | nix::Error::ENOBUFS) => return,
                Err(nix::Error::EINTR) => {}
                Ok(()) | Err(_) => {
                    self.bytes.pop(len);
                    self.lengths.pop_front();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(slices: &[IoSlice<'_>]) -> Vec<u8> {
        slices.iter().flat_map(|s| s.iter().copied()).collect()
    }

    proptest! {
        /// Frames of any length, sent a few at a time.
        #[test]
        fn frames_stay_whole_and_in_order(
            frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..2000), 1..50),
            room in proptest::collection::vec(0..5usize, 1..40),
        ) {
            let mut queue = FrameQueue::default();
            let mut seen = Vec::new();
            let mut rooms = room.iter().chain(std::iter::repeat(&1));
            for frame in &frames {
                let (a, b) = frame.split_at(frame.len() / 3);
                queue.push(&[IoSlice::new(a), IoSlice::new(b)]).expect("room");
                let mut left = *rooms.next().expect("endless");
                queue.flush(|frame| {
                    left = left.checked_sub(1).ok_or(nix::Error::EAGAIN)?;
                    seen.push(whole(frame));
                    Ok(())
                });
            }
            queue.flush(|frame| {
                seen.push(whole(frame));
                Ok(())
            });
            prop_assert!(queue.is_empty());
            prop_assert_eq!(seen, frames);
        }

        #[test]
        fn bytes_stay_in_order(pieces in proptest::collection::vec((any::<Vec<u8>>(), 0..100usize), 0..30)) {
            let mut queue = ByteQueue::default();
            let mut expected = Vec::new();
            let mut seen = Vec::new();
            for (piece, taken) in pieces {
                let skip = piece.len() / 4;
                expected.extend_from_slice(&piece[skip..]);
                queue.push(&[IoSlice::new(&piece)], skip);
                let front = whole(&queue.front(taken));
                queue.pop(front.len());
                seen.extend(front);
            }
            seen.extend(whole(&queue.front(usize::MAX)));
            prop_assert_eq!(seen, expected);
        }
    }

    #[test]
    fn it_is_bounded_and_gives_memory_back() {
        let mut queue = FrameQueue::default();
        let frame = vec![7; 60_000];
        let mut count = 0;
        while queue.push(&[IoSlice::new(&frame)]).is_ok() {
            count += 1;
        }
        assert_eq!(count, MAX_QUEUED / frame.len());
        // What cannot be sent at all does not hold up the rest.
        let mut sent = 0;
        queue.flush(|_| {
            sent += 1;
            if sent == 1 {
                Err(nix::Error::EMSGSIZE)
            } else {
                Ok(())
            }
        });
        assert_eq!(sent, count);
        assert!(queue.is_empty());
        assert!(queue.bytes.0.capacity() <= KEEP);
    }
}
