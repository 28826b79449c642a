//! The link's maximum transmission unit.

use std::fmt;

/// Largest IP packet, in bytes, that one frame of a link carries.
///
/// From 68 (the least an IPv4 link must carry, RFC 791) to 65520.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mtu(u16);

/// The number is outside what a link can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an MTU of {0} is not possible; choose {min} to {max} bytes", min = Mtu::MIN, max = Mtu::MAX)]
pub struct MtuOutOfRange(pub u32);

impl Mtu {
    /// Least MTU, in bytes.
    pub const MIN: u16 = 68;
    /// Greatest MTU, in bytes.
    pub const MAX: u16 = 65520;
    /// Least MTU, in bytes, on which IPv6 works (RFC 8200 section 5).
    pub const MIN_IPV6: u16 = 1280;
    /// Ethernet's 1500 bytes.
    pub const ETHERNET: Self = Self(1500);

    /// Checks the range.
    ///
    /// # Errors
    /// [`MtuOutOfRange`] outside [`Mtu::MIN`]..=[`Mtu::MAX`].
    pub fn new(bytes: u32) -> Result<Self, MtuOutOfRange> {
        match u16::try_from(bytes) {
            Ok(b) if (Self::MIN..=Self::MAX).contains(&b) => Ok(Self(b)),
            _ => Err(MtuOutOfRange(bytes)),
        }
    }

    /// The value in bytes.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
