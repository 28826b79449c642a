//! Captures, read by the programs that people read them with: tshark, capinfos and
//! tcpdump.

mod filter;
mod runtime;
mod streams;

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::ctl::SOCKET;
use crate::harness::peer::{dns_server, tcp_server, udp_echo};
use crate::harness::{
    DNS4, GUEST4, Gw, Launch, Netns, PATIENCE, REMOTE4, REMOTE6, World, eventually, require,
};

/// Datagrams that the guest sends, and has sent back.
const SIZES: [usize; 6] = [0, 1, 17, 100, 1000, 1472];

/// Packets of a file: the values of these fields for each, those that tshark prints.
fn packets(netns: &Netns, file: &str, fields: &[&str], options: &str) -> Vec<Vec<String>> {
    require("tshark");
    let fields: String = fields.iter().map(|field| format!(" -e {field}")).collect();
    let said = netns.ok(&format!(
        "tshark -n -r {file} -T fields -E separator='|' -E occurrence=f {options} {fields}"
    ));
    let row = |line: &str| line.split('|').map(ToOwned::to_owned).collect();
    said.lines().map(row).collect()
}

/// Bytes of hexadecimal digits.
fn bytes(hex: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("digits");
    (0..hex.len()).step_by(2).map(digit).collect()
}

/// The guest sends datagrams of [`SIZES`] and waits for each to come back.
fn exchange_datagrams(world: &World, port: u16) {
    world.guest.py(&format!(
        "s = udp('{REMOTE4}', connected={port})
for size in {SIZES:?}:
    data = bytes(i * 7 % 256 for i in range(size))
    s.send(data)
    assert s.recv(65536) == data"
    ));
}

fn datagram(size: usize) -> Vec<u8> {
    (0..size)
        .map(|i| u8::try_from(i * 7 % 256).expect("a byte"))
        .collect()
}

/// Files of a folder that begin so, sorted.
fn files(netns: &Netns, start: &str) -> Vec<String> {
    let listed = netns.ok(&format!("ls {start}* 2>/dev/null || true"));
    listed.lines().map(ToOwned::to_owned).collect()
}

/// A file as this process sees it.
fn outside(netns: &Netns, file: &str) -> PathBuf {
    netns
        .root()
        .join(file.strip_prefix('/').expect("an absolute path"))
}

#[test]
fn datagrams_are_there_as_they_were_sent() {
    let world = World::new();
    let _echo = udp_echo(&world.remote, 7);
    let gw = Gw::attach(&world, &["--pcap", "/run/a.pcapng,filter=udp port 7"]);
    exchange_datagrams(&world, 7);
    gw.terminate();
    let fields = [
        "ip.src",
        "ip.dst",
        "udp.payload",
        "frame.interface_name",
        "frame.packet_flags_direction",
        "udp.checksum.status",
        "ip.checksum.status",
    ];
    let options = "-o udp.check_checksum:TRUE -o ip.check_checksum:TRUE";
    let packets = packets(&world.outer, "/run/a.pcapng", &fields, options);
    assert_eq!(packets.len(), 2 * SIZES.len(), "{packets:?}");
    for (pair, size) in packets.chunks(2).zip(SIZES) {
        // There and back; the direction is the guest's: 2 is out, 1 is in.
        for (packet, (from, to, direction)) in pair
            .iter()
            .zip([(GUEST4, REMOTE4, "2"), (REMOTE4, GUEST4, "1")])
        {
            assert_eq!(packet[..2], [from, to]);
            assert_eq!(bytes(&packet[2]), datagram(size));
            assert_eq!(packet[3], "tap0");
            let value = packet[4].trim_start_matches("0x").trim_start_matches('0');
            assert_eq!(value, direction, "{packet:?}");
            assert_eq!(packet[5..], ["1", "1"], "good checksums: {packet:?}");
        }
    }
}

