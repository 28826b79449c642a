//! How connections begin.

use std::time::Duration;

use etherparse::TcpOptionElement;
use gw::policy::HostLoopback;

use crate::host::{Got, Host, read, write};
use crate::raw::{ACK, FIN, PSH, RST, Raw, SYN, parse};
use crate::world::{GATEWAY4, Options, World};

const SOON: Duration = Duration::from_secs(2);

fn mss(options: &[TcpOptionElement]) -> Option<u16> {
    options.iter().find_map(|o| match o {
        TcpOptionElement::MaximumSegmentSize(mss) => Some(*mss),
        _ => None,
    })
}

/// The SYN-ACK says the MTU's MSS, scales windows and permits SACK.
fn syn_ack_at(mtu: u32, v6: bool) {
    let host = if v6 {
        Host::listen_v6()
    } else {
        Host::listen()
    };
    let mut world = World::raw(&Options {
        mtu,
        ..Options::default()
    });
    let mut raw = Raw::new(40_000, host.gateway());
    let answer = raw.half_open(&mut world);
    let headers = if v6 { 60 } else { 40 };
    assert_eq!(u32::from(mss(&answer.options).unwrap()), mtu - headers);
    assert!(
        answer
            .options
            .contains(&TcpOptionElement::SelectiveAcknowledgementPermitted)
    );
    assert!(answer.options.contains(&TcpOptionElement::WindowScale(8)));
    assert_eq!(answer.window, 65535);
    assert!(answer.payload.is_empty());
}

#[test]
fn a_syn_ack_at_1500() {
    syn_ack_at(1500, false);
}

#[test]
fn a_syn_ack_at_1500_over_ipv6() {
    syn_ack_at(1500, true);
}

#[test]
fn a_syn_ack_at_1280_over_ipv6() {
    syn_ack_at(1280, true);
}

#[test]
fn a_syn_ack_at_65520() {
    syn_ack_at(65520, false);
}

#[test]
fn a_syn_ack_at_the_least_mtu() {
    syn_ack_at(68, false);
}

#[test]
fn nothing_is_offered_that_was_not_asked_for() {
    let host = Host::listen();
    let mut world = World::raw(&Options::default());
    let mut raw = Raw::new(40_000, host.gateway());
    raw.options.clear();
    let answer = raw.half_open(&mut world);
    assert!(
        answer.options.iter().all(|o| {
            !matches!(
                o,
                TcpOptionElement::WindowScale(_)
                    | TcpOptionElement::SelectiveAcknowledgementPermitted
            )
        }),
        "{:?}",
        answer.options
    );
    raw.send(&mut world, ACK, &[]);
    let mut peer = host.accept(&mut world);
    raw.send(&mut world, ACK | PSH, b"hello");
    let ack = raw.next(&mut world);
    assert_eq!(ack.ack, raw.seq);
    assert!(ack.window > 65_000, "not scaled: {}", ack.window);
    assert_eq!(read(&mut peer, 100), Got::Bytes(b"hello".to_vec()));
}

#[test]
fn hostile_options_do_no_harm() {
    let host = Host::listen();
    let mut world = World::raw(&Options::default());
    let hostile: [&[u8]; 9] = [
        &[2, 4, 0, 0],              // MSS 0
        &[2, 4, 0, 1],              // MSS 1
        &[2, 0, 5, 180],            // length 0
        &[2, 1, 5, 180],            // length 1
        &[2, 255, 5, 180],          // beyond the header
        &[3, 3, 255, 0],            // window scale 255
        &[3, 3, 14, 3, 3, 0, 1, 1], // twice
        &[0; 40],                   // ends at once
        &[1; 40],                   // never ends
    ];
    for (n, options) in hostile.iter().enumerate() {
        let mut raw = Raw::new(40_000 + u16::try_from(n).unwrap(), host.gateway());
        raw.options = options.to_vec();
        raw.send(&mut world, SYN, &[]);
        let Some(answer) = raw.within(&mut world, SOON) else {
            continue;
        };
        raw.ack = answer.seq.wrapping_add(1);
        raw.send(&mut world, ACK, &[]);
        let mut peer = host.accept(&mut world);
        raw.send(&mut world, ACK | PSH, b"x");
        assert_eq!(raw.next(&mut world).ack, raw.seq, "{options:?}");
        assert_eq!(read(&mut peer, 10), Got::Bytes(b"x".to_vec()));
        raw.send(&mut world, RST, &[]);
        world.settle();
    }
    while world.arrived().is_some() {}
    world.assert_clean();
}

