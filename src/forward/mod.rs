//! Port forwards: a listener on one side, a connect on the other.
//!
//! | direction | written as | listener | connect |
//! |---|---|---|---|
//! | host to guest | `--publish` | a socket of the host, bound here | through the translation core |
//! | guest to host | `--expose-host` | the gateway's address | policy leads it to a host port or socket |
//!
//! [`spec`] is the one parser of how forwards are written. This room binds
//! sockets and keeps the table of forwards; it reaches the translation core
//! through [`GuestSide`] only.

pub mod spec;

use std::fmt;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use crate::policy::{HostTarget, Protocol};

pub use self::spec::ForwardSpec;

/// Names a forward. Counted from 1 and never used twice in a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ForwardId(pub NonZeroU32);

impl fmt::Display for ForwardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What forwards ask of the translation core.
pub trait GuestSide {
    /// Names a listener there.
    type Listener: Copy + fmt::Debug;

    /// Leads the clients of `socket` to the guest.
    ///
    /// # Errors
    /// When there is no room for another listener.
    fn listen(&mut self, socket: HostSocket) -> io::Result<Self::Listener>;

    /// Closes a listener; connections it has accepted live on.
    fn close(&mut self, listener: Self::Listener);

    /// Lets a port of the gateway's address lead to `target`.
    fn expose(&mut self, protocol: Protocol, port: u16, target: HostTarget);

    /// Takes that back.
    fn conceal(&mut self, protocol: Protocol, port: u16);
}

/// A bound socket of the host and the guest's port that its clients end up at.
#[derive(Debug)]
pub struct HostSocket {
    /// Bound, listening unless it is a UDP socket, non-blocking.
    pub socket: OwnedFd,
    /// What it is.
    pub kind: SocketKind,
    /// The guest's address; `None`: the guest, by the client's family.
    pub guest: Option<std::net::IpAddr>,
    /// The guest's port.
    pub port: u16,
}

/// Kinds of [`HostSocket`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketKind {
    /// TCP.
    Tcp,
    /// Unix stream.
    Unix,
    /// UDP.
    Udp,
}
