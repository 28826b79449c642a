//! Plain values shared by every other room. Nothing here does input or output.

mod mac;
mod mtu;
mod offload;
mod plan;

pub use mac::{MacAddr, ParseMacError};
pub use mtu::{Mtu, MtuOutOfRange};
pub use offload::{Checksum, Gso, GsoKind, Medium, Offload};
pub use plan::{AddressPlan, PlanError, PlanV4, PlanV6, gateway_mac};

/// Bytes that any frame fits in: a 65535-byte IP packet, an Ethernet header and
/// a little room.
pub const MAX_FRAME_LEN: usize = 65535 + 14 + 19;