/// Rebuilds both directions of the connection with this server's port.
fn rebuilt(packets: &[Vec<String>], port: &str) -> [Vec<u8>; 2] {
    let mut streams = [Vec::new(), Vec::new()];
    let mut next: [Option<u32>; 2] = [None, None];
    for packet in packets {
        let [from, to, seq, payload, flags] = &packet[..5] else {
            panic!("{packet:?}");
        };
        let at = match (from == port, to == port) {
            (true, _) => 0,
            (_, true) => 1,
            _ => continue,
        };
        let seq: u32 = seq.parse().expect("a number");
        let flags = u32::from_str_radix(flags.trim_start_matches("0x"), 16).expect("flags");
        if flags & 2 != 0 {
            next[at] = Some(seq.wrapping_add(1));
            continue;
        }
        let payload = bytes(payload);
        if payload.is_empty() {
            continue;
        }
        let expected = next[at].expect("SYN comes first");
        let behind = expected.wrapping_sub(seq);
        // Sent again, all of it.
        assert!(behind < 1 << 31, "a hole in front of {packet:?}");
        if usize::try_from(behind).expect("fits") >= payload.len() {
            continue;
        }
        let fresh = &payload[usize::try_from(behind).expect("fits")..];
        streams[at].extend_from_slice(fresh);
        let len = u32::try_from(fresh.len()).expect("fits");
        next[at] = Some(expected.wrapping_add(len));
    }
    streams
}

#[test]
fn streams_become_segments_of_the_wire_with_right_sums() {
    for (remote, filter) in [(REMOTE4, "tcp port 80"), (REMOTE6, "ip6 and tcp port 80")] {
        let world = World::new();
        let _server = tcp_server(&world.remote, 80);
        let capture = format!("/run/a.pcapng,filter={filter}");
        let gw = Gw::attach(&world, &["--pcap", &capture]);
        world.guest.py(&format!(
            "s = connect('{remote}', 80)
s.sendall(b'echo\\n')
data = b''.join(stream(700000))
t = threading.Thread(target=lambda: (s.sendall(data), s.shutdown(SHUT_WR)))
t.start()
assert read_all(s) == (len(data), stream_digest(len(data)))
t.join()"
        ));
        let said = gw.terminate();
        assert!(!said.contains("lacks packets"), "{said}");
        let fields = [
            "tcp.srcport",
            "tcp.dstport",
            "tcp.seq_raw",
            "tcp.payload",
            "tcp.flags",
            "frame.len",
            "frame.cap_len",
            "tcp.checksum.status",
        ];
        let options = "-o tcp.check_checksum:TRUE -o tcp.desegment_tcp_streams:FALSE";
        let packets = packets(&world.outer, "/run/a.pcapng", &fields, options);
        for packet in &packets {
            let len: u32 = packet[5].parse().expect("a number");
            assert!(len <= 1514, "{packet:?}");
            assert_eq!(packet[5], packet[6]);
            assert_eq!(packet[7], "1", "a good checksum: {packet:?}");
        }
        let [down, up] = rebuilt(&packets, "80");
        let stream = world.guest.py("print(b''.join(stream(700000)).hex())");
        let stream = bytes(stream.trim());
        assert_eq!(up, [b"echo\n", &stream[..]].concat());
        assert_eq!(down, stream);
    }
}

#[test]
fn whole_frames_are_those_that_the_guest_itself_sees() {
    require("tcpdump");
    let world = World::new();
    let _server = tcp_server(&world.remote, 80);
    let _echo = udp_echo(&world.remote, 7);
    let gw = Gw::attach(&world, &["--pcap", "/run/gw.pcapng,segment=off"]);
    let guest = world.guest.inner_pid();
    let mut tcpdump = world.outer.spawn(&format!(
        "nsenter --net --target {guest} \
         tcpdump -n -U --immediate-mode -i tap0 -w /run/guest.pcap -Z root 2>&1"
    ));
    tcpdump.wait_line("listening on");
    exchange_datagrams(&world, 7);
    world
        .guest
        .py(&format!("download('{REMOTE4}', 80, 300_000)"));
    world.guest.ok(&format!("ping -n -c 3 -i 0.2 {DNS4}"));
    // Everything that is under way has arrived.
    std::thread::sleep(Duration::from_millis(300));
    tcpdump.signal(Signal::SIGINT);
    tcpdump.finish(PATIENCE);
    gw.terminate();
    let count = |netns: &Netns, file: &str| {
        let options = "-Y 'udp.port == 7 or tcp.port == 80 or icmp'";
        let mut frames: Vec<String> = packets(
            netns,
            file,
            &["frame.len", "eth.src", "frame.md5_hash"],
            &format!("-o frame.generate_md5_hash:TRUE {options}"),
        )
        .iter()
        .map(|packet| packet.join(" "))
        .collect();
        frames.sort();
        frames
    };
    let ours = count(&world.outer, "/run/gw.pcapng");
    let guests = count(&world.outer, "/run/guest.pcap");
    assert!(ours.len() > 30, "{}", ours.len());
    assert_eq!(ours, guests);
}

