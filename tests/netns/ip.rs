//! IP: fragments both ways, limits, broken headers.

use std::time::Duration;

use crate::harness::peer::{tcp_server, udp_echo};
use crate::harness::{Gw, REMOTE4, REMOTE6, World};

/// The gateway still works, and is still the same process.
fn still_works(world: &World) {
    world.guest.py(&format!(
        "download({REMOTE4:?}, 7000, 100000)
download({REMOTE6:?}, 7000, 100000)"
    ));
}

#[test]
fn fragments_of_the_guest_are_put_together() {
    let world = World::new();
    let _echo = udp_echo(&world.remote, 7001);
    let _gw = Gw::attach(&world, &["--mtu", "1280"]);
    for address in [REMOTE4, REMOTE6] {
        world.guest.py(&format!(
            "s = udp({address:?}, connected=7001)
for i in range(20):
    data = random.Random(i).randbytes(30000 + i)
    s.send(data)
    assert s.recv(70000) == data"
        ));
    }
}

#[test]
fn fragments_in_any_order_are_put_together() {
    let world = World::new();
    let mut server = world.remote.serve(
        "s = udp('192.0.2.1', 7001, timeout=20)
ready()
data = s.recv(70000)
assert data == random.Random(1).randbytes(20000), len(data)
print('whole')",
    );
    let _gw = Gw::attach(&world, &[]);
    world.guest.py("e = Ether()
mac = e.gateway_mac()
whole = udp_segment(5555, 7001, random.Random(1).randbytes(20000))
parts = []
for at in range(0, len(whole), 1480):
    more = 0x2000 if at + 1480 < len(whole) else 0
    parts.append(ipv4('10.0.2.100', '192.0.2.1', 17, whole[at:at + 1480], ident=77,
                      flags=more | at // 8))
random.Random(2).shuffle(parts)
for part in parts + parts[:1]: e.send(mac, 0x800, part)");
    assert!(server.done().contains("whole"));
}

#[test]
fn incomplete_fragments_are_bounded() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 7000);
    let gw = Gw::attach(&world, &[]);
    let before = gw.resident_kib();
    world.guest.py(
        "e = Ether()
mac = e.gateway_mac()
for ident in range(40000):
    e.send(mac, 0x800, ipv4('10.0.2.100', '192.0.2.1', 17, bytes(1480), ident=ident, flags=0x2000))",
    );
    let grown = gw.peak_kib().saturating_sub(before);
    assert!(grown < 16 << 10, "grew by {grown} KiB");
    still_works(&world);
}

#[test]
fn overlapping_and_oversized_fragments_do_no_harm() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 7000);
    let _gw = Gw::attach(&world, &[]);
    world.guest.py(
        "e = Ether()
mac = e.gateway_mac()
random.seed(5)
def fragment(ident, offset, size, more):
    e.send(mac, 0x800, ipv4('10.0.2.100', '192.0.2.1', 17, bytes(size), ident=ident,
                            flags=(0x2000 if more else 0) | offset))
for i in range(2000):
    fragment(i % 50, random.randrange(8192), random.choice((8, 1, 7, 1400)), random.random() < .7)
# The ping of death: an end beyond 65535.
fragment(99, 0, 1400, True)
fragment(99, 8191, 1400, False)
# IPv6: fragment headers of all kinds.
for i in range(2000):
    head = struct.pack('!BBHI', random.choice((17, 6, 58, 44, 0)), 0, random.randrange(65536), i % 50)
    e.send(mac, 0x86dd, ipv6('fd00::100', '2001:db8::1', 44, head + bytes(random.randrange(1400))))",
    );
    still_works(&world);
}

