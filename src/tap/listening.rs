//! Shows which ports of the guest's namespace programs listen on.
//!
//! A socket of `sock_diag(7)` answers for the network namespace that it was made
//! in, whoever holds it. So the child that makes the TAP makes one too and hands
//! it over; asking takes no privilege. A question is answered within the call,
//! and walks the kernel's tables of listeners only: connections cost nothing.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

/// Sockets that are looked at; those of a guest that has more are not all seen.
const MAX_LISTENING: usize = 4096;

/// Bytes of one batch of the kernel's answers; it fills what it is given, up to
/// 32 KiB, which is some 400 sockets.
const ANSWER_LEN: usize = 32 << 10;

/// Batches read at a time. Each question takes two at least.
const BATCHES_PER_VISIT: usize = 16;

/// A socket of the guest that waits for clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Listening {
    /// A TCP socket that listens.
    Tcp(SocketAddr),
    /// A UDP socket that is bound and not connected.
    Udp(SocketAddr),
}

/// The questions of one look.
const QUESTIONS: [(u8, u8); 4] = [
    (AF_INET, IPPROTO_TCP),
    (AF_INET6, IPPROTO_TCP),
    (AF_INET, IPPROTO_UDP),
    (AF_INET6, IPPROTO_UDP),
];

/// Shows the sockets of a namespace.
#[derive(Debug)]
pub struct SocketWatch {
    socket: OwnedFd,
    buffer: Vec<u8>,
    /// The question whose answer is awaited or that comes next.
    question: usize,
    state: State,
    found: Vec<Listening>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    ToBeAsked,
    Asked,
}

/// What a visit came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// All that listens, in no particular order, [`MAX_LISTENING`] at most.
    All(Vec<Listening>),
    /// There is more to read: come again.
    NotYet,
}

/// Makes a socket for [`SocketWatch`] in the *current* network namespace.
pub(super) fn open() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let protocol = SockProtocol::NetlinkSockDiag;
    Ok(socket(
        AddressFamily::Netlink,
        SockType::Raw,
        flags,
        protocol,
    )?)
}

impl SocketWatch {
    /// Takes over what [`open`] made.
    pub(super) fn from_fd(socket: OwnedFd) -> Self {
        Self {
            socket,
            buffer: vec![0; ANSWER_LEN],
            question: 0,
            state: State::ToBeAsked,
            found: Vec::new(),
        }
    }

    /// Looks what listens now. Does not wait, and reads [`BATCHES_PER_VISIT`]
    /// batches at most: a guest with very many sockets is seen in several visits.
    ///
    /// # Errors
    /// When the kernel has no `sock_diag` for TCP or UDP (it may be a module
    /// that cannot be loaded). There is no use in asking again.
    pub fn look(&mut self) -> io::Result<Seen> {
        let mut batches = 0;
        while let Some(&(family, protocol)) = QUESTIONS.get(self.question) {
            if self.state == State::ToBeAsked {
                self.ask(family, protocol)?;
                self.state = State::Asked;
            }
            if batches == BATCHES_PER_VISIT {
                return Ok(Seen::NotYet);
            }
            batches += 1;
            if self.read_batch(protocol)? == Answer::Complete {
                self.state = State::ToBeAsked;
                self.question += 1;
            }
        }
        self.question = 0;
        Ok(Seen::All(std::mem::take(&mut self.found)))
    }

    fn ask(&self, family: u8, protocol: u8) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let request = InetRequest {
            family,
            protocol,
            extensions: ExtensionFlags::empty(),
            // A UDP socket without a peer counts as closed.
            states: match protocol {
                IPPROTO_TCP => StateFlags::LISTEN,
                _ => StateFlags::CLOSE,
            },
            socket_id: match family {
                AF_INET => SocketId::new_v4(),
                _ => SocketId::new_v6(),
            },
        };
        let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL)?;
        Ok(())
    }

    /// Reads one batch of answers to a question.
    fn read_batch(&mut self, protocol: u8) -> io::Result<Answer> {
        let fd = self.socket.as_raw_fd();
        let len = loop {
            match recv(fd, &mut self.buffer, MsgFlags::empty()) {
                Err(nix::Error::EINTR) => {}
                result => break result?,
            }
        };
        let mut rest = self.buffer.get(..len).unwrap_or(&[]);
        while !rest.is_empty() {
            let message =
                NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
            match &message.payload {
                NetlinkPayload::Done(_) => return Ok(Answer::Complete),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(answer))
                    if self.found.len() < MAX_LISTENING =>
                {
                    let id = &answer.header.socket_id;
                    let at = SocketAddr::new(id.source_address, id.source_port);
                    self.found.extend(listening(protocol, at));
                }
                _ => {}
            }
            let len = usize::try_from(message.header.length).map_err(io::Error::other)?;
            // Messages are padded to 4 bytes (NLMSG_ALIGN).
            rest = rest.get(len.max(1).next_multiple_of(4)..).unwrap_or(&[]);
        }
        Ok(Answer::MoreToCome)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Complete,
    MoreToCome,
}

/// A UDP socket that has no port yet is none.
fn listening(protocol: u8, at: SocketAddr) -> Option<Listening> {
    match (protocol, at.port()) {
        (_, 0) => None,
        (IPPROTO_TCP, _) => Some(Listening::Tcp(at)),
        _ => Some(Listening::Udp(at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    fn all(watch: &mut SocketWatch) -> Vec<Listening> {
        for _ in 0..1000 {
            if let Seen::All(there) = watch.look().expect("an answer") {
                return there;
            }
        }
        panic!("it goes on and on");
    }

    fn watch() -> SocketWatch {
        SocketWatch::from_fd(open().expect("sock_diag"))
    }

    #[test]
    fn listeners_come_and_go() {
        let mut watch = watch();
        let tcp4 = TcpListener::bind("127.0.0.1:0").expect("a port");
        let tcp6 = TcpListener::bind("[::1]:0").expect("a port");
        let udp4 = UdpSocket::bind("0.0.0.0:0").expect("a port");
        let udp6 = UdpSocket::bind("[::1]:0").expect("a port");
        let expected = [
            Listening::Tcp(tcp4.local_addr().expect("an address")),
            Listening::Tcp(tcp6.local_addr().expect("an address")),
            Listening::Udp(udp4.local_addr().expect("an address")),
            Listening::Udp(udp6.local_addr().expect("an address")),
        ];
        let there = all(&mut watch);
        assert!(expected.iter().all(|at| there.contains(at)), "{there:?}");
        drop((tcp4, tcp6, udp4, udp6));
        let there = all(&mut watch);
        assert!(!expected.iter().any(|at| there.contains(at)), "{there:?}");
    }

    #[test]
    fn connections_are_no_listeners() {
        let mut watch = watch();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let to = listener.local_addr().expect("an address");
        let client = TcpStream::connect(to).expect("connects");
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
        udp.connect("127.0.0.1:9").expect("connects");
        let there = all(&mut watch);
        let client = client.local_addr().expect("an address");
        assert!(!there.contains(&Listening::Tcp(client)), "{there:?}");
        let udp = udp.local_addr().expect("an address");
        assert!(!there.contains(&Listening::Udp(udp)), "{there:?}");
    }

    #[test]
    fn many_are_seen_up_to_the_limit() {
        let mut watch = watch();
        let many: Vec<UdpSocket> = (0..500)
            .map(|_| UdpSocket::bind("127.0.0.1:0").expect("a port"))
            .collect();
        let there = all(&mut watch);
        for socket in &many {
            let at = socket.local_addr().expect("an address");
            assert!(there.contains(&Listening::Udp(at)));
        }
    }
}
