//! TAP and TUN interfaces of the Linux kernel.
//!
//! # Theory of operation
//!
//! The interface is attached with `IFF_VNET_HDR`, so each read and each write
//! carries a virtio network header in front of the frame. With it the kernel
//! leaves checksums and segmentation to us and takes super-frames of up to
//! 64 KiB from us, at any MTU; a checksum is computed in user space in neither
//! direction. One `readv` or `writev` moves one frame between the kernel and the
//! caller's buffers; nothing is copied or allocated here.
//!
//! What the kernel offers differs: USO needs Linux 6.2, and an interface made by
//! someone else may refuse the header. [`Tap::from_fd`] asks for the most and
//! steps down; what is missing is done in software by [`crate::wire::segment`], so
//! that callers always may speak in super-frames.
//!
//! A frame whose header makes no sense (a guest's program can forge them with a
//! packet socket) is read as a frame of 0 bytes.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;
use nix::sys::uio::{readv, writev};

use super::software::{Software, can_carry};
use super::sys::{self, TunFlags};
use super::{Caps, Link, Medium, Offload, Received, vnet};

/// The device through which interfaces are made and carried.
pub const TUN_DEVICE: &str = "/dev/net/tun";

/// Slices of a frame that go out in one `writev` straight from the caller's
/// buffers: headers and the chunks of one segment. More are gathered first.
const MAX_SLICES: usize = 64;

/// Slices, header included, for which a small table suffices.
const FEW_SLICES: usize = 8;

/// Offload sets to ask the kernel for, best first.
const OFFLOAD_STEPS: [libc::c_uint; 4] = [
    libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_USO4 | libc::TUN_F_USO6,
    libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6,
    libc::TUN_F_CSUM,
    0,
];

/// A TAP (or TUN) interface of the guest's, held by its descriptor. Closing it
/// removes the interface unless that was made persistent.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    caps: Caps,
    framing: Framing,
    software: Software,
}

/// What stands in front of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// A virtio network header.
    Vnet,
    /// Nothing.
    Bare,
}

/// Why [`open_interface`] failed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// [`TUN_DEVICE`] cannot be opened.
    #[error("cannot open {TUN_DEVICE}: {0}")]
    Device(#[source] io::Error),
    /// The interface cannot be made or attached.
    #[error("cannot attach the interface: {0}")]
    Interface(#[source] io::Error),
}

/// Opens [`TUN_DEVICE`] and attaches it to the interface `name` of the *current*
/// network namespace, which is made when missing: a TAP for Ethernet, a TUN for
/// bare IP.
///
/// # Errors
/// Of opening the device, or of `TUNSETIFF`: `EBUSY` when another program holds
/// it, `EINVAL` when the name belongs to something else, `EPERM` without
/// `CAP_NET_ADMIN` in the namespace.
pub fn open_interface(name: &str, medium: Medium) -> Result<OwnedFd, OpenError> {
    let tun = open_device().map_err(OpenError::Device)?;
    let kind = match medium {
        Medium::Ethernet => libc::IFF_TAP,
        Medium::Ip => libc::IFF_TUN,
    };
    let base: TunFlags = kind | libc::IFF_NO_PI;
    // An interface that somebody else made with several queues, or a kernel
    // that refuses the header, wants to be asked differently; all say EINVAL.
    let vnet = base | libc::IFF_VNET_HDR;
    let mut refused = io::Error::from_raw_os_error(libc::EINVAL);
    for flags in [vnet, vnet | libc::IFF_MULTI_QUEUE, base] {
        match sys::tun_set_iff(tun.as_fd(), name, flags) {
            Ok(()) => return Ok(tun),
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => refused = e,
            Err(e) => return Err(OpenError::Interface(e)),
        }
    }
    Err(OpenError::Interface(refused))
}

/// Opens [`TUN_DEVICE`]. The descriptor belongs to the *current* network
/// namespace.
pub(super) fn open_device() -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    open(TUN_DEVICE, flags, Mode::empty()).map_err(Into::into)
}

