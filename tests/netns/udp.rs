//! UDP: endpoint-independent mapping, sizes, errors, idle limits.

use std::time::Duration;

use crate::harness::peer::udp_echo;
use crate::harness::{
    ALT4, ALT6, Gw, Netns, PATIENCE, REMOTE4, REMOTE6, World, eventually, require,
};

const PORT: u16 = 7000;

/// UDP sockets of the host that are not listeners of this test.
fn host_sockets(world: &World) -> usize {
    world.outer.ok("ss -Huan").lines().count()
}

#[test]
fn echo_over_both_families() {
    let world = World::new();
    let _echo = udp_echo(&world.remote, PORT);
    let _gw = Gw::attach(&world, &[]);
    for address in [REMOTE4, ALT4[0], REMOTE6, ALT6[0]] {
        world.guest.py(&format!(
            "s = udp({address:?}, connected={PORT})
for i in range(100):
    s.send(f'datagram {{i}}'.encode())
    assert s.recv(100) == f'datagram {{i}}'.encode()"
        ));
    }
}

#[test]
fn nc_and_socat_over_udp() {
    require("socat");
    require("nc");
    let world = World::new();
    let _echo = udp_echo(&world.remote, PORT);
    let _gw = Gw::attach(&world, &[]);
    let out = world
        .guest
        .ok(&format!("echo hello | socat -t 1 - UDP4:{REMOTE4}:{PORT}"));
    assert_eq!(out, "hello\n");
    let out = world
        .guest
        .ok(&format!("echo hello | nc -u -w 1 {REMOTE6} {PORT}"));
    assert_eq!(out, "hello\n");
}

#[test]
fn iperf3_over_udp_both_ways() {
    require("iperf3");
    let world = World::new();
    let _server = world.remote.spawn("iperf3 -s");
    world.remote.wait_listener('t', ":5201");
    let _gw = Gw::attach(&world, &[]);
    for options in ["", "-R"] {
        eventually("iperf3", PATIENCE, || {
            let run = world.guest.sh(&format!(
                "iperf3 -c {REMOTE4} -u -b 20M -l 1400 -t 1 {options} --json | \
                 python3 -c 'import json, sys; e = json.load(sys.stdin)[\"end\"][\"sum\"]; \
                 print(e[\"packets\"]); assert e[\"packets\"] > 1000; \
                 assert e[\"lost_percent\"] < 5, e'"
            ));
            run.status.success().then_some(())
        });
    }
}

