//! socat and python as cables: between two switches of ours, or to the test.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;

use gw::net::MacAddr;
use gw::tap::Access;
use gw::tap::Medium;
use gw::tap::fd::{DatagramLink, Ends};
use gw::tap::listen::{ListenAddress, Listener, UnixgramLink};
use gw::tap::switch::Switch;
use gw::tap::udp::{UdpFraming, UdpLink, UdpOptions};

use crate::harness::{A, B, OURS, Program, frame, place, reaches, single, switch, take, until};

/// Frames of several lengths, both ways.
fn talk(a: &mut Switch, b: &mut Switch, longest: usize) {
    for len in [1, 500, longest - 14] {
        let text = "x".repeat(len);
        reaches(a, b, &frame(B, A, &text), None);
        reaches(b, a, &frame(A, B, &text), None);
    }
}

fn unix(path: &std::path::Path) -> ListenAddress {
    ListenAddress::Unix {
        path: path.to_owned(),
        access: Access::default(),
    }
}

#[test]
fn a_stream_between_two_switches() {
    let (dir, path) = place("a");
    let mut a = switch(A, Listener::qemu(&unix(&path)).expect("listens"));
    let any = ListenAddress::Tcp("127.0.0.1:0".parse().expect("address"));
    let listener = Listener::qemu(&any).expect("listens");
    let port = listener.local_addr().expect("TCP").port();
    let mut b = switch(B, listener);
    let _cable = Program::start(
        "socat",
        &[
            &format!("UNIX-CONNECT:{}", path.display()),
            &format!("TCP:127.0.0.1:{port}"),
        ],
    );
    // As long as frames get: streams know no limit.
    talk(&mut a, &mut b, 65_000);
    drop(dir);
}

#[test]
fn sequenced_packets_between_two_switches() {
    let (dir, path) = place("a");
    let other = dir.path().join("b");
    let access = Access::default();
    let mut a = switch(A, Listener::bess(&path, &access).expect("listens"));
    let mut b = switch(B, Listener::bess(&other, &access).expect("listens"));
    // Type 5 is SOCK_SEQPACKET.
    let ends = [&path, &other].map(|path| format!("UNIX-CONNECT:{},type=5", path.display()));
    let _cable = Program::start("socat", &["-b", "70000", &ends[0], &ends[1]]);
    talk(&mut a, &mut b, 65_000);
}

/// An address that is free now.
fn free() -> SocketAddr {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
    socket.local_addr().expect("address")
}

#[test]
fn datagrams_between_two_pinned_sockets() {
    for framing in [UdpFraming::Raw, UdpFraming::Len16] {
        let link = |peer, gateway| {
            let options = UdpOptions {
                framing,
                peer: Some(peer),
                ..UdpOptions::new("127.0.0.1:0".parse().expect("address"), gateway)
            };
            let link = UdpLink::new(&options).expect("link");
            let address = link.local_addr().expect("address");
            (single(gateway, link), address)
        };
        let (cable_a, cable_b) = (free(), free());
        let (mut a, at_a) = link(cable_a, A);
        let (mut b, at_b) = link(cable_b, B);
        let ends = [(at_a, cable_a), (at_b, cable_b)];
        let ends = ends.map(|(to, from)| format!("UDP4:{to},bind={from}"));
        let _cable = Program::start("socat", &["-b", "70000", &ends[0], &ends[1]]);
        talk(&mut a, &mut b, 9000);
    }
}

/// QEMU's `-netdev dgram` and vfkit, played by socat: a datagram for each write.
#[test]
fn datagrams_at_a_unix_socket() {
    let (dir, path) = place("gram");
    let link = UnixgramLink::new(&path, &Access::default()).expect("link");
    let mut ours = single(OURS, link);
    let client = dir.path().join("client");
    let to = format!("UNIX-SENDTO:{},bind={}", path.display(), client.display());
    let mut socat = Program::start("socat", &["-", &to]);
    let hello = frame(OURS, A, "hello");
    socat.input().write_all(&hello).expect("write");
    let seen = until("the frame", || take(&mut ours));
    assert_eq!(seen, "hello");
    let answer = frame(A, OURS, "and to you");
    crate::harness::send(&mut ours, &answer);
    let mut read = vec![0; answer.len()];
    socat.output().read_exact(&mut read).expect("read");
    assert_eq!(read, answer);
}

