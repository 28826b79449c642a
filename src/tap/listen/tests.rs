use std::io::{IoSlice, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::*;
use crate::net::{MAX_FRAME_LEN, MacAddr};
use crate::tap::Offload;
use crate::tap::switch::Switch;

const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);

fn frame(to: MacAddr, from: MacAddr, text: &str) -> Vec<u8> {
    [&to.0[..], &from.0, &[0x88, 0xb5], text.as_bytes()].concat()
}

fn with_length(frame: &[u8]) -> Vec<u8> {
    let len = Prefix::Len32.encode(frame.len()).expect("fits");
    [len.as_bytes(), frame].concat()
}

fn switch(listener: Listener) -> Switch {
    let mut switch = Switch::new(GATEWAY).expect("switch");
    switch.add_source(Box::new(listener)).expect("room");
    switch
}

/// The next frame's text, within a while.
fn next(link: &mut dyn Link) -> String {
    let end = Instant::now() + Duration::from_secs(5);
    let mut buf = vec![0; MAX_FRAME_LEN];
    while Instant::now() < end {
        match link.recv(&mut buf) {
            Ok(received) => {
                return String::from_utf8_lossy(&buf[14..received.len]).into_owned();
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    panic!("nothing came");
}

fn send(link: &mut dyn Link, frame: &[u8]) -> io::Result<()> {
    link.send(&Offload::default(), &[IoSlice::new(frame)])
}

fn until_ports(switch: &mut Switch, count: usize) {
    let end = Instant::now() + Duration::from_secs(5);
    let mut buf = vec![0; MAX_FRAME_LEN];
    while switch.ports().count() != count {
        assert!(Instant::now() < end, "{count} ports");
        let _ = switch.recv(&mut buf);
    }
}

fn exchange(switch: &mut Switch, stream: &mut (impl io::Read + io::Write)) {
    stream
        .write_all(&with_length(&frame(GATEWAY, A, "hello")))
        .expect("write");
    assert_eq!(next(switch), "hello");
    let answer = frame(A, GATEWAY, "and to you");
    send(switch, &answer).expect("room");
    let mut read = vec![0; 4 + answer.len()];
    stream.read_exact(&mut read).expect("frame");
    assert_eq!(read, with_length(&answer));
}

#[test]
fn streams_over_unix_and_tcp() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("qemu");
    let at = ListenAddress::Unix {
        path: path.clone(),
        access: Access::default(),
    };
    let mut switch = switch(Listener::qemu(&at).expect("listens"));
    for _ in 0..2 {
        let mut stream = UnixStream::connect(&path).expect("connect");
        exchange(&mut switch, &mut stream);
        let name = switch.ports().next().expect("a port").name;
        let expected = format!(
            "qemu:{} from process {}",
            path.display(),
            std::process::id()
        );
        assert_eq!(name, expected);
        drop(stream);
        until_ports(&mut switch, 0);
    }
    drop(switch);
    assert!(!path.exists());

    let any = ListenAddress::Tcp("127.0.0.1:0".parse().expect("address"));
    let listener = Listener::qemu(&any).expect("listens");
    let address = listener.local_addr().expect("TCP");
    let mut switch = self::switch(listener);
    let mut stream = TcpStream::connect(address).expect("connect");
    exchange(&mut switch, &mut stream);

    let said = Listener::qemu(&ListenAddress::Tcp(address)).expect_err("taken");
    assert!(said.to_string().contains(&address.to_string()), "{said}");
}

#[test]
fn who_speaks_another_protocol_is_unplugged() {
    let any = ListenAddress::Tcp("127.0.0.1:0".parse().expect("address"));
    let listener = Listener::qemu(&any).expect("listens");
    let address = listener.local_addr().expect("TCP");
    let mut switch = switch(listener);
    let mut stream = TcpStream::connect(address).expect("connect");
    until_ports(&mut switch, 1);
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("write");
    until_ports(&mut switch, 0);
    assert!(!matches!(stream.read(&mut [0; 1]), Ok(1..)));
}

#[test]
fn sequenced_packets_are_frames() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("bess");
    let listener = Listener::bess(&path, &Access::default()).expect("listens");
    let mut switch = switch(listener);
    let guest = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("socket");
    guest
        .connect(&SockAddr::unix(&path).expect("address"))
        .expect("connect");
    guest.send(&frame(GATEWAY, A, "hello")).expect("send");
    assert_eq!(next(&mut switch), "hello");
    let answer = frame(A, GATEWAY, "back");
    send(&mut switch, &answer).expect("room");
    let mut buf = [0; 100];
    let len = (&guest).read(&mut buf).expect("frame");
    assert_eq!(buf[..len], answer);
    drop(guest);
    until_ports(&mut switch, 0);
}

#[test]
fn datagrams_go_to_who_spoke_last() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("gram");
    let mut link = UnixgramLink::new(&path, &Access::default()).expect("link");
    let nobody = send(&mut link, &frame(A, GATEWAY, "early")).expect_err("nobody");
    assert_eq!(nobody.kind(), io::ErrorKind::NotConnected);

    let unnamed = UnixDatagram::unbound().expect("socket");
    unnamed
        .send_to(&frame(GATEWAY, A, "no name"), &path)
        .expect("send");
    assert_eq!(next(&mut link), "no name");
    assert!(send(&mut link, &frame(A, GATEWAY, "to whom?")).is_err());

    for name in ["first", "second"] {
        let guest = UnixDatagram::bind(dir.path().join(name)).expect("bind");
        guest.connect(&path).expect("connect");
        guest.set_nonblocking(true).expect("set");
        guest.send(b"VFKT").expect("send");
        guest.send(&frame(GATEWAY, A, name)).expect("send");
        assert_eq!(next(&mut link), name);
        let answer = frame(A, GATEWAY, "back");
        send(&mut link, &answer).expect("room");
        let mut buf = [0; 100];
        let len = guest.recv(&mut buf).expect("frame");
        assert_eq!(buf[..len], answer);
        drop(guest);
        assert!(send(&mut link, &answer).is_err(), "gone");
    }
    drop(link);
    assert!(!path.exists());
}

/// More than the 10 datagrams that a peer's queue holds.
#[test]
fn datagrams_wait_for_a_slow_peer() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("gram");
    let mut link = UnixgramLink::new(&path, &Access::default()).expect("link");
    let guest = UnixDatagram::bind(dir.path().join("guest")).expect("bind");
    guest.set_nonblocking(true).expect("set");
    guest
        .send_to(&frame(GATEWAY, A, "hello"), &path)
        .expect("send");
    assert_eq!(next(&mut link), "hello");
    for n in 0..200 {
        send(&mut link, &frame(A, GATEWAY, &n.to_string())).expect("taken");
    }
    let mut seen = Vec::new();
    let mut buf = [0; 100];
    while seen.len() < 200 {
        let mut fds = [PollFd::new(link.readiness(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::from(1000u16));
        while let Ok(len) = guest.recv(&mut buf) {
            seen.push(String::from_utf8_lossy(&buf[14..len]).into_owned());
        }
        if seen.len() < 200 {
            assert_eq!(ready, Ok(1), "its timer wakes it");
            assert!(link.recv(&mut [0; 100]).is_err());
        }
    }
    let expected: Vec<_> = (0..200).map(|n| n.to_string()).collect();
    assert_eq!(seen, expected);
    let mut fds = [PollFd::new(link.readiness(), PollFlags::POLLIN)];
    assert_eq!(
        poll(&mut fds, PollTimeout::from(20u8)),
        Ok(0),
        "nothing waits"
    );
}