#[test]
fn every_destination_sees_the_same_source_port() {
    // One host socket for each guest address and port (RFC 4787 REQ-1).
    let world = World::new();
    let mut server = world.remote.serve(
        "sockets = []
for address, port in (('192.0.2.1', 7000), ('198.51.100.1', 7000), ('198.51.100.2', 7001)):
    sockets.append(udp(address, port, timeout=10))
ready()
for s in sockets:
    _, peer = s.recvfrom(100)
    print('peer', *peer, flush=True)",
    );
    let _gw = Gw::attach(&world, &[]);
    world.guest.py("s = udp()
s.bind(('', 5555))
for to in (('192.0.2.1', 7000), ('198.51.100.1', 7000), ('198.51.100.2', 7001)):
    s.sendto(b'x', to)");
    let peers: Vec<String> = (0..3).map(|_| server.wait_line("peer")).collect();
    assert_eq!(peers[0], peers[1]);
    assert_eq!(peers[0], peers[2]);
}

#[test]
fn every_destination_sees_the_same_source_port_over_ipv6() {
    let world = World::new();
    let mut server = world.remote.serve(
        "sockets = []
for address, port in (('2001:db8::1', 7000), ('2001:db8:1::1', 7001)):
    sockets.append(udp(address, port, timeout=10))
ready()
for s in sockets:
    _, peer = s.recvfrom(100)
    print('peer', *peer, flush=True)",
    );
    let _gw = Gw::attach(&world, &[]);
    world.guest.py("s = udp('::')
s.bind(('::', 5555))
for to in (('2001:db8::1', 7000), ('2001:db8:1::1', 7001)):
    s.sendto(b'x', to)");
    assert_eq!(server.wait_line("peer"), server.wait_line("peer"));
}

#[test]
fn answers_from_anywhere_reach_the_guest() {
    // Endpoint-independent filtering: from another port and another address.
    let world = World::new();
    let _server = world.remote.serve(
        "s = udp('192.0.2.1', 7000, timeout=20)
other_port, other = udp('192.0.2.1', 7001), udp('198.51.100.2', 7002)
s6 = udp('2001:db8::1', 7000, timeout=20)
other6 = udp('2001:db8:1::2', 7002)
ready()
_, peer = s.recvfrom(100)
other_port.sendto(b'port', peer)
other.sendto(b'address', peer)
s.sendto(b'same', peer)
_, peer = s6.recvfrom(100)
other6.sendto(b'address', peer)
time.sleep(5)",
    );
    let _gw = Gw::attach(&world, &[]);
    world.guest.py("s = udp()
s.sendto(b'x', ('192.0.2.1', 7000))
got = {s.recvfrom(100) for _ in range(3)}
assert got == {(b'port', ('192.0.2.1', 7001)), (b'address', ('198.51.100.2', 7002)),
               (b'same', ('192.0.2.1', 7000))}, got
s = udp('::')
s.sendto(b'x', ('2001:db8::1', 7000))
data, peer = s.recvfrom(100)
assert data == b'address' and peer[:2] == ('2001:db8:1::2', 7002), (data, peer)");
}

#[test]
fn different_guest_ports_have_different_host_ports() {
    let world = World::new();
    let mut server = world.remote.serve(
        "s = udp('192.0.2.1', 7000, timeout=20)
ready()
while True: print('peer', s.recvfrom(100)[1][1], flush=True)",
    );
    let _gw = Gw::attach(&world, &[]);
    world.guest.py("for i in range(2):
    s = udp(port=6000 + i)
    s.sendto(b'x', ('192.0.2.1', 7000))");
    assert_ne!(server.wait_line("peer"), server.wait_line("peer"));
}

#[test]
fn all_sizes_survive_both_ways() {
    // 65507 is the most that IPv4 carries; the guest's MTU fragments it.
    let world = World::new();
    let _echo = udp_echo(&world.remote, PORT);
    let _gw = Gw::attach(&world, &[]);
    for address in [REMOTE4, REMOTE6] {
        world.guest.py(&format!(
            "s = udp({address:?}, connected={PORT})
for size in (0, 1, 1400, 1452, 1472, 1473, 8192, 30000, 65000, 65507):
    data = random.Random(size).randbytes(size)
    s.send(data)
    got = outcome(lambda: s.recv(70000))
    assert got == data, (size, got[:20], len(got))"
        ));
    }
}

#[test]
fn all_sizes_survive_at_mtu_65520() {
    let world = World::new();
    let _echo = udp_echo(&world.remote, PORT);
    let _gw = Gw::attach(&world, &["--mtu", "65520"]);
    world.guest.py(&format!(
        "s = udp({REMOTE4:?}, connected={PORT}, timeout=1)
for size in (0, 1, 1472, 30000, 65492, 65493, 65507):
    data = random.Random(size).randbytes(size)
    # Larger than the host's link, and not to be fragmented: the first is lost
    # to path discovery, as anywhere.
    for attempt in range(3):
        sent = outcome(lambda: s.send(data))
        got = outcome(lambda: s.recv(70000))
        if got == data: break
    assert got == data, (size, sent, got[:20], len(got))"
    ));
}

#[test]
fn super_frames_of_the_guest_stay_datagrams() {
    // UDP_SEGMENT in the guest makes one TAP frame of many datagrams.
    let world = World::new();
    let _echo = udp_echo(&world.remote, PORT);
    let _gw = Gw::attach(&world, &[]);
    world.guest.py(&format!(
        "s = udp({REMOTE4:?}, connected={PORT})
s.setsockopt(SOL_UDP if 'SOL_UDP' in globals() else 17, UDP_SEGMENT, 1000)
data = random.Random(1).randbytes(20500)
s.send(data)
got = [s.recv(70000) for _ in range(21)]
assert sorted(got) == sorted(data[i:i + 1000] for i in range(0, 20500, 1000)), list(map(len, got))"
    ));
}

#[test]
fn a_burst_arrives() {
    let world = World::new();
    let _echo = udp_echo(&world.remote, PORT);
    let _gw = Gw::attach(&world, &[]);
    world.guest.py(&format!(
        "s = udp({REMOTE4:?}, connected={PORT}, timeout=2)
for i in range(50): s.send(struct.pack('!I', i) * 300)
got = set()
try:
    while len(got) < 50: got.add(s.recv(2000))
except timeout: pass
assert len(got) >= 48, len(got)"
    ));
}

#[test]
fn a_closed_port_is_told() {
    let world = World::new();
    let _gw = Gw::attach(&world, &[]);
    for address in [REMOTE4, REMOTE6] {
        let said = world.guest.py(&format!(
            "s = udp({address:?}, connected=1)
s.send(b'x')
print(outcome(lambda: s.recv(1)))"
        ));
        assert_eq!(said, "ECONNREFUSED", "{address}");
    }
}

#[test]
fn a_closed_port_does_not_disturb_other_destinations() {
    let world = World::new();
    let _echo = udp_echo(&world.remote, PORT);
    let _gw = Gw::attach(&world, &[]);
    world.guest.py(&format!(
        "s = udp()
for i in range(50):
    s.sendto(b'nobody', ({REMOTE4:?}, 1))
    s.sendto(str(i).encode(), ({REMOTE4:?}, {PORT}))
got = {{s.recv(100) for _ in range(50)}}
assert len(got) == 50, got"
    ));
}

#[test]
fn unreachable_networks_and_hosts_are_told() {
    let world = World::new();
    let _gw = Gw::attach(&world, &[]);
    for (address, wanted) in [
        ("203.0.113.1", "ENETUNREACH"),
        ("203.0.113.2", "EHOSTUNREACH"),
        ("2001:db8:f::1", "ENETUNREACH"),
        ("2001:db8:f::2", "EHOSTUNREACH"),
    ] {
        let said = world.guest.py(&format!(
            "s = udp({address:?}, connected=9)
v6 = s.family == AF_INET6
s.setsockopt(IPPROTO_IPV6 if v6 else IPPROTO_IP, IPV6_RECVERR if v6 else IP_RECVERR, 1)
s.send(b'x')
print(outcome(lambda: s.recv(1)))"
        ));
        assert_eq!(said, wanted, "{address}");
    }
}

/// Makes everything behind the remote's first hop narrower than the guest's MTU.
fn narrow(world: &World) -> Netns {
    let far = world.another_remote();
    let pid = far.inner_pid();
    world.remote.ok(&format!(
        "set -e
        ip link add far index 71 type veth peer name far netns {pid}
        ip addr add 192.0.3.1/24 dev far
        ip addr add 2001:db8:3::1/64 dev far nodad
        ip link set far mtu 1300 up"
    ));
    far.ok("set -e
        ip addr add 192.0.3.2/24 dev far
        ip addr add 2001:db8:3::2/64 dev far nodad
        ip link set far mtu 1300 up
        ip route add default via 192.0.3.1
        ip -6 route add default via 2001:db8:3::1");
    far
}

#[test]
fn a_narrow_path_is_told_with_its_mtu() {
    let world = World::new();
    let far = narrow(&world);
    let _echo = udp_echo(&far, PORT);
    let _gw = Gw::attach(&world, &[]);
    for (address, level, discover, mtu, header) in [
        ("192.0.3.2", "IPPROTO_IP", "IP_MTU_DISCOVER", "IP_MTU", 28),
        (
            "2001:db8:3::2",
            "IPPROTO_IPV6",
            "IPV6_MTU_DISCOVER",
            "IPV6_MTU",
            48,
        ),
    ] {
        world.guest.py(&format!(
            "s = udp({address:?}, connected={PORT}, timeout=1)
s.setsockopt({level}, {discover}, IP_PMTUDISC_DO)
s.send(b'x' * 1000)
assert len(s.recv(2000)) == 1000
said = []
for _ in range(10):
    said.append(outcome(lambda: s.send(b'x' * 1400)))
    said.append(outcome(lambda: s.recv(2000)))
    if 'EMSGSIZE' in said: break
assert 'EMSGSIZE' in said, said
assert s.getsockopt({level}, {mtu}) == 1300, s.getsockopt({level}, {mtu})
size = 1300 - {header}
said = [outcome(lambda: s.send(b'x' * size)), outcome(lambda: len(s.recv(2000)))]
assert said == [size, size], said"
        ));
    }
}

#[test]
fn a_narrow_path_carries_big_datagrams_without_path_discovery() {
    let world = World::new();
    let far = narrow(&world);
    let _echo = udp_echo(&far, PORT);
    let _gw = Gw::attach(&world, &[]);
    for (address, level, discover) in [
        ("192.0.3.2", "IPPROTO_IP", "IP_MTU_DISCOVER"),
        ("2001:db8:3::2", "IPPROTO_IPV6", "IPV6_MTU_DISCOVER"),
    ] {
        world.guest.py(&format!(
            "s = udp({address:?}, connected={PORT}, timeout=1)
s.setsockopt({level}, {discover}, 0)
said = []
for _ in range(5):
    said.append(outcome(lambda: s.send(b'x' * 1400)))
    said.append(outcome(lambda: len(s.recv(2000))))
    if said[-1] == 1400: break
assert said[-1] == 1400, said"
        ));
    }
}

#[test]
fn traceroute_over_udp_shows_the_hops() {
    require("traceroute");
    let world = World::new();
    let _far = narrow(&world);
    let _gw = Gw::attach(&world, &[]);
    for (target, hop) in [("192.0.3.2", REMOTE4), ("2001:db8:3::2", REMOTE6)] {
        let run = world
            .guest
            .sh(&format!("traceroute -n -q 1 -w 2 -m 6 {target}"));
        let lines: Vec<String> = run
            .success()
            .stdout
            .lines()
            .skip(1)
            .map(ToOwned::to_owned)
            .collect();
        let at = |text: &str| {
            lines
                .iter()
                .position(|line| line.split_whitespace().any(|word| word == text))
        };
        let (first, last) = (at(hop), at(target));
        assert!(first.is_some(), "the router {hop} is missing: {lines:#?}");
        assert!(last.is_some(), "the target {target} is missing: {lines:#?}");
        assert!(first < last, "{lines:#?}");
    }
}

#[test]
fn type_of_service_and_hop_limit_of_the_guest_are_carried() {
    let world = World::new();
    let mut server = world.remote.serve(
        "s = udp('192.0.2.1', 7000, timeout=20)
s.setsockopt(IPPROTO_IP, 12, 1)
ready()
while True:
    _, control, _, _ = s.recvmsg(100, 100)
    print('ttl', struct.unpack('i', control[0][2])[0], flush=True)",
    );
    let _gw = Gw::attach(&world, &[]);
    for ttl in [40, 200] {
        world.guest.py(&format!(
            "s = udp(); s.setsockopt(IPPROTO_IP, IP_TTL, {ttl}); \
             s.sendto(b'x', ('192.0.2.1', 7000))"
        ));
        let line = server.wait_line("ttl");
        let seen: i32 = line.trim_start_matches("ttl ").parse().expect("a number");
        // The gateway is a hop, if it counts itself as one.
        assert!(
            seen == ttl || seen == ttl - 1,
            "sent with {ttl}, arrived with {seen}"
        );
    }
}

#[test]
fn a_dns_flow_is_forgotten_after_ten_seconds() {
    let world = World::new();
    let _echo = udp_echo(&world.remote, 53);
    let _gw = Gw::attach(&world, &["--no-dns"]);
    let before = host_sockets(&world);
    world.guest.py(&format!(
        "s = udp({REMOTE4:?}, connected=53); s.send(b'x'); assert s.recv(1) == b'x'"
    ));
    // An answered query may be forgotten at once, but not later than 10 s.
    eventually(
        "the host socket to be closed",
        Duration::from_secs(13),
        || (host_sockets(&world) <= before).then_some(()),
    );
}

#[test]
fn an_answered_flow_outlives_a_dns_flow() {
    let world = World::new();
    let mut server = world.remote.serve(
        "s = udp('192.0.2.1', 7000, timeout=20)
ready()
_, peer = s.recvfrom(100)
s.sendto(b'1', peer)
time.sleep(14)
s.sendto(b'2', peer)",
    );
    let _gw = Gw::attach(&world, &[]);
    world.guest.py("s = udp(timeout=18)
s.sendto(b'x', ('192.0.2.1', 7000))
assert s.recv(1) == b'1'
assert s.recv(1) == b'2'");
    server.done();
}

#[test]
fn many_flows_are_bounded_and_do_no_harm() {
    let world = World::new();
    let _echo = udp_echo(&world.remote, PORT);
    let gw = Gw::attach(&world, &[]);
    let before = gw.resident_kib();
    world.guest.py(&format!(
        "for port in range(10000, 30000):
    s = socket(AF_INET, SOCK_DGRAM)
    s.bind(('', port))
    s.sendto(b'x', ({REMOTE4:?}, {PORT}))
    s.close()"
    ));
    world.guest.py(&format!(
        "s = udp({REMOTE4:?}, connected={PORT}, timeout=1)
said = []
for _ in range(5):
    s.send(b'still there')
    said.append(outcome(lambda: s.recv(100)))
    if said[-1] == b'still there': break
assert said[-1] == b'still there', said"
    ));
    let grown = gw.resident_kib().saturating_sub(before);
    assert!(grown < 64 << 10, "grew by {grown} KiB");
}