#[test]
fn broken_headers_are_dropped() {
    let world = World::new();
    let mut server = world.remote.serve(
        "s = udp('192.0.2.1', 7001, timeout=20)
ready()
while True: print('got', s.recv(70000), flush=True)",
    );
    let _tcp = tcp_server(&world.remote, 7000);
    let _gw = Gw::attach(&world, &[]);
    world.guest.py("e = Ether()
mac = e.gateway_mac()
good = udp_segment(5555, 7001, b'good')
bad = udp_segment(5555, 7001, b'bad')
me, to = '10.0.2.100', '192.0.2.1'
for broken in ({'version_ihl': 0x55}, {'version_ihl': 0x44}, {'version_ihl': 0x4f},
               {'total': 19}, {'total': 65535}, {'total': 20}, {'checksum': 0x1234}):
    e.send(mac, 0x800, ipv4(me, to, 17, bad, **broken))
for length in (0, 7, 9999):
    e.send(mac, 0x800, ipv4(me, to, 17, udp_segment(5555, 7001, b'bad', length=length)))
# Sources and destinations that cannot be.
for source, destination in (('127.0.0.1', to), ('255.255.255.255', to), ('224.0.0.1', to),
                            ('10.0.2.2', to), (me, '0.0.0.0'), (me, '127.0.0.1')):
    e.send(mac, 0x800, ipv4(source, destination, 17, bad))
# Cut short at every length, and a wrong sum over the datagram itself.
whole = ipv4(me, to, 17, bad)
for length in range(1, len(whole)): e.send(mac, 0x800, whole[:length])
wrong = bad[:6] + b'\\x12\\x34' + bad[8:]
e.send(mac, 0x800, ipv4(me, to, 17, wrong))
for broken in ({'first_word': 0x50000000}, {'length': 9999}, {'length': 3}):
    e.send(mac, 0x86dd, ipv6('fd00::100', '2001:db8::1', 17, bad, **broken))
time.sleep(0.2)
e.send(mac, 0x800, ipv4(me, to, 17, good))");
    server.wait_line("good");
    assert!(!server.output().contains("bad"), "{}", server.output());
    still_works(&world);
}

#[test]
fn frames_for_somebody_else_are_ignored() {
    let world = World::new();
    let mut server = world.remote.serve(
        "s = udp('192.0.2.1', 7001, timeout=20)
ready()
while True: print('got', s.recv(70000), flush=True)",
    );
    let _gw = Gw::attach(&world, &[]);
    world.guest.py("e = Ether()
mac = e.gateway_mac()
packet = ipv4('10.0.2.100', '192.0.2.1', 17, udp_segment(5555, 7001, b'other'))
e.send(b'\\x02\\0\\0\\0\\x99\\x99', 0x800, packet)
time.sleep(0.2)
e.send(mac, 0x800, ipv4('10.0.2.100', '192.0.2.1', 17, udp_segment(5555, 7001, b'mine')))");
    server.wait_line("mine");
    assert!(!server.output().contains("other"), "{}", server.output());
}

#[test]
fn random_frames_are_survived() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 7000);
    let gw = Gw::attach(&world, &[]);
    let before = gw.resident_kib();
    world.guest.py("e = Ether()
mac = e.gateway_mac()
random.seed(11)
kinds = (0x800, 0x86dd, 0x806, 0x8100, 0x88cc, 0)
for i in range(30000):
    kind = random.choice(kinds)
    body = bytearray(random.randbytes(random.randrange(0, 1500)))
    if kind == 0x800 and len(body) > 40 and i % 2:
        # A right header over a random rest: deeper parsers get their share.
        protocol = random.choice((1, 6, 17, 2, 47, 132))
        body = ipv4('10.0.2.100', random.choice(('192.0.2.1', '10.0.2.2', '10.0.2.3')), protocol,
                    bytes(body[20:]))
    if kind == 0x86dd and len(body) > 60 and i % 2:
        following = random.choice((0, 6, 17, 43, 44, 58, 59, 60))
        body = ipv6('fd00::100', random.choice(('2001:db8::1', 'fd00::2', 'ff02::2', 'fe80::1')),
                    following, bytes(body[40:]))
    try: e.send(random.choice((mac, mac, b'\\xff' * 6)), kind, bytes(body))
    except OSError: pass");
    still_works(&world);
    let grown = gw.resident_kib().saturating_sub(before);
    assert!(grown < 48 << 10, "grew by {grown} KiB");
    // A guest must not be able to fill the host's log.
    let log = gw.stderr().len();
    assert!(log < 64 << 10, "{log} bytes of log");
}

#[test]
fn wrong_tcp_checksums_are_not_believed() {
    // A frame without offload carries a whole checksum, which counts.
    let world = World::new();
    let mut server = world.remote.serve(
        "l = listen(7002)
ready()
while True:
    s = l.accept()[0]
    print('accepted', flush=True)",
    );
    let _gw = Gw::attach(&world, &[]);
    world.guest.py("e = Ether()
mac = e.gateway_mac()
syn = struct.pack('!HHIIBBHHH', 5555, 7002, 1, 0, 0x50, 2, 65535, 0xbad, 0)
for _ in range(5): e.send(mac, 0x800, ipv4('10.0.2.100', '192.0.2.1', 6, syn))");
    std::thread::sleep(Duration::from_millis(500));
    assert!(!server.output().contains("accepted"));
}

#[test]
fn unknown_protocols_are_told() {
    // RFC 1122 section 3.2.2.1: protocol unreachable.
    let world = World::new();
    let _gw = Gw::attach(&world, &[]);
    let said = world.guest.py(&format!(
        "s = socket(AF_INET, SOCK_RAW, 132)
s.setsockopt(IPPROTO_IP, IP_RECVERR, 1)
s.settimeout(2)
s.connect(({REMOTE4:?}, 0))
s.send(bytes(20))
print(outcome(lambda: s.recv(100)))"
    ));
    assert!(said == "ENOPROTOOPT" || said == "timeout", "{said}");
}

#[test]
fn a_path_narrower_than_the_guests_mtu_carries_tcp() {
    // The host's kernel does path discovery on its own side.
    let world = World::new();
    world.outer.ok("ip link set veth0 mtu 1280");
    world.remote.ok("ip link set veth0 mtu 1280");
    let _server = tcp_server(&world.remote, 7000);
    let _gw = Gw::attach(&world, &["--mtu", "65520"]);
    world
        .guest
        .py(&format!("download({REMOTE4:?}, 7000, 5000000)"));
    world
        .guest
        .py(&format!("upload({REMOTE4:?}, 7000, 5000000)"));
}
