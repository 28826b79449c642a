//! Packet views and builders for the few packets `gw` reads or answers itself.
//!
//! - [`checksum`]: the Internet checksum, fast enough for the data path.
//! - [`ethernet`]: frame headers.
//! - [`udp`]: whole UDP datagrams.
//! - [`summary`]: what a frame is about, for rules and filters.
//! - [`icmp`]: ICMP and ICMPv6 errors and echo.
//! - [`neighbour`]: asking for hardware addresses.
//! - [`segment`]: cutting super-frames into frames of the wire's size.
//!
//! Everything here is a pure function over bytes. What comes from a guest is
//! only read through checked views; no input makes these functions panic.

pub mod checksum;
pub mod ethernet;
pub mod icmp;
mod ip;
pub mod neighbour;
pub mod segment;
pub mod summary;
pub mod udp;

/// A packet that cannot be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// The payload does not fit into one IP packet.
    #[error("{len} bytes of payload do not fit into one packet; send at most {max}")]
    TooLong {
        /// Bytes given.
        len: usize,
        /// Bytes that fit.
        max: usize,
    },
    /// Source and destination are of different IP versions.
    #[error("source and destination differ in IP version; translate one of them first")]
    MixedFamilies,
}
