//! Sockets that a service manager opened and passed to this program
//! (`sd_listen_fds(3)`), as listeners of forwards.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

use socket2::{Domain, SockRef, Type};

use super::bind::BoundAt;
use super::spec::Publish;
use super::{HostSocket, SocketKind};
use crate::policy::{PortRange, Protocol};

/// A socket that was passed.
#[derive(Debug)]
pub struct PassedSocket {
    /// `FileDescriptorName=`, or the unit's name.
    pub name: String,
    /// The socket, or whatever it is: that is checked when it is taken.
    pub socket: OwnedFd,
}

/// The sockets that were passed and are not taken yet.
#[derive(Debug, Default)]
pub struct Passed {
    sockets: Vec<PassedSocket>,
}

/// Why there is no passed socket for a forward; the text says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PassedError {
    /// None at all is left.
    #[error(
        "no {0} socket was passed, or others have it; start gw by a socket unit (systemd.socket(5)), or give a port"
    )]
    Nothing(&'static str),
    /// None of that name.
    #[error(
        "no socket of the name '{name}' was passed; {have} (FileDescriptorName= in the socket unit names them)"
    )]
    NoSuchName {
        /// The name.
        name: String,
        /// Those that were passed.
        have: String,
    },
    /// It cannot be a listener of the forward.
    #[error("the passed socket '{name}' is {is}; {wanted} is needed")]
    WrongKind {
        /// Its name.
        name: String,
        /// What it is.
        is: Kind,
        /// What it should be.
        wanted: &'static str,
    },
}

/// What a passed descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A listener that can lead to the guest.
    Usable(SocketKind),
    /// A TCP or unix stream socket that does not listen, as `Accept=yes` passes.
    NotListening,
    /// A UDP socket without a port.
    NotBound,
    /// Another kind of socket.
    OtherSocket,
    /// No socket.
    NoSocket,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Usable(SocketKind::Tcp) => "a TCP socket",
            Self::Usable(SocketKind::Unix) => "a unix stream socket",
            Self::Usable(SocketKind::Udp) => "a UDP socket",
            Self::NotListening => "a connection and not a listener (Accept=no passes those)",
            Self::NotBound => "a UDP socket without a port",
            Self::OtherSocket => "a socket of another kind",
            Self::NoSocket => "not a socket",
        })
    }
}

impl Passed {
    /// Takes sockets over.
    #[must_use]
    pub const fn new(sockets: Vec<PassedSocket>) -> Self {
        Self { sockets }
    }

    /// Names of those that nobody has taken.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.sockets.iter().map(|socket| &*socket.name)
    }

    /// Gives up the sockets for `publish`: those of `name`, or all that fit.
    pub(super) fn take(
        &mut self,
        publish: &Publish,
        name: Option<&str>,
    ) -> Result<(Vec<HostSocket>, Vec<BoundAt>), PassedError> {
        let fits = |socket: &PassedSocket| fits(kind_of(&socket.socket), publish.protocol);
        let is_wanted = |socket: &PassedSocket| match name {
            Some(name) => socket.name == name,
            None => fits(socket),
        };
        let mut wanted = self
            .sockets
            .iter()
            .filter(|socket| is_wanted(socket))
            .peekable();
        if wanted.peek().is_none() {
            return Err(self.nothing(publish.protocol, name));
        }
        if let Some(wrong) = wanted.find(|socket| !fits(socket)) {
            return Err(PassedError::WrongKind {
                name: wrong.name.clone(),
                is: kind_of(&wrong.socket),
                wanted: wanted_kind(publish.protocol),
            });
        }
        let taken = self.sockets.extract_if(.., |socket| is_wanted(socket));
        Ok(taken
            .filter_map(|taken| host_socket(taken, publish))
            .unzip())
    }

    fn nothing(&self, protocol: Protocol, name: Option<&str>) -> PassedError {
        let Some(name) = name else {
            return PassedError::Nothing(match protocol {
                Protocol::Udp => "UDP",
                Protocol::Tcp | Protocol::Echo => "TCP or unix",
            });
        };
        let names: Vec<&str> = self.names().collect();
        PassedError::NoSuchName {
            name: name.to_owned(),
            have: if names.is_empty() {
                "none is left".to_owned()
            } else {
                format!("there are '{}'", names.join("', '"))
            },
        }
    }
}

const fn wanted_kind(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Udp => "a bound UDP socket (ListenDatagram=)",
        Protocol::Tcp | Protocol::Echo => {
            "a TCP or unix stream socket that listens (ListenStream=)"
        }
    }
}

fn fits(kind: Kind, protocol: Protocol) -> bool {
    match kind {
        Kind::Usable(SocketKind::Udp) => protocol == Protocol::Udp,
        Kind::Usable(SocketKind::Tcp | SocketKind::Unix) => protocol == Protocol::Tcp,
        _ => false,
    }
}

