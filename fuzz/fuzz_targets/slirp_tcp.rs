//! TCP conversations: segments whose numbers are near the right ones, with a
//! host that echoes, writes, stops and closes. This reaches every state of the
//! joins and of lwIP.
#![no_main]

mod common;

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use arbitrary::Arbitrary;
use common::{GATEWAY_MAC, World, fix};
use gw::net::Offload;
use gw::policy::HostLoopback;

#[derive(Debug, Arbitrary)]
enum Step {
    /// A segment; numbers are relative to the right ones.
    Segment { flags: u8, seq: i32, ack: i32, len: u16, window: u16, moves: bool },
    /// Any options instead of sane ones, in a SYN.
    Syn { seq: i16, options: Vec<u8>, window: u16, len: u16 },
    /// Acknowledges all that came.
    Acknowledge { window: u16 },
    Wait { ms: u16 },
    HostWrites { len: u16 },
    HostReads,
    HostShuts,
    HostCloses,
    HostResets,
}

struct Host {
    world: World,
    listener: TcpListener,
    port: u16,
    next_port: u16,
}

thread_local! {
    static HOST: RefCell<Host> = RefCell::new(Host::new());
}

impl Host {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("non-blocking");
        let port = listener.local_addr().expect("bound").port();
        let range = gw::policy::PortRange { first: port, last: port };
        let world = World::new(HostLoopback::Ports(vec![range]));
        Self { world, listener, port, next_port: 1024 }
    }
}

/// What the guest knows of the connection.
#[derive(Default)]
struct Guest {
    port: u16,
    seq: u32,
    ack: u32,
}

impl Guest {
    fn frame(&self, to: u16, flags: u8, seq: i32, ack: i32, window: u16, options: &[u8], len: usize) -> Vec<u8> {
        let options = &options[..options.len().min(40) & !3];
        let header = 20 + options.len();
        let total = u16::try_from(20 + header + len).unwrap_or(u16::MAX);
        let len = usize::from(total) - 20 - header;
        let mut frame = [&GATEWAY_MAC.0[..], &[2, 0, 0, 0, 0, 9, 8, 0, 0x45, 0]].concat();
        frame.extend(total.to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 2, 100, 10, 0, 2, 2]);
        frame.extend(self.port.to_be_bytes());
        frame.extend(to.to_be_bytes());
        frame.extend(self.seq.wrapping_add_signed(seq).to_be_bytes());
        frame.extend(self.ack.wrapping_add_signed(ack).to_be_bytes());
        frame.extend([(header as u8 / 4) << 4, flags]);
        frame.extend(window.to_be_bytes());
        frame.extend([0, 0, 0, 0]);
        frame.extend_from_slice(options);
        frame.resize(frame.len() + len, 0x61);
        let _ = fix(&mut frame);
        frame
    }

    /// Learns from the last frame that the gateway sent.
    fn learn(&mut self, frame: &[u8]) {
        let Some(tcp) = frame.get(34..54) else { return };
        if frame[23] != 6 || tcp[2..4] != self.port.to_be_bytes() {
            return;
        }
        let seq = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        let header = usize::from(tcp[12] >> 4) * 4;
        let len = (frame.len() - 34).saturating_sub(header) as u32;
        self.ack = seq.wrapping_add(len + u32::from(tcp[13] & 1) + u32::from(tcp[13] >> 1 & 1));
    }
}

const SANE: [u8; 12] = [2, 4, 5, 180, 4, 2, 3, 3, 7, 1, 1, 1];

libfuzzer_sys::fuzz_target!(|steps: Vec<Step>| {
    HOST.with_borrow_mut(|host| {
        host.next_port = host.next_port.checked_add(1).unwrap_or(1024);
        let mut guest = Guest { port: host.next_port, seq: 5000, ack: 0 };
        let (to, world) = (host.port, &mut host.world);
        let open = guest.frame(to, 2, 0, 0, 65535, &SANE, 0);
        if !matches!(steps.first(), Some(Step::Syn { .. })) {
            world.feed(&open, &Offload::default());
            guest.seq = guest.seq.wrapping_add(1);
        }
        let mut stream: Option<TcpStream> = None;
        for step in steps {
            world.turn(Duration::from_micros(100));
            if stream.is_none() {
                stream = host.listener.accept().ok().map(|(stream, _)| stream);
                if let Some(stream) = &stream {
                    stream.set_nonblocking(true).expect("non-blocking");
                }
            }
            let last = world.last.borrow().clone();
            guest.learn(&last);
            match step {
                Step::Segment { flags, seq, ack, len, window, moves } => {
                    let flags = if flags & 0xc0 == 0 { flags } else { flags & 0x3f | 0x10 };
                    let frame = guest.frame(to, flags, seq, ack, window, &[], len.into());
                    world.feed(&frame, &Offload::default());
                    if moves {
                        guest.seq = guest.seq.wrapping_add(u32::from(len) + u32::from(flags & 1));
                    }
                }
                Step::Syn { seq, options, window, len } => {
                    let frame = guest.frame(to, 2, seq.into(), 0, window, &options, len.into());
                    world.feed(&frame, &Offload::default());
                }
                Step::Acknowledge { window } => {
                    let frame = guest.frame(to, 0x10, 0, 0, window, &[], 0);
                    world.feed(&frame, &Offload::default());
                }
                Step::Wait { ms } => world.turn(Duration::from_millis(ms.into())),
                Step::HostWrites { len } => {
                    let _ = stream.as_mut().map(|s| s.write(&vec![b'h'; len.into()]));
                }
                Step::HostReads => {
                    let _ = stream.as_mut().map(|s| s.read(&mut [0; 65536]));
                }
                Step::HostShuts => {
                    let _ = stream.as_ref().map(|s| s.shutdown(std::net::Shutdown::Write));
                }
                // Unread bytes make it a reset.
                Step::HostCloses | Step::HostResets => drop(stream.take()),
            }
        }
        world.turn(Duration::from_millis(1));
        drop(stream);
        while host.listener.accept().is_ok() {}
        world.empty();
    });
});
