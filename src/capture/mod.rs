//! Captures: what passes a link, written to files and pipes that Wireshark reads.
//! The seed's `pcap`.

mod spec;

pub use self::spec::{CaptureSpec, CaptureSpecError};

/// Captures of one gateway at the same time, at most.
pub const MAX_CAPTURES: usize = 16;