#[test]
fn an_mss_of_one_is_served_in_pieces_of_sane_size() {
    let host = Host::listen();
    let mut world = World::raw(&Options::default());
    let mut raw = Raw::new(40_000, host.gateway());
    raw.options = vec![2, 4, 0, 1];
    raw.open(&mut world);
    let mut peer = host.accept(&mut world);
    assert_eq!(write(&mut peer, &[7; 480]), 480);
    let mut got = 0;
    while got < 480 {
        let segment = raw.within(&mut world, SOON).expect("data");
        assert!((32..=48).contains(&segment.payload.len()) || got + segment.payload.len() == 480);
        got += segment.payload.len();
        raw.ack = segment
            .seq
            .wrapping_add(u32::try_from(segment.payload.len()).unwrap());
        raw.send(&mut world, ACK, &[]);
    }
}

#[test]
fn a_window_scale_of_14_is_understood() {
    let host = Host::listen();
    let mut world = World::raw(&Options::default());
    let mut raw = Raw::new(40_000, host.gateway());
    raw.options = vec![2, 4, 5, 180, 3, 3, 14, 1];
    raw.window = 1; // 16 KiB when scaled; one byte in the SYN, which is not
    raw.open(&mut world);
    let mut peer = host.accept(&mut world);
    raw.send(&mut world, ACK, &[]);
    world.settle();
    assert_eq!(write(&mut peer, &[7; 40_000]), 40_000);
    let mut got = 0;
    while let Some(segment) = raw.within(&mut world, Duration::from_millis(10)) {
        got += segment.payload.len();
    }
    assert_eq!(got, 16 * 1024, "the window, and no more");
}

#[test]
fn refused_is_a_reset_of_the_syn() {
    let port = Host::listen().port; // closed again
    let mut world = World::raw(&Options::default());
    let mut raw = Raw::new(40_000, (GATEWAY4, port).into());
    raw.send(&mut world, SYN, &[]);
    let answer = raw.next(&mut world);
    assert!(answer.is(RST | ACK), "{answer:?}");
    assert_eq!((answer.seq, answer.ack), (0, raw.seq));
    world.assert_clean();
}

#[test]
fn a_closed_loopback_is_an_icmp_error() {
    let host = Host::listen();
    let options = Options {
        host_loopback: HostLoopback::Closed,
        ..Options::default()
    };
    let mut world = World::raw(&options);
    let mut raw = Raw::new(40_000, host.gateway());
    raw.send(&mut world, SYN, &[]);
    world.settle();
    let frame = world.arrived().expect("an answer");
    assert_eq!(frame[23], 1, "ICMP");
    assert_eq!(frame[34], 3, "unreachable");
    assert!(host.try_accept().is_none());
    world.assert_clean();
}

/// A listener whose queue is full leaves connects without an answer.
#[test]
fn no_answer_is_silence_and_a_repeated_syn_is_no_second_connect() {
    let listener =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    listener.bind(&any.into()).unwrap();
    listener.listen(0).unwrap();
    let port = listener.local_addr().unwrap().as_socket().unwrap().port();
    let at: std::net::SocketAddr = ([127, 0, 0, 1], port).into();
    let _first = std::net::TcpStream::connect(at).unwrap();
    let mut world = World::raw(&Options::default());
    let mut raw = Raw::new(40_000, (GATEWAY4, port).into());
    raw.send(&mut world, SYN, &[]);
    raw.silent_for(&mut world, Duration::from_secs(1));
    assert_eq!(world.slirp.flows(), (1, 0));
    let syn = raw.seq.wrapping_sub(1);
    raw.send_at(&mut world, SYN, syn, &[]);
    raw.silent_for(&mut world, Duration::from_secs(1));
    assert_eq!(world.slirp.flows(), (1, 0), "the SYN again");
    // The guest gives up.
    raw.send_at(&mut world, RST, raw.seq, &[]);
    world.assert_clean();
}

