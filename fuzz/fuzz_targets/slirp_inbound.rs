//! Clients of forwarded ports, and a guest that answers them in every wrong way:
//! segments whose numbers are near the right ones, ICMP errors about what it was
//! sent, datagrams to whom it saw, and hardware addresses that come and go.
#![no_main]

mod common;

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use arbitrary::Arbitrary;
use common::{GATEWAY_MAC, World, fix};
use gw::net::Offload;
use gw::policy::HostLoopback;
use gw::slirp::{GuestTarget, Listener, ListenerKind};

const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

#[derive(Debug, Arbitrary)]
enum Step {
    /// A new client, in place of the one before.
    Connect,
    ClientWrites {
        len: u16,
    },
    ClientReads,
    ClientShuts,
    ClientCloses,
    ClientSends {
        len: u16,
    },
    /// Answers the last frame; numbers are relative to the right ones.
    Segment {
        flags: u8,
        seq: i16,
        ack: i16,
        len: u16,
        window: u16,
        options: Vec<u8>,
        moves: bool,
    },
    /// Answers the last frame as a datagram.
    Answer {
        len: u16,
    },
    /// Says something about the last frame.
    Error {
        kind: u8,
        code: u8,
        cut: u16,
        flip: Option<(u16, u8)>,
    },
    /// Says that it has an address.
    Arp {
        host: u8,
        mac: u8,
    },
    Wait {
        ms: u16,
    },
}

struct Bench {
    world: World,
    tcp: std::net::SocketAddr,
    udp: std::net::SocketAddr,
    client: UdpSocket,
    seq: u32,
}

thread_local! {
    static BENCH: RefCell<Bench> = RefCell::new(Bench::new());
}

impl Bench {
    fn new() -> Self {
        let mut world = World::new(HostLoopback::Closed);
        let target = GuestTarget {
            v4: "10.0.2.100:80".parse().ok(),
            v6: "[fd00::100]:80".parse().ok(),
        };
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let at = (
            tcp.local_addr().expect("bound"),
            udp.local_addr().expect("bound"),
        );
        for (socket, kind) in [
            (tcp.into(), ListenerKind::Tcp),
            (udp.into(), ListenerKind::Udp),
        ] {
            let listener = Listener {
                socket,
                kind,
                target,
            };
            world.slirp.listen(listener).expect("a listener");
        }
        let client = UdpSocket::bind("127.0.0.1:0").expect("a port");
        client.set_nonblocking(true).expect("non-blocking");
        Self {
            world,
            tcp: at.0,
            udp: at.1,
            client,
            seq: 5000,
        }
    }

