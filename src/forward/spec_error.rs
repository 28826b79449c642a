//! Why a forward cannot be read, and how they are written.

use std::net::{IpAddr, Ipv6Addr};

use crate::policy::PortRange;

/// Most ranges in `except=`.
pub const MAX_EXCEPT: usize = 64;

/// Longest path of a unix socket, in bytes (`sockaddr_un`, less the zero).
pub(super) const MAX_UNIX_PATH: usize = 107;

/// A forward that cannot be read; says what is wrong and how they are written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; {}", forms.text())]
pub struct SpecError {
    /// What is wrong.
    pub problem: SpecProblem,
    forms: Forms,
}

/// What is wrong with a forward.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each says what it is")]
pub enum SpecProblem {
    #[error("nothing is to be published")]
    Empty,
    #[error("'{0}' is no port; those are 1 to 65535")]
    NotAPort(String),
    #[error("the range {0}-{1} is empty; {1}-{0} is meant, perhaps")]
    EmptyRange(u16, u16),
    #[error("{host} are {} ports and {guest} are {}: give both sides as many", host.count(), guest.count())]
    DifferentLengths { host: PortRange, guest: PortRange },
    #[error(
        "port 0 stands for one that the system chooses: it can be one host port only, and needs a guest port"
    )]
    ZeroPort,
    #[error("'{0}' is no protocol; tcp and udp are")]
    NotAProtocol(String),
    #[error("SCTP is not carried; tcp and udp are")]
    Sctp,
    #[error("'{0}' is no address")]
    NotAnAddress(String),
    #[error("'{0}' looks like an IPv6 address; put it in brackets, like [::1]:8080:80")]
    NeedsBrackets(String),
    #[error("'{0}' is no name of an interface")]
    NotAnInterface(String),
    #[error("{0} is not an address to listen on")]
    NotToListenOn(IpAddr),
    #[error("{0} is link-local; name its interface, like [{0}%eth0]:8080:80")]
    NeedsInterface(IpAddr),
    #[error("{0} holds an IPv4 address; write that one")]
    Mapped(Ipv6Addr),
    #[error("{0} is not an address that a guest is reached at")]
    NotAGuest(IpAddr),
    #[error(
        "the guest's loopback {0} cannot be reached from outside it: let the program listen on 0.0.0.0 or [::], and leave the address out"
    )]
    GuestLoopback(IpAddr),
    #[error("'{0}' names a guest address without a port")]
    NoGuestPort(String),
    #[error("there are too many parts in '{0}'")]
    TooManyParts(String),
    #[error("'{0}' is no path of a unix socket; those have 1 to {MAX_UNIX_PATH} bytes")]
    NotAPath(String),
    #[error("abstract sockets, as '{0}', have no owner that could be checked; use a path")]
    Abstract(String),
    #[error("a unix socket carries one TCP port")]
    UnixCarriesTcp,
    #[error("'{0}' is no name of a passed socket")]
    NotAPassedName(String),
    #[error("host ports {0} and those behind it do not reach as far as guest ports {1}")]
    BeyondLastPort(u16, PortRange),
    #[error("'{0}' is not understood; 'except=' and ports like 22,6000-6010 may stand there")]
    NotExcept(String),
    #[error("at most {MAX_EXCEPT} ranges of ports can be excepted; merge some")]
    TooManyExcept,
}

/// Which forms an error shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Forms {
    Publish,
    Expose,
}

impl Forms {
    const fn text(self) -> &'static str {
        match self {
            Self::Publish => {
                "the forms are [ADDR:]PORT[-PORT][:GUESTPORT[-GUESTPORT]][/tcp|udp] \
                 (8080:80, 127.0.0.1:8080:80, [::1]:8000-8010:9000-9010/udp), \
                 unix:PATH:GUESTPORT, systemd:[NAME:]GUESTPORT and auto"
            }
            Self::Expose => {
                "the forms are PORT[-PORT][:GUESTPORT[-GUESTPORT]][/tcp|udp] \
                 (5432, 5432:15432, 8000-8010/udp) and unix:PATH:GUESTPORT"
            }
        }
    }

    pub(super) const fn error(self, problem: SpecProblem) -> SpecError {
        SpecError {
            problem,
            forms: self,
        }
    }
}
