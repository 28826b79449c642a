//! Port forwards: a listener on one side, a connect on the other.
//!
//! | direction | written as | listener | connect |
//! |---|---|---|---|
//! | host to guest | `--publish` | a socket of the host, bound here | through the translation core |
//! | guest to host | `--expose-host` | the gateway's address | policy leads it to a host port or socket |
//!
//! # Theory of operation
//!
//! [`spec`] says how forwards are written, [`parse`] is the one parser of it,
//! whoever asks: the command line, the control socket, another program's API.
//!
//! [`Forwards`] is the table. Adding is idempotent: the same forward again is
//! the same entry. A forward stands with all of its ports or not at all. What is
//! bound is handed to the translation core at once, through [`GuestSide`]; this
//! room keeps names of it, and of files that are to be removed at the end. So it
//! does nothing while traffic flows.
//!
//! [`bind`] makes sockets and says who is in the way. [`Passed`] holds the sockets
//! that a service manager opened. [`auto`] follows the ports that programs of
//! the guest listen on.
//!
//! Bounds: [`MAX_FORWARDS`] forwards, [`MAX_SOCKETS`] sockets among them, fewer
//! where the limit of open files is low; [`auto::MAX_AUTO`] ports that are
//! followed.

pub mod auto;
pub mod bind;
mod holder;
pub mod parse;
mod passed;
pub mod spec;
mod spec_error;
mod table;
mod unix;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use crate::policy::{HostTarget, Protocol};

pub use self::bind::{BindError, BoundAt};
pub use self::passed::{Passed, PassedError, PassedSocket};
pub use self::spec::{
    AutoPublish, Expose, ExposeTo, ForwardSpec, Publish, PublishAt, PublishOption,
};
pub use self::spec_error::{MAX_EXCEPT, SpecError, SpecProblem};
pub use self::table::{
    Added, ForwardError, ForwardInfo, Forwards, MAX_FORWARDS, MAX_SOCKETS, Origin, Outcome,
};

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
    /// When there is no room for another listener, or the guest's network has no
    /// such address.
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
    /// Bound, listening unless it is a UDP socket, non-blocking. An IPv6 socket
    /// may take IPv4 clients too: their addresses are then mapped ones.
    pub socket: OwnedFd,
    /// What it is.
    pub kind: SocketKind,
    /// The guest's address; `None`: the guest, by the client's family.
    pub guest: Option<IpAddr>,
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

#[cfg(test)]
mod testing {
    use std::net::Ipv4Addr;

    /// A loopback address that only this process uses, so that tests which run
    /// beside each other can have the same ports. Written `HERE` in them.
    pub(super) fn here() -> Ipv4Addr {
        let [a, b, c, d] = std::process::id().to_be_bytes();
        Ipv4Addr::new(127, 64 | (a ^ b) & 63, c, d)
    }

    /// `text` with that address in place of `HERE`.
    pub(super) fn at_home(text: &str) -> String {
        text.replace("HERE", &here().to_string())
    }
}
