use std::net::UdpSocket;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::net::MAX_FRAME_LEN;
use crate::tap::fdb::AGEING;

const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);
const C: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xc]);

fn local() -> SocketAddr {
    "127.0.0.1:0".parse().expect("address")
}

fn options(framing: UdpFraming) -> UdpOptions {
    UdpOptions {
        framing,
        ..UdpOptions::new(local(), GATEWAY)
    }
}

fn link() -> UdpLink {
    UdpLink::new(&options(UdpFraming::Raw)).expect("link")
}

/// A client's socket.
fn client(link: &UdpLink) -> UdpSocket {
    let socket = UdpSocket::bind(local()).expect("bind");
    let to = link.local_addr().expect("address");
    socket.connect(to).expect("connect");
    socket.set_nonblocking(true).expect("set");
    socket
}

fn frame(to: MacAddr, from: MacAddr, text: &str) -> Vec<u8> {
    [&to.0[..], &from.0, &[0x88, 0xb5], text.as_bytes()].concat()
}

fn put(client: &UdpSocket, bytes: &[u8]) {
    client.send(bytes).expect("sent");
}

/// The text of the frame that waits at a client. What was sent over loopback is
/// there at once.
fn take(client: &UdpSocket) -> Option<String> {
    let mut buf = [0; 3000];
    let len = client.recv(&mut buf).ok()?;
    Some(String::from_utf8_lossy(&buf[HEADER_LEN..len]).into_owned())
}

