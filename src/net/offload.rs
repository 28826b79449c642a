//! What is still to be done to a frame, in the terms of the virtio network
//! header (virtio 1.2 section 5.1.6).

/// What a link's frames look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// Ethernet frames without the frame check sequence.
    Ethernet,
    /// Bare IP packets.
    Ip,
}

/// The transport checksum of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// Complete in the frame, or absent; the receiver must check it.
    #[default]
    Complete,
    /// Known to be right: no need to check it.
    Valid,
    /// The field holds the pseudo-header's sum only; bytes from `start` on are
    /// still to be summed, the result goes to `start + offset`.
    Partial {
        /// Offset of the transport header in the frame, in bytes.
        start: u16,
        /// Offset of the checksum field from `start`, in bytes.
        offset: u16,
    },
}

/// What a super-frame is cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP: each piece is a datagram of its own.
    Udp,
}

/// A super-frame's segmentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gso {
    /// Protocol of the pieces.
    pub kind: GsoKind,
    /// Payload bytes of each piece but the last; never 0.
    pub size: u16,
    /// Bytes of headers (Ethernet, IP, transport) in front of the payload.
    pub header_len: u16,
}

/// What is still to be done to a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// State of the transport checksum.
    pub checksum: Checksum,
    /// Segmentation, for a super-frame.
    pub gso: Option<Gso>,
}
