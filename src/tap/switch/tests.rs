use std::os::fd::OwnedFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::*;
use crate::net::MAX_FRAME_LEN;
use crate::tap::fd::{DatagramLink, Ends};

const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);

fn pair() -> (OwnedFd, OwnedFd) {
    let kind = SockType::SeqPacket;
    socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_NONBLOCK).expect("pair")
}

fn link(fd: OwnedFd) -> Box<dyn Link> {
    let ends = Ends::one(fd).expect("descriptor");
    Box::new(DatagramLink::new(ends, Medium::Ethernet).expect("link"))
}

/// A switch and the far ends of three of its ports.
fn switch() -> (Switch, [OwnedFd; 3]) {
    let mut switch = Switch::new(GATEWAY).expect("switch");
    let ends = ["a", "b", "c"].map(|name| {
        let (ours, theirs) = pair();
        let port = NewPort {
            link: link(ours),
            name: name.to_owned(),
        };
        switch.plug(port).expect("room");
        theirs
    });
    (switch, ends)
}

fn frame(to: MacAddr, from: MacAddr, text: &str) -> Vec<u8> {
    [&to.0[..], &from.0, &[0x88, 0xb5], text.as_bytes()].concat()
}

fn put(end: &OwnedFd, frame: &[u8]) {
    nix::unistd::write(end, frame).expect("room");
}

/// The text of the frame that waits at a far end.
fn take(end: &OwnedFd) -> Option<String> {
    let mut buf = [0; 2000];
    let len = nix::unistd::read(end, &mut buf).ok()?;
    Some(String::from_utf8_lossy(&buf[HEADER_LEN..len]).into_owned())
}