#[test]
fn the_snaplen_cuts_and_lengths_stay_true() {
    let world = World::new();
    let _echo = udp_echo(&world.remote, 7);
    let args = [
        "--pcap",
        "/run/a.pcapng,snaplen=60,filter=udp port 7",
        "--pcap",
        "/run/a.pcap,snaplen=60,filter=udp port 7",
    ];
    let gw = Gw::attach(&world, &args);
    exchange_datagrams(&world, 7);
    gw.terminate();
    for file in ["/run/a.pcapng", "/run/a.pcap"] {
        let packets = packets(&world.outer, file, &["frame.len", "frame.cap_len"], "");
        assert_eq!(packets.len(), 2 * SIZES.len());
        for (packet, size) in packets.iter().step_by(2).zip(SIZES) {
            let len = 14 + 20 + 8 + size;
            assert_eq!(packet[..], [len.to_string(), len.min(60).to_string()]);
        }
    }
}

#[test]
fn capinfos_knows_the_files() {
    let world = World::new();
    let _echo = udp_echo(&world.remote, 7);
    let args = [
        "--pcap",
        "/run/a.pcapng,filter=udp port 7",
        "--pcap",
        "/run/a.pcap",
    ];
    let gw = Gw::attach(&world, &args);
    exchange_datagrams(&world, 7);
    gw.terminate();
    let about = world.outer.ok("capinfos /run/a.pcapng");
    for part in [
        "Wireshark/... - pcapng",
        "nanoseconds (9)",
        &format!("gw {}", env!("CARGO_PKG_VERSION")),
        "Name = tap0",
        "Capture length = 262144",
        "Filter string = udp port 7",
        "Number of packets = 12",
        "Number of stat entries = 1",
        "Strict time order:   True",
    ] {
        assert!(about.contains(part), "{part}: {about}");
    }
    let about = world.outer.ok("capinfos /run/a.pcap");
    for part in ["nanosecond pcap", "nanoseconds (9)", "Ethernet"] {
        assert!(about.contains(part), "{part}: {about}");
    }
    // Times are those of the clock.
    let times = packets(&world.outer, "/run/a.pcap", &["frame.time_epoch"], "");
    let first: f64 = times[0][0].parse().expect("a time");
    let now: f64 = world
        .outer
        .ok("date +%s.%N")
        .trim()
        .parse()
        .expect("a time");
    assert!((0.0..60.0).contains(&(now - first)), "{first} {now}");
    assert!(
        times.iter().any(|time| !time[0].ends_with("000")),
        "nanoseconds"
    );
}

#[test]
fn files_rotate_and_the_ring_keeps_the_last() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 80);
    let args = [
        "--pcap",
        "/run/ring.pcapng,size=128K,files=3",
        "--pcap",
        "/run/all.pcapng,size=128K",
    ];
    let gw = Gw::attach(&world, &args);
    world
        .guest
        .py(&format!("download('{REMOTE4}', 80, 2_000_000)"));
    gw.terminate();
    let ring = files(&world.outer, "/run/ring_");
    assert_eq!(ring.len(), 3, "{ring:?}");
    assert!(ring[0].as_str() > "/run/ring_00010", "{ring:?}");
    let all = files(&world.outer, "/run/all_");
    assert!(all.len() > 15, "{all:?}");
    assert!(all[0].starts_with("/run/all_00001_20"), "{all:?}");
    for file in &all {
        let size = std::fs::metadata(outside(&world.outer, file))
            .expect("a file")
            .len();
        assert!(size < (128 << 10) + 512, "{file}: {size}");
    }
    // One behind the other they are the whole.
    world
        .outer
        .ok("mergecap -a -w /run/whole.pcapng /run/all_*.pcapng");
    let fields = [
        "tcp.srcport",
        "tcp.dstport",
        "tcp.seq_raw",
        "tcp.payload",
        "tcp.flags",
        "frame.interface_name",
    ];
    let packets = packets(
        &world.outer,
        "/run/whole.pcapng",
        &fields,
        "-Y tcp.port==80",
    );
    assert!(packets.iter().all(|packet| packet[5] == "tap0"));
    let [down, up] = rebuilt(&packets, "80");
    assert_eq!((down.len(), &up[..]), (2_000_000, &b"get 2000000\n"[..]));
    let last = ring.last().expect("a file").replace("ring", "all");
    assert_eq!(&last[..14], &all.last().expect("a file")[..14]);
}