#[test]
fn a_syn_repeated_after_the_syn_ack_gets_it_again() {
    let host = Host::listen();
    let mut world = World::raw(&Options::default());
    let mut raw = Raw::new(40_000, host.gateway());
    let first = raw.half_open(&mut world);
    raw.send_at(&mut world, SYN, raw.seq.wrapping_sub(1), &[]);
    let second = raw.next(&mut world);
    assert_eq!(
        (first.seq, first.ack, first.flags),
        (second.seq, second.ack, second.flags)
    );
    raw.send(&mut world, ACK, &[]);
    let mut peer = host.accept(&mut world);
    raw.send(&mut world, ACK | PSH, b"hi");
    assert_eq!(raw.next(&mut world).ack, raw.seq);
    assert_eq!(read(&mut peer, 10), Got::Bytes(b"hi".to_vec()));
}

#[test]
fn a_lost_syn_ack_is_sent_again_and_given_up_in_the_end() {
    let host = Host::listen();
    let mut world = World::raw(&Options::default());
    let mut raw = Raw::new(40_000, host.gateway());
    raw.half_open(&mut world);
    let again = raw
        .within(&mut world, Duration::from_secs(5))
        .expect("again");
    assert!(again.is(SYN | ACK));
    let mut peer = host.accept(&mut world);
    world.advance(Duration::from_secs(60));
    assert_eq!(read(&mut peer, 10), Got::Reset);
    while world.arrived().is_some() {}
    world.assert_clean();
}

#[test]
fn data_and_fin_may_come_with_the_last_acknowledgement() {
    let host = Host::listen();
    let mut world = World::raw(&Options::default());
    let mut raw = Raw::new(40_000, host.gateway());
    raw.half_open(&mut world);
    raw.send(&mut world, ACK | PSH | FIN, b"all at once");
    let mut peer = host.accept(&mut world);
    let ack = raw.next(&mut world);
    assert_eq!(ack.ack, raw.seq, "data and FIN");
    assert_eq!(read(&mut peer, 100), Got::Bytes(b"all at once".to_vec()));
    assert_eq!(read(&mut peer, 100), Got::End);
    assert_eq!(write(&mut peer, b"answer"), 6);
    drop(peer);
    let mut answer = Vec::new();
    loop {
        let segment = raw.next(&mut world);
        answer.extend_from_slice(&segment.payload);
        if segment.flags & FIN != 0 {
            raw.ack = segment
                .seq
                .wrapping_add(u32::try_from(segment.payload.len()).unwrap() + 1);
            break;
        }
    }
    assert_eq!(answer, b"answer");
    raw.send(&mut world, ACK, &[]);
    world.assert_clean();
}

#[test]
fn what_the_host_says_first_waits_for_the_handshake() {
    let host = Host::listen();
    let mut world = World::raw(&Options::default());
    let mut raw = Raw::new(40_000, host.gateway());
    raw.half_open(&mut world);
    let mut peer = host.accept(&mut world);
    assert_eq!(write(&mut peer, b"220 hello"), 9);
    raw.silent_for(&mut world, Duration::from_millis(100));
    raw.send(&mut world, ACK, &[]);
    let greeting = raw.next(&mut world);
    assert_eq!(greeting.payload, b"220 hello");
}

/// The host accepts, speaks and closes before the gateway looks: one event tells
/// of the connection, the data and their end.
#[test]
fn an_end_that_comes_with_the_connection_is_not_lost() {
    let host = Host::listen();
    let mut world = World::raw(&Options::default());
    let mut raw = Raw::new(40_000, host.gateway());
    world.settle();
    let frame = raw.frame(SYN, raw.seq, &[]);
    world.feed(&frame, &gw::net::Offload::default());
    raw.seq = raw.seq.wrapping_add(1);
    let mut peer = loop {
        if let Some(peer) = host.try_accept() {
            break peer;
        }
    };
    assert_eq!(write(&mut peer, b"bye"), 3);
    drop(peer);
    let answer = raw.next(&mut world);
    assert!(answer.is(SYN | ACK), "{answer:?}");
    raw.ack = answer.seq.wrapping_add(1);
    raw.send(&mut world, ACK, &[]);
    let (mut data, mut fin) = (Vec::new(), false);
    while let Some(segment) = raw.within(&mut world, Duration::from_millis(50)) {
        data.extend_from_slice(&segment.payload);
        fin |= segment.flags & FIN != 0;
    }
    assert_eq!((data, fin), (b"bye".to_vec(), true));
}

