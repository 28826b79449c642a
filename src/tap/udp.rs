//! Ethernet frames in UDP datagrams, for several clients at one socket.
//!
//! # Theory of operation
//!
//! A datagram holds one frame, alone ([`UdpFraming::Raw`], as in QEMU's
//! `-netdev dgram` and `socket,udp=`, and VirtualBox's UDPTunnel) or behind its
//! length ([`UdpFraming::Len16`]). Clients do not sign on: whoever sends a frame
//! is one, until it has been silent for [`AGEING`](super::fdb::AGEING). Which station is behind which
//! client is learnt from the frames' sources ([`super::fdb`]); stations that are
//! behind neither are on this side of the link, and frames to them come up. The
//! link forwards between its clients as a switch does:
//!
//! | destination | to |
//! |---|---|
//! | the gateway, or a station on this side | this side |
//! | a station of another client | that client |
//! | a station of the same client | nobody |
//! | a group, or nobody known | every other client, and this side |
//!
//! So with several clients the gateway, or the switch this is a port of, sees
//! frames that are none of its business, as on any segment.
//!
//! **Who may send.** UDP has no sender that one could be sure of, and a port on
//! the loopback address is open to every user of the host. `peer` pins the link
//! to one address; the kernel then keeps everybody else's datagrams away.
//!
//! **Errors.** Empty datagrams are ignored. A datagram that is no frame, or not as
//! long as it says, is a frame of 0 bytes, which is counted as malformed. That a
//! client's port is closed (an ICMP error) changes nothing: it may come back.
//!
//! **Limits.** [`MAX_CLIENTS`]: one more takes the place of the one that has been
//! silent longest, and who was only slow is back with its next frame. The tables
//! of [`super::fdb`].

mod clients;
mod wire;

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use self::clients::{ClientId, Clients};
use self::wire::{Datagram, Wire};
use super::fd::plain;
use super::fdb::Fdb;
use super::software::Software;
use super::{Caps, Link, Medium, Offload, Received};
use crate::net::MacAddr;

/// Clients at most: as many virtual machines as one host runs.
pub const MAX_CLIENTS: usize = 64;

/// Bytes of an Ethernet header.
const HEADER_LEN: usize = 14;

/// Slices that one `sendmsg` takes (`UIO_MAXIOV`), less one for a length.
const MAX_SLICES: usize = 1023;

/// How a frame stands in a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UdpFraming {
    /// Alone. The default.
    #[default]
    Raw,
    /// Behind its length: two bytes, in network byte order.
    Len16,
}

/// Where to listen, and for whom.
#[derive(Debug, Clone)]
pub struct UdpOptions {
    /// The socket's address. It must be one of this host; port 0: any.
    pub bind: SocketAddr,
    /// Default [`UdpFraming::Raw`].
    pub framing: UdpFraming,
    /// The only client there is; `None`, the default: whoever sends.
    pub peer: Option<SocketAddr>,
    /// The gateway's address, which no client may pretend to have.
    pub gateway: MacAddr,
}

impl UdpOptions {
    /// A socket at `bind` for all clients, in the gateway's name.
    #[must_use]
    pub fn new(bind: SocketAddr, gateway: MacAddr) -> Self {
        Self {
            bind,
            framing: UdpFraming::default(),
            peer: None,
            gateway,
        }
    }
}

/// The socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum UdpError {
    /// The address is not to be had.
    #[error(
        "cannot listen on UDP {address}: {source}; choose an address of this host and a free port"
    )]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// There is no way to the pinned client.
    #[error("cannot send UDP from {address} to {peer}: {source}; both must be IPv4, or both IPv6")]
    Peer {
        /// From where.
        address: SocketAddr,
        /// Where to.
        peer: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Where a station is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    Client(ClientId),
    /// The gateway's side.
    Here,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct UdpLink {
    wire: Wire,
    gateway: MacAddr,
    clients: Clients,
    stations: Fdb<Place>,
    software: Software,
    caps: Caps,
    /// A hint about the framing was given.
    has_warned: bool,
}

/// Where a frame from a client goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Here,
    Client(ClientId),
    Everybody,
    Nowhere,
}

impl UdpLink {
    /// Opens the socket.
    ///
    /// # Errors
    /// [`UdpError`].
    pub fn new(options: &UdpOptions) -> Result<Self, UdpError> {
        let wire = Wire::open(options)?;
        let mut clients = Clients::default();
        if let Some(address) = options.peer {
            clients.heard(address, Instant::now());
        }
        Ok(Self {
            wire,
            gateway: options.gateway,
            clients,
            stations: Fdb::default(),
            software: Software::default(),
            caps: plain(Medium::Ethernet),
            has_warned: false,
        })
    }

    /// Where it listens, with the port that the system chose.
    ///
    /// # Errors
    /// None that is known.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let address = self.wire.socket().local_addr()?;
        address
            .as_socket()
            .ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    /// The clients: their addresses and the stations behind each.
    #[must_use]
    pub fn clients(&self) -> Vec<(SocketAddr, Vec<MacAddr>)> {
        let stations = |id| {
            let of_client = self.stations.iter();
            let of_client = of_client.filter(|(_, place, _)| *place == Place::Client(id));
            let mut stations: Vec<_> = of_client.map(|(mac, ..)| mac).collect();
            stations.sort_unstable();
            stations
        };
        let mut clients: Vec<_> = self
            .clients
            .iter()
            .map(|(id, address)| (address, stations(id)))
            .collect();
        clients.sort_unstable();
        clients
    }