/// Everything that the gateway gets.
fn gateway(switch: &mut Switch) -> Vec<String> {
    let mut buf = vec![0; MAX_FRAME_LEN];
    let mut texts = Vec::new();
    loop {
        match switch.recv(&mut buf) {
            Ok(Received { len, .. }) => {
                texts.push(String::from_utf8_lossy(&buf[HEADER_LEN..len]).into_owned());
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => {
                assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
                return texts;
            }
        }
    }
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn frames_go_where_their_destination_is() {
    let (mut switch, [a, b, c]) = switch();
    put(&a, &frame(B, A, "unknown"));
    assert_eq!(gateway(&mut switch), [""; 0]);
    assert_eq!(
        (take(&a), take(&b), take(&c)),
        (None, some("unknown"), some("unknown"))
    );

    put(&b, &frame(A, B, "known"));
    assert_eq!(gateway(&mut switch), [""; 0]);
    assert_eq!((take(&a), take(&b), take(&c)), (some("known"), None, None));

    put(&a, &frame(MacAddr::BROADCAST, A, "all"));
    assert_eq!(gateway(&mut switch), ["all"]);
    assert_eq!(
        (take(&a), take(&b), take(&c)),
        (None, some("all"), some("all"))
    );

    put(&a, &frame(GATEWAY, A, "out"));
    assert_eq!(gateway(&mut switch), ["out"]);
    assert_eq!((take(&a), take(&b), take(&c)), (None, None, None));

    put(&a, &frame(A, B, "to itself, whoever says so"));
    assert_eq!(gateway(&mut switch), [""; 0]);
    assert_eq!(take(&b), None);
}

#[test]
fn the_gateway_reaches_one_or_all() {
    let (mut switch, [a, b, c]) = switch();
    put(&a, &frame(GATEWAY, A, "hello"));
    gateway(&mut switch);
    let send = |switch: &mut Switch, bytes: &[u8]| {
        let (x, y) = bytes.split_at(3);
        let slices = [IoSlice::new(x), IoSlice::new(y)];
        switch.send(&Offload::default(), &slices).expect("sent");
    };
    send(&mut switch, &frame(A, GATEWAY, "one"));
    assert_eq!((take(&a), take(&b), take(&c)), (some("one"), None, None));
    send(&mut switch, &frame(MacAddr::BROADCAST, GATEWAY, "all"));
    assert_eq!(
        (take(&a), take(&b), take(&c)),
        (some("all"), some("all"), some("all"))
    );
}

#[test]
fn nobody_poses_as_the_gateway() {
    let (mut switch, [a, b, _c]) = switch();
    put(&a, &frame(B, GATEWAY, "forged"));
    put(&a, b"runt");
    assert_eq!(gateway(&mut switch), [""; 0]);
    assert_eq!(take(&b), None);
    assert_eq!(switch.ports().next().expect("a port").counters.malformed, 2);
    let slices = frame(GATEWAY, A, "");
    put(&a, &slices);
    gateway(&mut switch);
    assert_eq!(switch.ports().next().expect("a port").stations, [A]);
}

#[test]
fn a_port_that_fails_takes_nobody_along() {
    let (mut switch, [a, b, c]) = switch();
    put(&a, &frame(GATEWAY, A, "last words"));
    drop(a);
    put(&b, &frame(GATEWAY, B, "alive"));
    let mut texts = gateway(&mut switch);
    texts.sort();
    assert_eq!(texts, ["alive", "last words"]);
    let names: Vec<_> = switch.ports().map(|port| port.name).collect();
    assert_eq!(names, ["b", "c"]);
    put(&c, &frame(A, B, "to who is gone"));
    gateway(&mut switch);
    assert_eq!(
        take(&b),
        some("to who is gone"),
        "not known any more: flooded"
    );
}

#[test]
fn a_busy_port_does_not_keep_the_others_waiting() {
    let (mut switch, [a, b, _c]) = switch();
    let mut buf = vec![0; MAX_FRAME_LEN];
    // As long as there is room in the socket there is always one more.
    let fill = || while nix::unistd::write(&a, &frame(GATEWAY, A, "busy")).is_ok() {};
    fill();
    switch.recv(&mut buf).expect("a frame");
    put(&b, &frame(GATEWAY, B, "quiet"));
    let turns = (1..).find(|_| {
        fill();
        let len = switch.recv(&mut buf).expect("a frame").len;
        buf[..len].ends_with(b"quiet")
    });
    assert!(turns.is_some_and(|n| n <= TURNS_PER_LOOK + 2), "{turns:?}");
}

/// Makes a port for each descriptor it is sent.
#[derive(Debug)]
struct Scripted {
    signal: OwnedFd,
    waiting: Vec<OwnedFd>,
    lost: std::rc::Rc<std::cell::Cell<u32>>,
}

impl PortSource for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }
    fn readiness(&self) -> BorrowedFd<'_> {
        self.signal.as_fd()
    }
    fn poll(&mut self) -> io::Result<Option<NewPort>> {
        let _ = nix::unistd::read(&self.signal, &mut [0; 16]);
        Ok(self.waiting.pop().map(|fd| NewPort {
            link: link(fd),
            name: "made".to_owned(),
        }))
    }
    fn lost(&mut self, _reason: &io::Error) {
        self.lost.set(self.lost.get() + 1);
    }
}

#[test]
fn sources_make_ports_and_hear_of_their_end() {
    let mut switch = Switch::new(GATEWAY).expect("switch");
    let (signal, _other) = pair();
    let lost = std::rc::Rc::default();
    let (ours, a) = pair();
    let source = Scripted {
        signal,
        waiting: vec![ours],
        lost: std::rc::Rc::clone(&lost),
    };
    switch.add_source(Box::new(source)).expect("room");
    assert_eq!(switch.ports().count(), 1);
    put(&a, &frame(GATEWAY, A, "in"));
    assert_eq!(gateway(&mut switch), ["in"]);
    drop(a);
    assert_eq!(gateway(&mut switch), [""; 0]);
    assert_eq!((switch.ports().count(), lost.get()), (0, 1));
}

#[test]
fn ports_are_bounded() {
    let mut switch = Switch::new(GATEWAY).expect("switch");
    for _ in 0..MAX_PORTS {
        let (ours, _) = pair();
        let port = NewPort {
            link: link(ours),
            name: String::new(),
        };
        switch.plug(port).expect("room");
    }
    let (ours, _) = pair();
    let port = NewPort {
        link: link(ours),
        name: String::new(),
    };
    let said = switch.plug(port).expect_err("full").to_string();
    assert!(said.contains("256 ports are taken"), "{said}");
}