#[test]
fn a_full_disk_ends_the_capture_and_nothing_else() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 80);
    let _echo = udp_echo(&world.remote, 7);
    world
        .outer
        .ok("mkdir /run/small && mount -t tmpfs -o size=400k tmpfs /run/small");
    let args = [
        "--pcap",
        "/run/small/a.pcapng",
        "--pcap",
        "/run/b.pcapng",
        "--control",
        SOCKET,
    ];
    let gw = Gw::attach(&world, &args);
    world
        .guest
        .py(&format!("download('{REMOTE4}', 80, 3_000_000)"));
    eventually("a message", PATIENCE, || {
        gw.stderr().contains("No space left").then_some(())
    });
    exchange_datagrams(&world, 7);
    let list = Launch::new(&world.outer, &["ctl", SOCKET, "capture", "list"]).run();
    list.success().says("/run/b.pcapng").lacks("/run/small");
    let said = gw.terminate();
    let about: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("/run/small"))
        .collect();
    assert_eq!(about.len(), 1, "{said}");
    assert!(
        about[0].contains("the capture to '/run/small/a.pcapng' has ended: No space left"),
        "{said}"
    );
    // tshark fails where a file is cut short.
    let there = packets(&world.outer, "/run/small/a.pcapng", &["frame.len"], "");
    assert!(there.len() > 100);
    let whole = packets(
        &world.outer,
        "/run/b.pcapng",
        &["udp.length"],
        "-Y udp.port==7",
    );
    assert_eq!(whole.len(), 2 * SIZES.len());
}

#[test]
fn a_killed_gateway_leaves_files_that_can_be_read() {
    let world = World::new();
    let _echo = udp_echo(&world.remote, 7);
    let args = ["--pcap", "/run/a.pcapng", "--pcap", "/run/a.pcap"];
    let mut gw = Gw::attach(&world, &args);
    exchange_datagrams(&world, 7);
    // In a moment all of it is there, whatever becomes of the gateway.
    std::thread::sleep(Duration::from_millis(200));
    gw.signal(Signal::SIGKILL);
    gw.wait(PATIENCE);
    for file in ["/run/a.pcapng", "/run/a.pcap"] {
        let packets = packets(&world.outer, file, &["udp.length"], "-Y udp.port==7");
        assert_eq!(packets.len(), 2 * SIZES.len(), "{file}");
    }
}

#[test]
fn a_gateway_that_is_killed_at_work_leaves_files_that_can_be_read() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 80);
    let mut gw = Gw::attach(&world, &["--pcap", "/run/a.pcapng"]);
    let _load = world
        .guest
        .spawn_python(&format!("download('{REMOTE4}', 80, 1 << 40)"));
    let size = || {
        let file = std::fs::metadata(outside(&world.outer, "/run/a.pcapng"));
        file.map_or(0, |file| file.len())
    };
    eventually("some traffic", PATIENCE, || {
        (size() > 3_000_000).then_some(())
    });
    gw.signal(Signal::SIGKILL);
    gw.wait(PATIENCE);
    let size = size();
    // The kernel may have stopped in the middle of the very last write, which
    // tshark says, behind all the packets before.
    let read = world
        .outer
        .sh("tshark -n -r /run/a.pcapng -T fields -e frame.cap_len > /run/lengths; wc -l < /run/lengths");
    let count: u64 = read.stdout.trim().parse().expect("a number");
    let sum = world
        .outer
        .ok("awk '{ sum += $1 } END { print sum }' /run/lengths");
    let sum: u64 = sum.trim().parse().expect("a number");
    assert!(count > 1000, "{read:?}");
    // Nothing is missing but what may be a part of a block.
    let most = sum + count * 60 + 2000;
    assert!(
        size <= most,
        "{size} bytes, of which {sum} in {count} packets"
    );
}

#[test]
fn packets_say_what_became_of_their_flow_and_its_name() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 80);
    let _names = dns_server(&world.remote, REMOTE4, REMOTE4);
    let gw = Gw::attach(&world, &["--pcap", "/run/a.pcapng"]);
    world.guest.py("s = connect('www.example.org', 80)
s.sendall(b'get 10\\n')
read_all(s)
assert outcome(lambda: connect('www.example.org', 81)) == 'ECONNREFUSED'");
    gw.terminate();
    let comments = |filter: &str| -> Vec<String> {
        let options = format!("-Y 'frame.comment and {filter}'");
        packets(&world.outer, "/run/a.pcapng", &["frame.comment"], &options).concat()
    };
    assert_eq!(comments("tcp.port==80"), ["www.example.org: connected"]);
    assert_eq!(comments("tcp.port==81"), ["www.example.org: refused"]);
}