    /// Learns from a frame's header and says where the frame goes; `None`: it is
    /// no frame, or not of who it says.
    fn way(&mut self, frame: &[u8], from: SocketAddr, now: Instant) -> Option<Way> {
        let (destination, source) = addresses(frame)?;
        if source == self.gateway || !source.is_unicast() {
            return None;
        }
        let from = self.heard(from, now);
        self.stations.learn(source, Place::Client(from), now);
        if destination == self.gateway {
            return Some(Way::Here);
        }
        Some(match self.stations.find(destination, now) {
            Some(Place::Here) => Way::Here,
            Some(Place::Client(client)) if client == from => Way::Nowhere,
            Some(Place::Client(client)) => Way::Client(client),
            None => Way::Everybody,
        })
    }

    fn heard(&mut self, address: SocketAddr, now: Instant) -> ClientId {
        let (id, gone) = self.clients.heard(address, now);
        if let Some(gone) = gone {
            self.stations.forget_port(Place::Client(gone));
        }
        id
    }

    fn forget_the_silent(&mut self, now: Instant) {
        self.stations.expire(now);
        // A pinned client is there whether or not it speaks.
        if self.wire.peer.is_none() {
            for gone in self.clients.expire(now) {
                self.stations.forget_port(Place::Client(gone));
            }
        }
    }

    /// A frame between clients. One that gets lost is lost.
    fn forward(&self, way: Way, from: SocketAddr, frame: &[u8]) {
        let slices = [IoSlice::new(frame)];
        match way {
            Way::Here | Way::Nowhere => {}
            Way::Client(id) => {
                if let Some(to) = self.clients.address(id) {
                    let _ = self.wire.send(to, &slices);
                }
            }
            Way::Everybody => {
                for (_, to) in self.clients.iter().filter(|(_, to)| *to != from) {
                    let _ = self.wire.send(to, &slices);
                }
            }
        }
    }

    fn malformed(&mut self, from: SocketAddr) -> Received {
        if !self.has_warned {
            self.has_warned = true;
            tracing::warn!(
                %from,
                framing = ?self.wire.framing(),
                "a datagram is no Ethernet frame; does the other end use another framing?"
            );
        }
        Received {
            len: 0,
            offload: Offload::default(),
        }
    }
}

impl Link for UdpLink {
    fn caps(&self) -> Caps {
        self.caps
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.wire.socket().as_fd()
    }

    fn recv(&mut self, buf: &mut [u8]) -> io::Result<Received> {
        let (len, from) = match self.wire.recv(buf)? {
            Datagram::Frame { len, from } => (len, from),
            Datagram::Mismatch { from } => return Ok(self.malformed(from)),
            Datagram::Empty => return Err(io::ErrorKind::Interrupted.into()),
        };
        let now = Instant::now();
        self.forget_the_silent(now);
        let frame = &buf[..len];
        let Some(way) = self.way(frame, from, now) else {
            return Ok(self.malformed(from));
        };
        self.forward(way, from, frame);
        match way {
            Way::Here | Way::Everybody => Ok(Received {
                len,
                offload: Offload::default(),
            }),
            Way::Client(_) | Way::Nowhere => Err(io::ErrorKind::Interrupted.into()),
        }
    }

    fn send(&mut self, offload: &Offload, frame: &[IoSlice<'_>]) -> io::Result<()> {
        let now = Instant::now();
        self.forget_the_silent(now);
        let header = first_bytes(frame);
        let Some((destination, source)) = addresses(&header) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        self.stations.learn(source, Place::Here, now);
        let to = match self.stations.find(destination, now) {
            Some(Place::Client(id)) => Recipients::One(id),
            Some(Place::Here) => return Ok(()),
            None => Recipients::All,
        };
        let Self {
            wire,
            clients,
            software,
            caps,
            ..
        } = self;
        software.carry(caps, offload, frame, MAX_SLICES, |frame| {
            send_to(wire, clients, to, frame)
        })
    }
}

/// Whom a frame from this side goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recipients {
    One(ClientId),
    All,
}

fn send_to(
    wire: &Wire,
    clients: &Clients,
    to: Recipients,
    frame: &[IoSlice<'_>],
) -> io::Result<()> {
    match to {
        Recipients::One(id) => match clients.address(id) {
            Some(address) => wire.send(address, frame),
            None => Ok(()),
        },
        Recipients::All => {
            let mut result = Ok(());
            for (_, address) in clients.iter() {
                result = wire.send(address, frame).and(result);
            }
            result
        }
    }
}

/// Destination and source of a frame.
fn addresses(frame: &[u8]) -> Option<(MacAddr, MacAddr)> {
    let header: &[u8; HEADER_LEN] = frame.first_chunk()?;
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, ..] = *header;
    Some((
        MacAddr([d0, d1, d2, d3, d4, d5]),
        MacAddr([s0, s1, s2, s3, s4, s5]),
    ))
}

/// The header of a frame in pieces; zeros where it is shorter.
fn first_bytes(frame: &[IoSlice<'_>]) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    let bytes = frame.iter().flat_map(|slice| slice.iter());
    for (to, from) in header.iter_mut().zip(bytes) {
        *to = *from;
    }
    header
}

#[cfg(test)]
mod tests;