impl Tap {
    /// Takes over an attached descriptor, whoever attached it, and asks the
    /// kernel for as much offload as it grants.
    ///
    /// # Errors
    /// When `fd` is not an attached TUN or TAP, or one with the packet
    /// information header of `IFF_NO_PI`'s absence.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let flags = sys::tun_get_flags(fd.as_fd())?;
        if flags & libc::IFF_NO_PI == 0 {
            return Err(io::Error::other(
                "the TAP was attached without IFF_NO_PI; attach it with that flag",
            ));
        }
        let medium = if flags & libc::IFF_TAP != 0 {
            Medium::Ethernet
        } else {
            Medium::Ip
        };
        let framing = if flags & libc::IFF_VNET_HDR != 0 {
            Framing::Vnet
        } else {
            Framing::Bare
        };
        set_nonblocking(fd.as_fd())?;
        let granted = match framing {
            Framing::Vnet => {
                // The interface's last user may have left another length.
                let len = libc::c_int::try_from(vnet::HEADER_LEN).map_err(io::Error::other)?;
                sys::tun_set_header_len(fd.as_fd(), len)?;
                negotiate(fd.as_fd(), &OFFLOAD_STEPS)
            }
            // Without the header nothing could describe an offloaded frame.
            Framing::Bare => negotiate(fd.as_fd(), &[0]),
        };
        let caps = Caps {
            medium,
            checksum: granted & libc::TUN_F_CSUM != 0,
            tso: granted & libc::TUN_F_TSO4 != 0,
            uso: granted & libc::TUN_F_USO4 != 0,
        };
        Ok(Self {
            fd,
            caps,
            framing,
            software: Software::default(),
        })
    }

    /// Sends what the kernel would not take as it is.
    #[cold]
    fn send_in_software(&mut self, offload: &Offload, frame: &[IoSlice<'_>]) -> io::Result<()> {
        let (fd, framing) = (self.fd.as_fd(), self.framing);
        self.software
            .send(&self.caps, offload, frame, |offload, whole| {
                write_frame(fd, framing, offload, &[IoSlice::new(whole)])
            })
    }
}

impl Link for Tap {
    fn caps(&self) -> Caps {
        self.caps
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Reads one frame. A frame with a header that makes no sense is 0 bytes
    /// long: it counts as malformed and says nothing about the link.
    #[inline]
    fn recv(&mut self, buf: &mut [u8]) -> io::Result<Received> {
        if self.framing == Framing::Bare {
            let len = nix::unistd::read(&self.fd, buf)?;
            return Ok(Received {
                len: len.min(buf.len()),
                offload: Offload::default(),
            });
        }
        let mut header = [0; vnet::HEADER_LEN];
        let read = {
            let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(buf)];
            readv(&self.fd, &mut parts)?
        };
        let frame = read
            .checked_sub(vnet::HEADER_LEN)
            .and_then(|len| buf.get(..len));
        match frame.and_then(|f| Some((f.len(), vnet::decode(header, f, self.caps.medium)?))) {
            Some((len, offload)) => Ok(Received { len, offload }),
            None => Ok(Received {
                len: 0,
                offload: Offload::default(),
            }),
        }
    }

    #[inline]
    fn send(&mut self, offload: &Offload, frame: &[IoSlice<'_>]) -> io::Result<()> {
        if can_carry(&self.caps, offload) && frame.len() <= MAX_SLICES {
            write_frame(self.fd.as_fd(), self.framing, offload, frame)
        } else {
            self.send_in_software(offload, frame)
        }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// One `writev` of at most [`MAX_SLICES`] slices, behind a header if there is
/// to be one.
#[inline]
fn write_frame(
    fd: BorrowedFd<'_>,
    framing: Framing,
    offload: &Offload,
    frame: &[IoSlice<'_>],
) -> io::Result<()> {
    match (framing, frame.len()) {
        (Framing::Bare, _) => {
            writev(fd, frame)?;
            Ok(())
        }
        // Most frames are headers and one or two chunks; the big table on the
        // stack would cost more to clear than they cost to describe.
        (Framing::Vnet, ..FEW_SLICES) => write_behind_header::<FEW_SLICES>(fd, offload, frame),
        (Framing::Vnet, _) => write_behind_header::<{ MAX_SLICES + 1 }>(fd, offload, frame),
    }
}

/// `SLICES` is more than there are in `frame`: the header is one more.
#[inline]
fn write_behind_header<const SLICES: usize>(
    fd: BorrowedFd<'_>,
    offload: &Offload,
    frame: &[IoSlice<'_>],
) -> io::Result<()> {
    let header = vnet::encode(offload);
    let mut parts = [IoSlice::new(&[]); SLICES];
    parts[0] = IoSlice::new(&header);
    parts[1..=frame.len()].copy_from_slice(frame);
    writev(fd, &parts[..=frame.len()])?;
    Ok(())
}

/// Sets the first of `steps` that the kernel takes and returns it.
fn negotiate(fd: BorrowedFd<'_>, steps: &[libc::c_uint]) -> libc::c_uint {
    steps
        .iter()
        .copied()
        .find(|&set| sys::tun_set_offload(fd, set).is_ok())
        .unwrap_or(0)
}

fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
