//! Captures: what passes a link, written to files and pipes that Wireshark reads.
//! The seed's `pcap`.
//!
//! # Theory of operation
//!
//! The gateway's loop shows each frame to [`Captures`]. A capture whose filter
//! picks the frame copies it into its queue ([`queue`]), with the time, and that is
//! all that the loop does. A thread of the capture's own takes what is queued
//! ([`writer`]), cuts super-frames into what they are on the wire, and writes
//! ([`format`], [`output`]).
//!
//! **Loss.** The queue has a bound in bytes ([`QUEUE_BYTES`]). What does not fit is
//! not captured, and counted: in the file (`epb_dropcount` of the next packet of
//! that interface, `isb_ifdrop` at the end), in the list of captures, and in the
//! log. Nobody waits: neither the loop for the thread nor the guest for either.
//!
//! **Failure.** A capture that cannot go on (the disk is full, the reader of a pipe
//! has left) ends with one message; the gateway and other captures go on. What was
//! written of a block that did not fit is cut off again.
//!
//! **Being killed.** Only whole blocks are handed to the kernel, within
//! milliseconds of the frame. So a file can be read at any time, and what a killed
//! gateway leaves can be read; a SIGKILL that strikes within the write itself may
//! leave the last block short, which readers say and bear.
//!
//! **Whose view.** That of the guest: what it sends is outbound. A super-frame
//! becomes the packets of the wire's size that it stands for; unfinished checksums
//! are completed ([`Segment::On`]), or all is left as it passes.
//!
//! **Limits.** [`MAX_CAPTURES`], [`QUEUE_BYTES`], [`MAX_INTERFACES`], [`MAX_NOTES`],
//! those of [`spec`] and [`filter`].

mod error;
pub mod filter;
mod format;
mod note;
mod output;
mod queue;
mod set;
mod spec;
mod writer;

pub use self::error::CaptureError;
pub use self::filter::{Filter, FilterError};
pub use self::note::{MAX_NOTE_LEN, MAX_NOTES, Note};
pub use self::queue::QUEUE_BYTES;
pub use self::set::{
    Answer, CaptureId, CaptureInfo, CaptureState, Captures, MAX_INTERFACES, Port, PortKey,
};
pub use self::spec::{
    CaptureSpec, CaptureSpecError, DEFAULT_SNAPLEN, Form, MAX_FILES, MIN_FILE_SIZE, Segment, Target,
};

/// Captures of one gateway at the same time, at most.
pub const MAX_CAPTURES: usize = 16;

/// Which way a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The guest sent it.
    FromGuest,
    /// It is for the guest.
    ToGuest,
}

/// A door for the fuzz targets: reads a filter and tries it on a frame. What is
/// read must be written so that it is read as the same again.
#[doc(hidden)]
pub fn fuzz_filter(text: &str, frame: &[u8]) {
    let Ok(filter) = text.parse::<Filter>() else {
        return;
    };
    let again: Filter = filter.to_string().parse().expect("what is written is read");
    assert_eq!(again, filter);
    let _ = filter.matches(frame);
}

/// A door for the fuzz targets: what is read must be written so that it is read as
/// the same again.
#[doc(hidden)]
pub fn fuzz_spec(text: &str) {
    let Ok(spec) = text.parse::<CaptureSpec>() else {
        return;
    };
    let again: CaptureSpec = spec.to_string().parse().expect("what is written is read");
    assert_eq!(again, spec);
}
