//! The translation core.

mod lwip;

/// Bytes that any frame fits in.
pub(crate) const MAX_FRAME: usize = 65535 + 14 + 19;