#[test]
fn a_segment_of_no_connection_is_reset() {
    let host = Host::listen();
    let mut world = World::raw(&Options::default());
    let mut raw = Raw::new(40_000, host.gateway());
    raw.ack = 777;
    raw.send(&mut world, ACK | PSH, b"who?");
    let answer = raw.next(&mut world);
    assert!(answer.is(RST) || answer.is(RST | ACK), "{answer:?}");
    assert_eq!(answer.seq, 777);
    raw.send(&mut world, RST, &[]);
    raw.silent_for(&mut world, SOON);
    raw.send(&mut world, SYN | FIN, &[]);
    let answer = raw.next(&mut world);
    assert!(answer.flags & RST != 0, "{answer:?}");
    raw.send(&mut world, SYN | ACK, &[]);
    let answer = raw.next(&mut world);
    assert!(answer.flags & RST != 0, "{answer:?}");
    world.assert_clean();
}

/// An independent stack agrees with the handshake, both families.
#[test]
fn smoltcp_connects() {
    let mut world = World::new(&Options::default());
    for host in [Host::listen(), Host::listen_v6()] {
        let handle = world.connect(host.gateway());
        let mut peer = host.accept(&mut world);
        world.until(SOON, |w| w.tcp(handle).may_send());
        world.tcp(handle).send_slice(b"ping").unwrap();
        let mut got = Got::Nothing;
        world.until(SOON, |_| {
            got = read(&mut peer, 10);
            got != Got::Nothing
        });
        assert_eq!(got, Got::Bytes(b"ping".to_vec()));
        write(&mut peer, b"pong");
        world.until(SOON, |w| w.tcp(handle).can_recv());
        let mut buf = [0; 10];
        assert_eq!(world.tcp(handle).recv_slice(&mut buf).unwrap(), 4);
        world.tcp(handle).abort();
        world.settle();
    }
    world.assert_clean();
}

/// Segments to the resolver's TCP port end at the resolver.
#[test]
fn dns_over_tcp_is_a_stream_of_the_resolver() {
    use std::io::Read;
    let mut world = World::raw(&Options::default());
    let mut raw = Raw::new(40_000, "10.0.2.3:53".parse().unwrap());
    raw.open(&mut world);
    raw.send(&mut world, ACK | PSH, b"\0\x02ab");
    world.settle();
    let mut stream = world.dns_streams.borrow_mut().pop().expect("a stream");
    let mut bytes = [0; 10];
    assert_eq!(stream.read(&mut bytes).unwrap(), 4);
    drop(stream);
    let mut fin = false;
    while let Some(segment) = raw.within(&mut world, Duration::from_millis(50)) {
        fin |= segment.flags & FIN != 0;
    }
    assert!(fin);
}

#[test]
fn frames_towards_others_are_not_ours() {
    let host = Host::listen();
    let mut world = World::raw(&Options::default());
    let raw = Raw::new(40_000, host.gateway());
    let mut frame = raw.frame(SYN, raw.seq, &[]);
    frame[5] ^= 0xff;
    world.inject(&frame);
    let mut foreign = raw.frame(SYN, raw.seq, &[]);
    foreign[26..30].copy_from_slice(&[10, 0, 3, 1]); // a source that no guest has
    world.inject(&foreign);
    let mut wrong = raw.frame(SYN, raw.seq, &[]);
    wrong[50] ^= 1; // a wrong TCP checksum
    world.inject(&wrong);
    world.settle();
    assert!(world.arrived().and_then(|f| parse(&f)).is_none());
    world.assert_clean();
}