/// What a descriptor is.
fn kind_of(fd: &OwnedFd) -> Kind {
    let socket = SockRef::from(fd);
    let (Ok(domain), Ok(kind)) = (socket.domain(), socket.r#type()) else {
        return Kind::NoSocket;
    };
    let is_ip = domain == Domain::IPV4 || domain == Domain::IPV6;
    match kind {
        Type::STREAM if is_ip || domain == Domain::UNIX => match socket.is_listener() {
            Ok(true) if is_ip => Kind::Usable(SocketKind::Tcp),
            Ok(true) => Kind::Usable(SocketKind::Unix),
            _ => Kind::NotListening,
        },
        Type::DGRAM if is_ip => match socket.local_addr().map(|a| a.as_socket()) {
            Ok(Some(at)) if at.port() != 0 => Kind::Usable(SocketKind::Udp),
            _ => Kind::NotBound,
        },
        _ => Kind::OtherSocket,
    }
}

/// A socket that fits, as the core is given it; `None` when it no longer works.
fn host_socket(passed: PassedSocket, publish: &Publish) -> Option<(HostSocket, BoundAt)> {
    let Kind::Usable(kind) = kind_of(&passed.socket) else {
        return None;
    };
    let at = bound_at(&passed.socket).ok()?;
    SockRef::from(&passed.socket).set_nonblocking(true).ok()?;
    let socket = HostSocket {
        socket: passed.socket,
        kind,
        guest: None,
        port: publish.guest_ports.first,
    };
    Some((socket, at))
}

fn bound_at(fd: &OwnedFd) -> io::Result<BoundAt> {
    let socket = SockRef::from(fd);
    let at = socket.local_addr()?;
    if let Some(path) = at.as_pathname() {
        return Ok(BoundAt::Unix(path.to_owned()));
    }
    if let Some(name) = at.as_abstract_namespace() {
        let name = String::from_utf8_lossy(name).into_owned();
        return Ok(BoundAt::Unix(format!("@{name}").into()));
    }
    let addr = at.as_socket();
    let both_families = addr.is_some_and(|a| a.is_ipv6() && a.ip().is_unspecified())
        && socket.only_v6().is_ok_and(|only| !only);
    let interface = socket.device().ok().flatten();
    Ok(BoundAt::Ports {
        addr: addr.map(|a| a.ip()).filter(|_| !both_families),
        interface: interface.map(|name| String::from_utf8_lossy(&name).into_owned()),
        ports: PortRange::one(addr.map_or(0, |a| a.port())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    fn passed(sockets: Vec<(&str, OwnedFd)>) -> Passed {
        let sockets = sockets.into_iter().map(|(name, socket)| PassedSocket {
            name: name.to_owned(),
            socket,
        });
        Passed::new(sockets.collect())
    }

    fn tcp() -> OwnedFd {
        TcpListener::bind("127.0.0.1:0").expect("a port").into()
    }

    fn udp() -> OwnedFd {
        UdpSocket::bind("127.0.0.1:0").expect("a port").into()
    }

    fn take(passed: &mut Passed, spec: &str) -> Result<Vec<BoundAt>, PassedError> {
        let publish: Publish = spec.parse().expect("a forward");
        let super::super::PublishAt::Passed { name } = publish.host.clone() else {
            panic!("{spec} is no passed socket");
        };
        let (sockets, at) = passed.take(&publish, name.as_deref())?;
        assert_eq!(sockets.len(), at.len());
        assert!(sockets.iter().all(|s| s.port == publish.guest_ports.first));
        Ok(at)
    }

    #[test]
    fn names_and_kinds_decide_who_gets_which() {
        let mut all = passed(vec![
            ("web", tcp()),
            ("dns", udp()),
            ("web", tcp()),
            ("x", tcp()),
        ]);
        assert_eq!(take(&mut all, "systemd:web:80").expect("two").len(), 2);
        assert_eq!(take(&mut all, "systemd:53/udp").expect("dns").len(), 1);
        assert_eq!(all.names().collect::<Vec<_>>(), ["x"]);
        assert_eq!(take(&mut all, "systemd:80").expect("x").len(), 1);
        assert_eq!(
            take(&mut all, "systemd:81"),
            Err(PassedError::Nothing("TCP or unix"))
        );
    }

    #[test]
    fn what_does_not_fit_is_named_and_stays() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = listener.local_addr().expect("an address");
        let connection = TcpStream::connect(at).expect("connects");
        let file = File::open("/dev/null").expect("a file");
        let mut all = passed(vec![
            ("dns", udp()),
            ("connection", connection.into()),
            ("file", file.into()),
        ]);
        for (spec, text) in [
            ("systemd:dns:80", "'dns' is a UDP socket"),
            ("systemd:connection:80", "a connection and not a listener"),
            ("systemd:file:80", "not a socket"),
            (
                "systemd:file:80/udp",
                "a bound UDP socket (ListenDatagram=) is needed",
            ),
            ("systemd:nobody:80", "there are 'dns', 'connection', 'file'"),
            ("systemd:80", "no TCP or unix socket was passed"),
        ] {
            let error = take(&mut all, spec).expect_err(spec).to_string();
            assert!(error.contains(text), "{spec}: {error}");
        }
        assert_eq!(all.names().count(), 3);
    }
}