    fn arp(&mut self, host: u8, mac: u8) {
        let mut frame = [
            &GATEWAY_MAC.0[..],
            &GUEST_MAC,
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2],
        ]
        .concat();
        frame.extend([2, 0, 0, 0, 0, mac, 10, 0, 2, host]);
        frame.extend(GATEWAY_MAC.0);
        frame.extend([10, 0, 2, 2]);
        self.world.feed(&frame, &Offload::default());
    }

    /// The front of an answer to the last frame, up to and with the IP header;
    /// and the last frame.
    fn back(&self, protocol: u8, len: usize) -> Option<(Vec<u8>, Vec<u8>)> {
        let last = self.world.last.borrow().clone();
        let total = u16::try_from(len).ok()?;
        let mut frame = [&GATEWAY_MAC.0[..], &GUEST_MAC].concat();
        match last.get(14)? >> 4 {
            4 => {
                frame.extend([8, 0, 0x45, 0]);
                frame.extend(total.checked_add(20)?.to_be_bytes());
                frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
                frame.extend_from_slice(last.get(30..34)?);
                frame.extend_from_slice(last.get(26..30)?);
            }
            6 => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend(total.to_be_bytes());
                frame.extend([if protocol == 1 { 58 } else { protocol }, 64]);
                frame.extend_from_slice(last.get(38..54)?);
                frame.extend_from_slice(last.get(22..38)?);
            }
            _ => return None,
        }
        Some((frame, last))
    }

    fn send(&mut self, mut frame: Vec<u8>) {
        let _ = fix(&mut frame);
        self.world.feed(&frame, &Offload::default());
    }

    #[allow(clippy::too_many_arguments)]
    fn segment(
        &mut self,
        flags: u8,
        seq: i16,
        ack: i16,
        len: u16,
        window: u16,
        options: &[u8],
        moves: bool,
    ) -> Option<()> {
        let options = &options[..options.len().min(40) & !3];
        let (mut frame, last) = self.back(6, 20 + options.len() + usize::from(len))?;
        let start = if last[14] >> 4 == 4 { 34 } else { 54 };
        let tcp = last.get(start..start + 20)?;
        let last_seq = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        let header = usize::from(tcp[12] >> 4) * 4;
        let carried = (last.len() - start).saturating_sub(header) as u32;
        let next =
            last_seq.wrapping_add(carried + u32::from(tcp[13] & 1) + u32::from(tcp[13] >> 1 & 1));
        frame.extend([tcp[2], tcp[3], tcp[0], tcp[1]]);
        frame.extend(self.seq.wrapping_add_signed(seq.into()).to_be_bytes());
        frame.extend(next.wrapping_add_signed(ack.into()).to_be_bytes());
        frame.extend([((20 + options.len()) as u8 / 4) << 4, flags]);
        frame.extend(window.to_be_bytes());
        frame.extend([0, 0, 0, 0]);
        frame.extend_from_slice(options);
        frame.resize(frame.len() + usize::from(len), 0x61);
        self.send(frame);
        if moves {
            let control = u32::from(flags & 1) + u32::from(flags >> 1 & 1);
            self.seq = self.seq.wrapping_add(u32::from(len) + control);
        }
        Some(())
    }

    fn answer(&mut self, len: u16) -> Option<()> {
        let len = len.min(60_000);
        let (mut frame, last) = self.back(17, 8 + usize::from(len))?;
        let start = if last[14] >> 4 == 4 { 34 } else { 54 };
        let udp = last.get(start..start + 8)?;
        frame.extend([udp[2], udp[3], udp[0], udp[1]]);
        frame.extend((len + 8).to_be_bytes());
        frame.extend([0, 0]);
        frame.resize(frame.len() + usize::from(len), 0x61);
        self.send(frame);
        Some(())
    }

    fn error(&mut self, kind: u8, code: u8, cut: u16, flip: Option<(u16, u8)>) -> Option<()> {
        let mut quote = self.world.last.borrow().get(14..)?.to_vec();
        quote.truncate(cut.into());
        if let Some((at, byte)) = flip
            && let Some(place) = quote.get_mut(usize::from(at))
        {
            *place = byte;
        }
        let (mut frame, _) = self.back(1, 8 + quote.len())?;
        frame.extend([kind, code, 0, 0, 0, 0, 0, 0]);
        frame.extend(quote);
        self.send(frame);
        Some(())
    }
}

libfuzzer_sys::fuzz_target!(|steps: Vec<Step>| {
    BENCH.with_borrow_mut(|bench| {
        bench.seq = 5000;
        let mut stream: Option<TcpStream> = None;
        for step in steps {
            bench.world.turn(Duration::from_micros(100));
            match step {
                Step::Connect => {
                    let client = TcpStream::connect(bench.tcp).expect("a listener");
                    client.set_nonblocking(true).expect("non-blocking");
                    stream = Some(client);
                }
                Step::ClientWrites { len } => {
                    let _ = stream.as_mut().map(|s| s.write(&vec![b'c'; len.into()]));
                }
                Step::ClientReads => {
                    let _ = stream.as_mut().map(|s| s.read(&mut [0; 65536]));
                }
                Step::ClientShuts => {
                    let _ = stream.as_ref().map(|s| s.shutdown(Shutdown::Write));
                }
                // Unread bytes make it a reset.
                Step::ClientCloses => drop(stream.take()),
                Step::ClientSends { len } => {
                    let len = usize::from(len).min(65_000);
                    let _ = bench.client.send_to(&vec![b'd'; len], bench.udp);
                }
                Step::Segment {
                    flags,
                    seq,
                    ack,
                    len,
                    window,
                    options,
                    moves,
                } => {
                    bench.segment(flags, seq, ack, len, window, &options, moves);
                }
                Step::Answer { len } => {
                    bench.answer(len);
                }
                Step::Error {
                    kind,
                    code,
                    cut,
                    flip,
                } => {
                    bench.error(kind, code, cut, flip);
                }
                Step::Arp { host, mac } => bench.arp(host, mac),
                Step::Wait { ms } => bench.world.turn(Duration::from_millis(ms.into())),
            }
        }
        bench.world.turn(Duration::from_millis(1));
        assert!(bench.world.slirp.flow_list().len() < 600);
        drop(stream);
        bench.world.turn(Duration::from_millis(1));
        bench.world.empty();
        while bench.client.recv(&mut [0; 65536]).is_ok() {}
    });
});