/// What `fd:` gets from openconnect: one end of a datagram pair, bare IP on it.
#[test]
fn a_socket_that_was_handed_down() {
    const ECHO: &str = r"
import os, socket
s = socket.socket(fileno=os.dup(0))
while True:
    packet = s.recv(70000)
    if not packet: break
    s.send(packet[::-1])
";
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    for kind in [SockType::SeqPacket, SockType::Datagram] {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::Unix, kind, None, flags).expect("pair");
        let mut child = std::process::Command::new("/usr/bin/python3")
            .args(["-c", ECHO])
            .stdin(theirs)
            .spawn()
            .expect("python3");
        let keep = ours.as_fd().try_clone_to_owned().expect("descriptor");
        let ends = Ends::one(ours).expect("descriptor");
        let mut link = DatagramLink::new(ends, Medium::Ip).expect("link");
        let mut buf = vec![0; gw::net::MAX_FRAME_LEN];
        for len in [20, 1360, 9000] {
            let packet: Vec<u8> = (0..250u8).cycle().take(len).collect();
            let slices = [std::io::IoSlice::new(&packet)];
            use gw::tap::Link as _;
            link.send(&gw::net::Offload::default(), &slices)
                .expect("room");
            let received = until("the echo", || link.recv(&mut buf).ok());
            let reversed: Vec<u8> = packet.iter().rev().copied().collect();
            assert_eq!(buf[..received.len], reversed);
        }
        drop((link, keep));
        if kind == SockType::Datagram {
            // It never reads an end of file.
            child.kill().expect("kill");
        }
        child.wait().expect("wait");
    }
}

/// Three clients of one UDP socket, in python: unicast between two of them,
/// flooding to all, and an empty datagram on the way.
#[test]
fn clients_of_one_udp_socket() {
    const CLIENT: &str = r"
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(('127.0.0.1', int(sys.argv[1])))
out = sys.stdout
for line in sys.stdin:
    word = line.split()
    if word[0] == 'send': s.send(bytes.fromhex(word[1]) if len(word) > 1 else b'')
    else: print(s.recv(70000).hex(), flush=True)
";
    let options = UdpOptions::new("127.0.0.1:0".parse().expect("address"), OURS);
    let link = UdpLink::new(&options).expect("link");
    let port = link.local_addr().expect("address").port().to_string();
    let mut ours = single(OURS, link);
    let mut clients: Vec<Program> = (0..3)
        .map(|_| Program::start("/usr/bin/python3", &["-c", CLIENT, &port]))
        .collect();
    let mac = |n: u8| MacAddr([2, 0, 0, 0, 1, n]);
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    for (n, client) in (0u8..).zip(&mut clients) {
        writeln!(client.input(), "send").expect("empty");
        let hello = frame(OURS, mac(n), "hello");
        writeln!(client.input(), "send {}", hex(&hello)).expect("sent");
        assert_eq!(until("a client", || take(&mut ours)), "hello");
    }
    let expect = |client: &mut Program, ours: &mut Switch, expected: &[u8]| {
        writeln!(client.input(), "receive").expect("asked");
        // What is for another client passes through us.
        for _ in 0..50 {
            take(ours);
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let mut line = vec![0; expected.len() * 2 + 1];
        client.output().read_exact(&mut line).expect("a line");
        assert_eq!(String::from_utf8_lossy(&line).trim(), hex(expected));
    };
    let unicast = frame(mac(1), mac(0), "to the second");
    writeln!(clients[0].input(), "send {}", hex(&unicast)).expect("sent");
    expect(&mut clients[1], &mut ours, &unicast);
    let group = frame(MacAddr([1, 0, 0x5e, 0, 0, 1]), mac(2), "to all");
    writeln!(clients[2].input(), "send {}", hex(&group)).expect("sent");
    assert_eq!(until("the group", || take(&mut ours)), "to all");
    expect(&mut clients[0], &mut ours, &group);
    expect(&mut clients[1], &mut ours, &group);
}
