//! The link layer: things that carry frames between the guest and the gateway.
//!
//! A [`Link`] moves whole frames and never blocks. Offloads are described by
//! [`Offload`], in the terms of the virtio network header (virtio 1.2 section
//! 5.1.6): a frame may leave its transport checksum to the other side, and may
//! be a *super-frame* of up to 64 KiB that stands for many segments. The
//! gateway always speaks in super-frames; a link whose medium cannot carry
//! them cuts them up itself.

mod acceptor;
mod attach_error;
pub mod bess;
pub mod fd;
pub mod fdb;
mod frame_watcher;
pub mod framing;
pub mod ip_ether;
pub mod listen;
mod listening;
pub mod netns;
mod owners;
pub mod process;
mod queue;
mod retry;
mod rtnl;
mod socket_file;
mod software;
pub mod switch;
pub mod sys;
pub mod tun;
pub mod udp;
pub mod vde;
mod vnet;
mod watch;

pub use attach_error::{
    APPARMOR_RESTRICTION, AttachError, Errno, JoinAction, NamespaceKind, sysctl, userns_remedy,
};
pub use bess::Bess;
pub use frame_watcher::{Course, FrameWatcher, SharedWatcher, Watched};
pub use ip_ether::{IpEther, IpGuest, IpPorts};
pub use listening::{Listening, Seen, SocketWatch};
pub use owners::{Owner, SocketOwners, Transport};
pub use socket_file::{Access, SocketFile, SocketFileError};
pub use tun::Tap;
pub use watch::Watch;

use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;

pub use crate::net::{Checksum, Gso, GsoKind, MAX_FRAME_LEN, Medium, Offload};

/// What a link can leave to the guest's kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// The frames' form.
    pub medium: Medium,
    /// Transport checksums may be partial, both ways.
    pub checksum: bool,
    /// TCP super-frames pass, both ways.
    pub tso: bool,
    /// UDP super-frames pass, both ways.
    pub uso: bool,
}

/// A frame that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes of the frame in the buffer.
    pub len: usize,
    /// What the sender left to do.
    pub offload: Offload,
}

/// Carries frames. All calls return at once.
pub trait Link: fmt::Debug {
    /// What the medium offers; constant for the life of the link.
    fn caps(&self) -> Caps;

    /// A descriptor that polls readable when [`Link::recv`] may have a frame.
    fn readiness(&self) -> BorrowedFd<'_>;

    /// Reads one frame into `buf`: at least [`MAX_FRAME_LEN`] bytes, or 14 less
    /// where frames are bare IP packets. A frame that is none (longer than that,
    /// or with a header that makes no sense) has 0 bytes.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; `Interrupted` when something was done
    /// and the call should be repeated. Any other error means that the link is
    /// gone, and says why.
    fn recv(&mut self, buf: &mut [u8]) -> io::Result<Received>;

    /// Writes one frame, gathered from `frame`. The slices stay the caller's.
    ///
    /// # Errors
    /// `WouldBlock` when the medium is full: the frame is dropped, as on any
    /// wire. Any other error means that this frame could not be sent.
    fn send(&mut self, offload: &Offload, frame: &[IoSlice<'_>]) -> io::Result<()>;

    /// The ports that the link is made of, at most [`switch::MAX_PORTS`]; none
    /// for one that is not made of several.
    fn ports(&self) -> Vec<switch::PortInfo> {
        Vec::new()
    }

    /// Sets who looks at the frames of each port, from now on; `None`: nobody. For
    /// links that are made of several.
    fn watch_frames(&mut self, _watcher: Option<SharedWatcher>) -> Watched {
        Watched::ByWhoUsesIt
    }
}

/// A door for the fuzz targets: reads a virtio network header in front of a
/// frame, which must fit the frame when it is accepted.
#[doc(hidden)]
#[must_use]
pub fn fuzz_vnet(bytes: &[u8]) -> Option<(Offload, &[u8])> {
    let (header, frame) = bytes.split_first_chunk()?;
    vnet::decode(*header, frame, Medium::Ethernet).map(|offload| (offload, frame))
}