/// Everything that comes up, and how many frames were malformed.
fn up(link: &mut UdpLink) -> (Vec<String>, usize) {
    let mut buf = vec![0; MAX_FRAME_LEN];
    let (mut texts, mut malformed) = (Vec::new(), 0);
    loop {
        match link.recv(&mut buf) {
            Ok(Received { len: 0, .. }) => malformed += 1,
            Ok(Received { len, .. }) => {
                texts.push(String::from_utf8_lossy(&buf[HEADER_LEN..len]).into_owned());
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => {
                assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
                return (texts, malformed);
            }
        }
    }
}

fn down(link: &mut UdpLink, frame: &[u8]) -> io::Result<()> {
    let (a, b) = frame.split_at(3);
    link.send(&Offload::default(), &[IoSlice::new(a), IoSlice::new(b)])
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn clients_reach_the_gateway_and_each_other() {
    let mut link = link();
    let (a, b, c) = (client(&link), client(&link), client(&link));
    for (socket, mac) in [(&a, A), (&b, B), (&c, C)] {
        put(socket, &frame(GATEWAY, mac, "hello"));
    }
    assert_eq!(up(&mut link), (vec!["hello".to_owned(); 3], 0));
    assert_eq!(link.clients().len(), 3);

    put(&a, &frame(B, A, "to b"));
    assert_eq!(up(&mut link), (vec![], 0));
    assert_eq!((take(&a), take(&b), take(&c)), (None, some("to b"), None));

    let nobody = MacAddr([2; 6]);
    let group = MacAddr([1, 0, 0x5e, 0, 0, 0xfb]);
    for to in [MacAddr::BROADCAST, group, nobody] {
        put(&a, &frame(to, A, "all"));
        assert_eq!(up(&mut link), (vec!["all".to_owned()], 0));
        assert_eq!(
            (take(&a), take(&b), take(&c)),
            (None, some("all"), some("all"))
        );
        down(&mut link, &frame(to, GATEWAY, "down")).expect("sent");
        let down = some("down");
        assert_eq!(
            (take(&a), take(&b), take(&c)),
            (down.clone(), down.clone(), down)
        );
    }

    down(&mut link, &frame(C, GATEWAY, "one")).expect("sent");
    assert_eq!((take(&a), take(&b), take(&c)), (None, None, some("one")));
}

#[test]
fn a_station_moves_with_its_frames() {
    let mut link = link();
    let (a, b) = (client(&link), client(&link));
    put(&a, &frame(GATEWAY, A, "at a"));
    put(&b, &frame(GATEWAY, A, "at b"));
    up(&mut link);
    down(&mut link, &frame(A, GATEWAY, "where")).expect("sent");
    assert_eq!((take(&a), take(&b)), (None, some("where")));
    // Now it speaks from the gateway's side, as behind another port of a switch.
    down(&mut link, &frame(B, A, "here")).expect("sent");
    assert_eq!((take(&a), take(&b)), (some("here"), some("here")));
    put(&b, &frame(A, B, "found"));
    assert_eq!(up(&mut link), (vec!["found".to_owned()], 0));
    assert_eq!(take(&a), None, "not flooded");
    down(&mut link, &frame(A, GATEWAY, "not for clients")).expect("sent");
    assert_eq!((take(&a), take(&b)), (None, None));
}

#[test]
fn nonsense_does_no_harm() {
    let mut link = link();
    let a = client(&link);
    put(&a, b"");
    put(&a, b"runt");
    put(&a, &frame(GATEWAY, GATEWAY, "posing as the gateway"));
    put(&a, &frame(GATEWAY, MacAddr::BROADCAST, "from a group"));
    put(&a, &frame(GATEWAY, MacAddr([0; 6]), "from nobody"));
    assert_eq!(up(&mut link), (vec![], 4));
    assert!(link.clients().is_empty());
    put(&a, &frame(GATEWAY, A, "alive"));
    assert_eq!(up(&mut link), (vec!["alive".to_owned()], 0));
}

#[test]
fn lengths_must_match() {
    let mut link = UdpLink::new(&options(UdpFraming::Len16)).expect("link");
    let a = client(&link);
    let with_length = |length: u16, frame: &[u8]| [&length.to_be_bytes(), frame].concat();
    let good = frame(GATEWAY, A, "whole");
    let len = u16::try_from(good.len()).expect("short");
    for bytes in [
        vec![],
        vec![0],
        with_length(0, b""),
        with_length(len + 1, &good),
        with_length(len - 1, &good),
        good.clone(),
    ] {
        put(&a, &bytes);
    }
    assert_eq!(up(&mut link), (vec![], 5));
    put(&a, &with_length(len, &good));
    assert_eq!(up(&mut link), (vec!["whole".to_owned()], 0));
    down(&mut link, &frame(A, GATEWAY, "back")).expect("sent");
    let mut buf = [0; 100];
    let n = a.recv(&mut buf).expect("frame");
    assert_eq!(buf[..n], with_length(18, &frame(A, GATEWAY, "back")));
}

#[test]
fn clients_age_and_stations_with_them() {
    let mut link = link();
    let (a, b) = (client(&link), client(&link));
    put(&a, &frame(GATEWAY, A, ""));
    up(&mut link);
    let later = Instant::now() + AGEING + Duration::from_secs(1);
    link.forget_the_silent(later - Duration::from_secs(2));
    assert_eq!(link.clients().len(), 1);
    let from_b = b.local_addr().expect("address");
    link.way(&frame(GATEWAY, B, ""), from_b, later);
    link.forget_the_silent(later);
    assert_eq!(link.clients(), [(from_b, vec![B])]);
    assert_eq!(link.stations.len(), 1);
}

#[test]
fn clients_are_bounded_and_the_longest_silent_makes_room() {
    let mut link = link();
    let now = Instant::now();
    let at = |port: u16| SocketAddr::new("127.0.0.1".parse().expect("address"), port);
    let mac = |port: u16| {
        let [x, y] = port.to_be_bytes();
        MacAddr([2, 0, 0, 0, x, y])
    };
    let all = u16::try_from(MAX_CLIENTS).expect("small");
    for port in 1..=all + 10 {
        let when = now + Duration::from_millis(port.into());
        link.way(&frame(GATEWAY, mac(1000 + port), ""), at(port), when);
    }
    let clients = link.clients();
    assert_eq!(clients.len(), MAX_CLIENTS);
    assert_eq!(clients[0], (at(11), vec![mac(1011)]));
    assert_eq!(link.stations.len(), MAX_CLIENTS);
}

#[test]
fn a_pinned_client_is_the_only_one_and_need_not_speak_first() {
    let socket = UdpSocket::bind(local()).expect("bind");
    let pinned = UdpOptions {
        peer: Some(socket.local_addr().expect("address")),
        ..options(UdpFraming::Raw)
    };
    let mut link = UdpLink::new(&pinned).expect("link");
    let ours = link.local_addr().expect("address");
    socket.connect(ours).expect("connect");
    socket.set_nonblocking(true).expect("set");
    down(&mut link, &frame(A, GATEWAY, "first")).expect("sent");
    assert_eq!(take(&socket), some("first"));

    let stranger = client(&link);
    put(&stranger, &frame(GATEWAY, B, "me too"));
    put(&socket, &frame(GATEWAY, A, "me"));
    assert_eq!(up(&mut link), (vec!["me".to_owned()], 0));
    link.forget_the_silent(Instant::now() + 2 * AGEING);
    assert_eq!(link.clients().len(), 1, "it does not age");

    // It goes, comes back, and nothing has to be done about it.
    let address = socket.local_addr().expect("address");
    drop(socket);
    for _ in 0..5 {
        let _ = down(&mut link, &frame(A, GATEWAY, "anybody?"));
        assert_eq!(up(&mut link), (vec![], 0));
        thread::sleep(Duration::from_millis(1));
    }
    let socket = UdpSocket::bind(address).expect("bind");
    down(&mut link, &frame(A, GATEWAY, "back?")).expect("sent");
    assert_eq!(take(&socket), some("back?"));
}

#[test]
fn ipv6_works_too() {
    let bind: SocketAddr = "[::1]:0".parse().expect("address");
    let mut link = UdpLink::new(&UdpOptions::new(bind, GATEWAY)).expect("link");
    let socket = UdpSocket::bind(bind).expect("bind");
    let to = link.local_addr().expect("address");
    socket.connect(to).expect("connect");
    put(&socket, &frame(GATEWAY, A, "six"));
    assert_eq!(up(&mut link), (vec!["six".to_owned()], 0));
    down(&mut link, &frame(A, GATEWAY, "back")).expect("sent");
    assert_eq!(take(&socket), some("back"));
}

#[test]
fn addresses_that_do_not_work_are_named() {
    let taken = UdpSocket::bind(local()).expect("bind");
    let address = taken.local_addr().expect("address");
    let said = UdpLink::new(&UdpOptions::new(address, GATEWAY))
        .expect_err("taken")
        .to_string();
    assert!(said.contains(&format!("UDP {address}")), "{said}");
    let pinned = UdpOptions {
        peer: Some("[::1]:9".parse().expect("address")),
        ..options(UdpFraming::Raw)
    };
    let said = UdpLink::new(&pinned).expect_err("both").to_string();
    assert!(said.contains("both must be"), "{said}");
}

proptest! {
    /// No datagram ends the link or makes it forget who is there.
    #[test]
    fn any_datagrams_are_frames_or_malformed(
        len16: bool,
        datagrams in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20),
    ) {
        let framing = if len16 { UdpFraming::Len16 } else { UdpFraming::Raw };
        let mut link = UdpLink::new(&options(framing)).expect("link");
        let a = client(&link);
        for datagram in &datagrams {
            put(&a, datagram);
        }
        up(&mut link);
        let good = frame(GATEWAY, A, "good");
        let framed = match framing {
            UdpFraming::Raw => good,
            UdpFraming::Len16 => [&[0, 18], &good[..]].concat(),
        };
        put(&a, &framed);
        prop_assert_eq!(up(&mut link), (vec!["good".to_owned()], 0));
    }
}
