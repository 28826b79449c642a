//! TCP: connect first, the close table, windows, bounds.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::peer::tcp_server;
use crate::harness::{
    ALT4, BLACK_HOLE4, BLACK_HOLE6, GATEWAY4, Gw, Launch, NO_HOST4, NO_HOST6, NO_NET4, NO_NET6,
    PATIENCE, REMOTE4, REMOTE6, World, eventually, require,
};

const PORT: u16 = 7000;
/// More than any window or buffer of the gateway.
const BULK: u64 = 40 << 20;

/// A world, a gateway with `args`, and the server of [`tcp_server`].
macro_rules! served {
    ($world:ident, $gw:ident, $args:expr) => {
        let $world = World::new();
        let _server = tcp_server(&$world.remote, PORT);
        let $gw = Gw::attach(&$world, $args);
    };
}

fn transfers(args: &[&str], bytes: u64) {
    served!(world, _gw, args);
    for address in [REMOTE4, REMOTE6] {
        world
            .guest
            .py(&format!("download({address:?}, {PORT}, {bytes})"));
        world
            .guest
            .py(&format!("upload({address:?}, {PORT}, {bytes})"));
    }
}

#[test]
fn transfers_at_mtu_1500() {
    transfers(&[], BULK);
}

#[test]
fn transfers_at_mtu_65520() {
    transfers(&["--mtu", "65520"], BULK);
}

#[test]
fn transfers_at_mtu_1280() {
    transfers(&["--mtu", "1280"], BULK / 4);
}

#[test]
fn transfers_at_mtu_68() {
    // Below IPv6's minimum of 1280 there is no IPv6.
    served!(world, _gw, &["--mtu", "68", "--no-ipv6"]);
    world
        .guest
        .py(&format!("download({REMOTE4:?}, {PORT}, {})", 1 << 20));
    world
        .guest
        .py(&format!("upload({REMOTE4:?}, {PORT}, {})", 1 << 20));
}

#[test]
fn transfers_both_ways_at_once() {
    served!(world, _gw, &[]);
    world.guest.py(&format!(
        "s = connect({REMOTE4:?}, {PORT})
s.sendall(b'echo\\n')
def send():
    send_stream(s, {BULK})
    s.shutdown(SHUT_WR)
threading.Thread(target=send).start()
got = read_all(s)
assert got == ({BULK}, stream_digest({BULK})), got"
    ));
}

#[test]
fn curl_downloads_and_uploads_over_http() {
    require("curl");
    let world = World::new();
    let _server = world.remote.serve(
        "from http.server import *
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header('Content-Length', str(20 << 20)); self.end_headers()
        for part in stream(20 << 20): self.wfile.write(part)
    def do_PUT(self):
        digest = hashlib.sha256(self.rfile.read(int(self.headers['Content-Length']))).hexdigest()
        self.send_response(200); self.end_headers(); self.wfile.write(digest.encode())
    def log_message(self, *a): pass
class Server(ThreadingHTTPServer):
    address_family = AF_INET6
server = Server(('::', 8080), Handler)
ready()
server.serve_forever()",
    );
    let _gw = Gw::attach(&world, &[]);
    let digest = world.guest.py("print(stream_digest(20 << 20))");
    for url in [
        format!("http://{REMOTE4}:8080/"),
        format!("http://[{REMOTE6}]:8080/"),
    ] {
        let down = world
            .guest
            .ok(&format!("curl -sSf --max-time 20 {url} | sha256sum"));
        assert!(down.starts_with(&digest), "{url}: {down}");
        let up = world.guest.ok(&format!(
            "curl -sSf --max-time 20 {url} -o /run/body && \
             curl -sSf --max-time 20 -T /run/body {url}; rm /run/body"
        ));
        assert_eq!(up, digest, "{url}");
    }
}

#[test]
fn socat_and_nc_carry_a_pipe() {
    require("socat");
    require("nc");
    let world = World::new();
    let _cat = world
        .remote
        .spawn("socat TCP6-LISTEN:7100,fork,reuseaddr,ipv6-v6only=0 EXEC:cat");
    world.remote.wait_listener('t', ":7100");
    let _gw = Gw::attach(&world, &[]);
    let out = world.guest.ok(&format!(
        "seq 100000 | socat -t 5 - TCP4:{REMOTE4}:7100 | md5sum"
    ));
    let wanted = world.guest.ok("seq 100000 | md5sum");
    assert_eq!(out, wanted);
    let out = world
        .guest
        .ok(&format!("seq 100000 | nc -N {REMOTE6} 7100 | md5sum"));
    assert_eq!(out, wanted);
}

#[test]
fn iperf3_runs_parallel_streams_both_ways() {
    require("iperf3");
    let world = World::new();
    let _server = world.remote.spawn("iperf3 -s");
    world.remote.wait_listener('t', ":5201");
    let _gw = Gw::attach(&world, &[]);
    for options in ["-P 4", "-P 4 -R", "--bidir -6"] {
        let target = if options.contains("-6") {
            REMOTE6
        } else {
            REMOTE4
        };
        // The server says "busy" for a moment after each test.
        eventually("iperf3", PATIENCE, || {
            let run = world
                .guest
                .sh(&format!("iperf3 -c {target} -t 1 {options}"));
            run.status.success().then_some(())
        });
    }
}

#[test]
fn refused_is_a_reset_at_once() {
    let world = World::new();
    let _gw = Gw::attach(&world, &[]);
    for address in [REMOTE4, REMOTE6] {
        let run = world.guest.python(&format!(
            "start = time.monotonic()
print(outcome(lambda: connect({address:?}, 1)))
assert time.monotonic() - start < 0.5"
        ));
        run.success().says("ECONNREFUSED");
    }
}

#[test]
fn refused_says_curl() {
    require("curl");
    let world = World::new();
    let _gw = Gw::attach(&world, &[]);
    let run = world.guest.sh(&format!("curl -sv http://{REMOTE4}:1/"));
    // 7: could not connect.
    assert_eq!(run.code(), 7, "{run:?}");
    run.says("Connection refused")
        .within(Duration::from_secs(1));
}

/// What `connect` to `address` says in the guest, which must be at once.
fn connect_error(world: &World, address: &str) -> String {
    world.guest.py(&format!(
        "start = time.monotonic()
print(outcome(lambda: connect({address:?}, 80)))
assert time.monotonic() - start < 2"
    ))
}

#[test]
fn unreachable_network_is_told() {
    let world = World::new();
    let _gw = Gw::attach(&world, &[]);
    assert_eq!(connect_error(&world, NO_NET4), "ENETUNREACH");
    assert_eq!(connect_error(&world, NO_NET6), "ENETUNREACH");
}

#[test]
fn unreachable_host_is_told() {
    let world = World::new();
    let _gw = Gw::attach(&world, &[]);
    assert_eq!(connect_error(&world, NO_HOST4), "EHOSTUNREACH");
    assert_eq!(connect_error(&world, NO_HOST6), "EHOSTUNREACH");
}

#[test]
fn a_host_without_routes_says_unreachable() {
    let world = World::new();
    world
        .outer
        .ok("ip route del default; ip -6 route del default");
    let _gw = Gw::attach(&world, &[]);
    assert_eq!(connect_error(&world, NO_NET4), "ENETUNREACH");
    assert_eq!(connect_error(&world, NO_NET6), "ENETUNREACH");
}

#[test]
fn loopback_addresses_of_the_host_cannot_be_reached_from_the_guest() {
    let world = World::new();
    let _server = world.outer.serve(
        "s = listen(80)
ready()
while True:
    s.accept()[0].close()
    print('connected', flush=True)",
    );
    let _gw = Gw::attach(&world, &[]);
    // The guest's own loopback would answer: send them through the interface.
    world.guest.ok(&format!(
        "ip addr del 127.0.0.1/8 dev lo; ip route del local 127.0.0.0/8 table local; \
         ip route add 127.0.0.0/8 via {GATEWAY4}; \
         echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet"
    ));
    let said = world
        .guest
        .py("print(outcome(lambda: connect('127.0.0.1', 80, timeout=2)))");
    assert_ne!(said, "", "{said}");
    assert!(
        !said.contains("socket"),
        "connected to the host's loopback: {said}"
    );
}

#[test]
fn silence_stays_silence_and_nothing_is_accepted_early() {
    let world = World::new();
    let _gw = Gw::attach(&world, &[]);
    for address in [BLACK_HOLE4, BLACK_HOLE6] {
        let said = world.guest.py(&format!(
            "print(outcome(lambda: connect({address:?}, 80, timeout=2.5)))"
        ));
        assert_eq!(said, "timeout", "{address}");
    }
}

#[test]
fn nothing_is_accepted_before_the_host_has_connected() {
    // The remote's SYN-ACK takes 300 ms; the guest's connect must take as long.
    let world = World::new();
    let _server = tcp_server(&world.remote, PORT);
    if !world
        .remote
        .sh("tc qdisc add dev veth0 root netem delay 300ms")
        .status
        .success()
    {
        // Without netem the remote hides its SYN-ACK behind a late route.
        world.remote.ok("ip route del 192.0.2.0/24");
        let _gw = Gw::attach(&world, &[]);
        let mut connecting = world.guest.spawn_python(&format!(
            "print('connecting', flush=True)
start = time.monotonic()
connect({REMOTE4:?}, {PORT}).close()
print('after', time.monotonic() - start)"
        ));
        connecting.wait_line("connecting");
        std::thread::sleep(Duration::from_millis(400));
        world
            .remote
            .ok("ip route add 192.0.2.0/24 dev veth0 src 192.0.2.1");
        let line = connecting.wait_line("after");
        let took: f64 = line.trim_start_matches("after ").parse().expect("seconds");
        assert!(took > 0.3, "accepted after {took} s");
        return;
    }
    let _gw = Gw::attach(&world, &[]);
    let took: f64 = world
        .guest
        .py(&format!(
            "start = time.monotonic()
connect({REMOTE4:?}, {PORT}).close()
print(time.monotonic() - start)"
        ))
        .parse()
        .expect("seconds");
    assert!(took > 0.29, "accepted after {took} s");
}

#[test]
fn window_scaling_and_sack_are_negotiated() {
    require("ss");
    served!(world, _gw, &[]);
    for address in [REMOTE4, REMOTE6] {
        let mut client = world.guest.serve(&format!(
            "s = connect({address:?}, {PORT})
s.sendall(b'echo\\n')
ready()
time.sleep(20)"
        ));
        let info = world.guest.ok("ss -Htino state established");
        assert!(info.contains("wscale:"), "no window scaling: {info}");
        assert!(info.contains("sack"), "no SACK: {info}");
        client.signal(Signal::SIGTERM);
        let _ = client.finish(PATIENCE);
    }
}

#[test]
fn the_guests_mss_is_taken_from_the_mtu() {
    served!(world, _gw, &["--mtu", "9000"]);
    let mss = world.guest.py(&format!(
        "print(connect({REMOTE4:?}, {PORT}).getsockopt(IPPROTO_TCP, TCP_MAXSEG))"
    ));
    let mss: u32 = mss.parse().expect("a number");
    // Options take up to 12 bytes of each segment.
    assert!((8900..=8960).contains(&mss), "MSS {mss} at MTU 9000");
}

#[test]
fn half_close_by_the_guest_then_a_long_answer() {
    let world = World::new();
    let _server = world.remote.serve(&format!(
        "l = listen({PORT})
ready()
while True:
    s = l.accept()[0]
    got = read_all(s)
    time.sleep(0.5)
    send_stream(s, {BULK})
    s.close()
    print(got[0], flush=True)"
    ));
    let _gw = Gw::attach(&world, &[]);
    for address in [REMOTE4, REMOTE6] {
        world.guest.py(&format!(
            "s = connect({address:?}, {PORT})
s.sendall(b'x' * 100000)
s.shutdown(SHUT_WR)
got = read_all(s)
assert got == ({BULK}, stream_digest({BULK})), got[0]"
        ));
    }
}

#[test]
fn half_close_by_the_remote_then_a_long_upload() {
    let world = World::new();
    let mut server = world.remote.serve(&format!(
        "l = listen({PORT})
ready()
s = l.accept()[0]
s.sendall(b'hello')
s.shutdown(SHUT_WR)
got = read_all(s)
assert got == ({BULK}, stream_digest({BULK})), got[0]
print('whole')"
    ));
    let _gw = Gw::attach(&world, &[]);
    world.guest.py(&format!(
        "s = connect({REMOTE4:?}, {PORT})
assert read_exactly(s, 5) == b'hello'
assert s.recv(1) == b''
time.sleep(0.3)
send_stream(s, {BULK})
s.close()"
    ));
    assert!(server.done().contains("whole"));
}

#[test]
fn a_big_answer_and_its_end_in_one_go() {
    // The end follows the data at once, and must not overtake it.
    served!(world, _gw, &[]);
    for bytes in [0, 1, 1460, 65535, 65536, 300_000, 5_000_000] {
        world
            .guest
            .py(&format!("download({REMOTE4:?}, {PORT}, {bytes})"));
    }
}

#[test]
fn data_and_end_that_come_with_the_connect() {
    // The gateway sleeps from its connect until the remote has greeted and
    // ended its side: it learns of all three at once.
    let world = World::new();
    let _server = world.remote.serve(&format!(
        "l = listen({PORT})
ready()
s = l.accept()[0]
s.send(b'greeting')
s.shutdown(SHUT_WR)
s.recv(1)"
    ));
    let gw = Gw::attach(&world, &[]);
    world.remote.ok("ip route del 192.0.2.0/24");
    let mut client = world.guest.spawn_python(&format!(
        "s = connect({REMOTE4:?}, {PORT})
data = b''
while part := s.recv(100): data += part
print(data.decode())"
    ));
    let host_socket = |state: &str| {
        eventually(&format!("a host socket in {state}"), PATIENCE, || {
            let sockets = world
                .outer
                .ok(&format!("ss -Htn state {state} dport = :{PORT}"));
            sockets.contains(REMOTE4).then_some(())
        });
    };
    host_socket("syn-sent");
    gw.pause();
    world
        .remote
        .ok("ip route add 192.0.2.0/24 dev veth0 src 192.0.2.1");
    host_socket("close-wait");
    gw.resume();
    assert_eq!(client.done(), "greeting");
}

#[test]
fn a_reset_by_the_remote_reaches_the_guest() {
    let world = World::new();
    let _server = world.remote.serve(&format!(
        "l = listen({PORT})
ready()
while True:
    s = l.accept()[0]
    s.recv(1)
    reset(s)"
    ));
    let _gw = Gw::attach(&world, &[]);
    for address in [REMOTE4, REMOTE6] {
        let said = world.guest.py(&format!(
            "s = connect({address:?}, {PORT})
s.sendall(b'x')
print(outcome(lambda: s.recv(1)))"
        ));
        assert_eq!(said, "ECONNRESET", "{address}");
    }
}

#[test]
fn a_reset_by_the_guest_reaches_the_remote() {
    let world = World::new();
    let mut server = world.remote.serve(&format!(
        "l = listen({PORT})
ready()
for _ in range(2):
    s = l.accept()[0]
    s.settimeout(5)
    assert s.recv(1) == b'x'
    print('end', outcome(lambda: s.recv(1)), flush=True)"
    ));
    let _gw = Gw::attach(&world, &[]);
    for address in [REMOTE4, REMOTE6] {
        world.guest.py(&format!(
            "s = connect({address:?}, {PORT})
s.sendall(b'x')
time.sleep(0.2)
reset(s)"
        ));
        assert_eq!(server.wait_line("end"), "end ECONNRESET", "{address}");
    }
}

#[test]
fn a_reset_in_the_middle_of_bulk_reaches_the_other_side() {
    let world = World::new();
    let mut server = world.remote.serve(&format!(
        "l = listen({PORT})
ready()
s = l.accept()[0]
print('end', outcome(lambda: send_stream(s, 1 << 32)), flush=True)
s = l.accept()[0]
s.recv(1 << 20)
reset(s)"
    ));
    let _gw = Gw::attach(&world, &[]);
    world.guest.py(&format!(
        "s = connect({REMOTE4:?}, {PORT})
for _ in range(50): s.recv(1 << 16)
reset(s)"
    ));
    let line = server.wait_line("end");
    assert!(
        line.contains("ECONNRESET") || line.contains("EPIPE"),
        "{line}"
    );
    let said = world.guest.py(&format!(
        "s = connect({REMOTE4:?}, {PORT})
print(outcome(lambda: send_stream(s, 1 << 32)))"
    ));
    assert!(said == "ECONNRESET" || said == "EPIPE", "{said}");
}

#[test]
fn closing_with_unread_data_resets_the_remote() {
    let world = World::new();
    let mut server = world.remote.serve(&format!(
        "l = listen({PORT})
ready()
s = l.accept()[0]
s.settimeout(5)
s.sendall(b'x' * 1000)
s.recv(1)
print('end', outcome(lambda: s.recv(1)), flush=True)"
    ));
    let _gw = Gw::attach(&world, &[]);
    world.guest.py(&format!(
        "s = connect({REMOTE4:?}, {PORT})
select.select([s], [], [], 5)
s.sendall(b'y')
time.sleep(0.1)
s.close()"
    ));
    assert_eq!(server.wait_line("end"), "end ECONNRESET");
}

#[test]
fn data_and_end_right_behind_the_handshake() {
    let world = World::new();
    let mut server = world.remote.serve(&format!(
        "l = listen({PORT})
ready()
for _ in range(200):
    s = l.accept()[0]
    s.settimeout(5)
    data = b''
    while part := s.recv(100): data += part
    assert data == b'request', data
    s.close()
print('all 200')"
    ));
    let _gw = Gw::attach(&world, &[]);
    // The last packet of the handshake carries the request and the end when
    // the sender holds the acknowledgement back until there is data.
    world.guest.py(&format!(
        "for i in range(200):
    s = tcp({REMOTE4:?})
    s.setsockopt(IPPROTO_TCP, TCP_QUICKACK, 0)
    s.setsockopt(IPPROTO_TCP, TCP_DEFER_ACCEPT, 1)
    s.connect(({REMOTE4:?}, {PORT}))
    s.send(b'request')
    s.close()"
    ));
    assert_eq!(server.done(), "ready\nall 200");
}

#[test]
fn data_and_end_in_the_last_handshake_packet() {
    // The same with the very packet, made by hand.
    let world = World::new();
    let mut server = world.remote.serve(&format!(
        "l = listen({PORT})
ready()
s = l.accept()[0]
s.settimeout(5)
assert read_exactly(s, 7) == b'request' and s.recv(1) == b''
print('whole')"
    ));
    let _gw = Gw::attach(&world, &[]);
    world.guest.py(&format!(
        "me, to = '10.0.2.50', {REMOTE4:?}
e = Ether()
mac = e.gateway_mac()
def segment(seq, ack, flags, data=b''):
    head = struct.pack('!HHIIBBHHH', 5555, {PORT}, seq, ack, 0x50, flags, 65535, 0, 0)
    pseudo = inet_aton(me) + inet_aton(to) + struct.pack('!BBH', 0, 6, len(head) + len(data))
    total = checksum(pseudo + head + data)
    e.send(mac, 0x800, ipv4(me, to, 6, head[:16] + struct.pack('!H', total) + head[18:] + data))
segment(1000, 0, 2)
def answer(wanted):
    end = time.monotonic() + 5
    while time.monotonic() < end:
        f = e.socket.recv(65535)
        if f[12:14] == b'\\x08\\x06' and f[20:22] == b'\\0\\1' and f[38:42] == inet_aton(me):
            e.send(f[6:12], 0x806, struct.pack('!HHBBH6s4s6s4s', 1, 0x800, 6, 4, 2, e.mac,
                   inet_aton(me), f[6:12], f[28:32]))
        if f[12:14] == b'\\x08\\0' and f[23] == 6 and f[30:34] == inet_aton(me):
            seq, ack, _, flags = struct.unpack('!IIBB', f[38:48])
            if wanted(flags, ack): return seq, ack
    raise TimeoutError
seq, ack = answer(lambda flags, ack: flags & 0x12 == 0x12)
assert ack == 1001
segment(1001, seq + 1, 0x19, b'request')
answer(lambda flags, ack: ack == 1001 + 7 + 1)"
    ));
    assert!(server.done().contains("whole"));
}

#[test]
fn urgent_data_does_no_harm() {
    let world = World::new();
    let mut server = world.remote.serve(&format!(
        "l = listen({PORT})
ready()
s = l.accept()[0]
s.settimeout(5)
s.setsockopt(SOL_SOCKET, SO_OOBINLINE, 1)
data = b''
while part := s.recv(100): data += part
print('got', data)"
    ));
    let _gw = Gw::attach(&world, &[]);
    world.guest.py(&format!(
        "s = connect({REMOTE4:?}, {PORT})
s.send(b'before')
time.sleep(0.1)
s.send(b'!', MSG_OOB)
time.sleep(0.1)
s.send(b'after')
s.close()"
    ));
    assert!(
        server.done().contains("got b'before!after'"),
        "{}",
        server.output()
    );
}

#[test]
fn urgent_data_of_the_remote_does_no_harm() {
    let world = World::new();
    let _server = world.remote.serve(&format!(
        "l = listen({PORT})
ready()
s = l.accept()[0]
s.send(b'before')
time.sleep(0.1)
s.send(b'!', MSG_OOB)
time.sleep(0.1)
s.send(b'after')
s.close()
time.sleep(5)"
    ));
    let _gw = Gw::attach(&world, &[]);
    let got = world.guest.py(&format!(
        "s = connect({REMOTE4:?}, {PORT})
data = b''
while part := s.recv(100): data += part
print(data.replace(b'!', b'').decode())"
    ));
    assert_eq!(got, "beforeafter");
}

#[test]
fn simultaneous_close() {
    let world = World::new();
    let _server = world.remote.serve(&format!(
        "l = listen({PORT})
ready()
while True:
    s = l.accept()[0]
    def one(s):
        at = float(read_line(s))
        while time.time() < at: pass
        s.shutdown(SHUT_WR)
        assert s.recv(1) == b''
        s.close()
    threading.Thread(target=one, args=(s,)).start()"
    ));
    let gw = Gw::attach(&world, &[]);
    let before = gw.descriptors();
    world.guest.py(&format!(
        "for i in range(50):
    s = connect({REMOTE4:?}, {PORT})
    at = time.time() + 0.02
    s.sendall(f'{{at}}\\n'.encode())
    while time.time() < at: pass
    s.shutdown(SHUT_WR)
    assert s.recv(1) == b''
    s.close()"
    ));
    eventually("all host sockets to be closed", PATIENCE, || {
        (gw.descriptors() <= before + 1).then_some(())
    });
}

#[test]
fn a_guest_that_stops_reading_bounds_our_memory() {
    served!(world, gw, &[]);
    let before = gw.resident_kib();
    let _client = world.guest.serve(&format!(
        "clients = []
for _ in range(8):
    s = connect({REMOTE4:?}, {PORT})
    s.sendall(b'get {}\\n')
    clients.append(s)
ready()
time.sleep(25)",
        1u64 << 30
    ));
    settle(&world.remote);
    // A flow's buffers grow to 4 MiB in each direction.
    let grown = gw.peak_kib().saturating_sub(before);
    assert!(grown < 8 * (8 << 10) + (16 << 10), "grew by {grown} KiB");
}

#[test]
fn a_remote_that_stops_reading_bounds_our_memory() {
    let world = World::new();
    let _server = world.remote.serve(&format!(
        "l = listen({PORT}, rcvbuf=65536)
ready()
keep = []
while True: keep.append(l.accept()[0])"
    ));
    let gw = Gw::attach(&world, &[]);
    let before = gw.resident_kib();
    let mut client = world.guest.serve(&format!(
        "clients = [connect({REMOTE4:?}, {PORT}) for _ in range(8)]
for s in clients: s.setblocking(False)
ready()
sent = 0
quiet = time.monotonic()
while time.monotonic() - quiet < 1.5:
    for s in select.select([], clients, [], 0.2)[1]:
        sent += s.send(b'x' * 65536)
        quiet = time.monotonic()
print('stuck after', sent)
time.sleep(10)"
    ));
    let line = client.wait_line_for("stuck after", Duration::from_secs(20));
    let sent: u64 = line
        .trim_start_matches("stuck after ")
        .parse()
        .expect("a number");
    assert!(
        sent < 8 * (32 << 20),
        "{sent} bytes were taken from the guest"
    );
    let grown = gw.peak_kib().saturating_sub(before);
    assert!(grown < 8 * (8 << 10) + (16 << 10), "grew by {grown} KiB");
}

/// Waits until the sockets' queues in `netns` have stopped moving.
fn settle(netns: &crate::harness::Netns) {
    let mut last = String::new();
    let mut since = Instant::now();
    eventually(
        "transfers to come to a halt",
        Duration::from_secs(15),
        || {
            let now = netns.ok("ss -Htn | awk '{print $2, $3}'");
            if now != last {
                last = now;
                since = Instant::now();
            }
            (since.elapsed() > Duration::from_secs(1)).then_some(())
        },
    );
}

#[test]
fn a_stalled_flow_does_not_hold_up_others() {
    served!(world, _gw, &[]);
    let _stalled = world.guest.serve(&format!(
        "s = connect({REMOTE4:?}, {PORT})
s.sendall(b'get {}\\n')
ready()
time.sleep(25)",
        1u64 << 30
    ));
    settle(&world.remote);
    world
        .guest
        .py(&format!("download({REMOTE4:?}, {PORT}, {BULK})"));
    world
        .guest
        .py(&format!("upload({REMOTE4:?}, {PORT}, {BULK})"));
}

#[test]
fn a_slow_reader_gets_everything() {
    served!(world, _gw, &[]);
    world.guest.py(&format!(
        "s = connect({REMOTE4:?}, {PORT})
s.sendall(b'get 8000000\\n')
got = read_all(s, chunk=65536, pause=0.01)
assert got == (8000000, stream_digest(8000000)), got[0]"
    ));
}

#[test]
fn a_small_receive_buffer_does_not_stall() {
    served!(world, _gw, &[]);
    for mtu in ["1500", "65520"] {
        world.guest.ok(&format!("ip link set tap0 mtu {mtu}"));
        for rcvbuf in [2304, 4096, 8192, 16384, 65536] {
            world.guest.py(&format!(
                "download({REMOTE4:?}, {PORT}, 1000000, rcvbuf={rcvbuf})"
            ));
        }
    }
}

#[test]
fn a_small_receive_buffer_of_the_remote_does_not_stall() {
    let world = World::new();
    let _server = world.remote.serve(&format!(
        "l = listen({PORT}, rcvbuf=4096)
ready()
while True:
    s = l.accept()[0]
    count, digest = read_all(s, chunk=1000)
    s.sendall(f'{{count}} {{digest}}'.encode())
    s.close()"
    ));
    let _gw = Gw::attach(&world, &[]);
    world.guest.py(&format!(
        "s = connect({REMOTE4:?}, {PORT})
send_stream(s, 2000000)
s.shutdown(SHUT_WR)
got = s.recv(200).decode()
assert got == f'2000000 {{stream_digest(2000000)}}', got"
    ));
}

#[test]
fn a_window_that_was_closed_opens_again() {
    served!(world, _gw, &[]);
    world.guest.py(&format!(
        "s = connect({REMOTE4:?}, {PORT}, rcvbuf=8192)
s.sendall(b'get 3000000\\n')
time.sleep(3)
got = read_all(s)
assert got == (3000000, stream_digest(3000000)), got[0]"
    ));
}

#[test]
fn small_messages_go_both_ways_without_delay() {
    served!(world, _gw, &[]);
    let median: f64 = world
        .guest
        .py(&format!(
            "s = connect({REMOTE4:?}, {PORT})
s.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
s.sendall(b'echo\\n')
times = []
for i in range(1000):
    start = time.monotonic()
    s.sendall(b'x')
    assert s.recv(10) == b'x'
    times.append(time.monotonic() - start)
print(sorted(times)[500])"
        ))
        .parse()
        .expect("seconds");
    // A delayed acknowledgement or Nagle's algorithm would show as 40 ms.
    assert!(median < 0.005, "median round trip {median} s");
}

#[test]
fn two_thousand_connections_at_once() {
    served!(world, gw, &[]);
    let before = gw.descriptors();
    world.guest.py(&format!(
        "raise_limits()
clients = []
for i in range(2000):
    s = connect([{REMOTE4:?}, {alt:?}, {REMOTE6:?}][i % 3], {PORT})
    s.sendall(b'echo\\n')
    clients.append(s)
for i, s in enumerate(clients): s.sendall(str(i).encode())
for i, s in enumerate(clients):
    assert read_exactly(s, len(str(i))) == str(i).encode()
for s in clients: s.shutdown(SHUT_WR)
for s in clients: assert s.recv(1) == b''",
        alt = ALT4[0],
    ));
    eventually("all host sockets to be closed", PATIENCE, || {
        (gw.descriptors() <= before + 1).then_some(())
    });
}

#[test]
fn one_after_the_other_leaves_nothing() {
    served!(world, gw, &[]);
    world.guest.py(&format!(
        "for i in range(20): download({REMOTE4:?}, {PORT}, 10000)"
    ));
    let (sockets, memory) = (gw.descriptors(), gw.resident_kib());
    world.guest.py(&format!(
        "for i in range(1500): download({REMOTE4:?}, {PORT}, 1000)"
    ));
    eventually("all host sockets to be closed", PATIENCE, || {
        (gw.descriptors() <= sockets + 1).then_some(())
    });
    let grown = gw.resident_kib().saturating_sub(memory);
    assert!(grown < 4096, "1500 connections left {grown} KiB");
}

#[test]
fn an_idle_connection_costs_little_memory() {
    served!(world, gw, &[]);
    world
        .guest
        .py(&format!("download({REMOTE4:?}, {PORT}, 1000)"));
    let before = gw.resident_kib();
    let _clients = world.guest.serve(&format!(
        "raise_limits()
clients = []
for i in range(2000):
    s = connect([{REMOTE4:?}, {alt:?}, {REMOTE6:?}][i % 3], {PORT})
    s.sendall(b'echo\\nx')
    assert s.recv(1) == b'x'
    clients.append(s)
ready()
time.sleep(20)",
        alt = ALT4[0],
    ));
    let each = gw.resident_kib().saturating_sub(before) * 1024 / 2000;
    assert!(each <= 8192, "{each} bytes for each idle connection");
}

#[test]
fn a_connection_is_reused_after_its_port() {
    // The same four addresses again, right after a close by the guest.
    served!(world, _gw, &[]);
    world.guest.py(&format!(
        "for i in range(5):
    s = tcp()
    s.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    s.bind(('', 5555))
    s.connect(({REMOTE4:?}, {PORT}))
    s.sendall(b'get 1000\\n')
    assert read_all(s)[0] == 1000
    reset(s)"
    ));
}

#[test]
fn keepalive_of_the_guest_turns_on_the_hosts() {
    require("ss");
    served!(world, gw, &[]);
    let _client = world.guest.serve(&format!(
        "s = connect({REMOTE4:?}, {PORT})
s.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)
s.setsockopt(IPPROTO_TCP, TCP_KEEPIDLE, 1)
s.setsockopt(IPPROTO_TCP, TCP_KEEPINTVL, 1)
s.sendall(b'echo\\nx')
assert s.recv(1) == b'x'
ready()
time.sleep(20)"
    ));
    eventually("a keepalive timer on the host's socket", PATIENCE, || {
        let sockets = world.outer.ok(&format!("ss -Htno dport = :{PORT}"));
        sockets.contains("keepalive").then_some(())
    });
    // And the guest's probes are answered: its connection lives on.
    std::thread::sleep(Duration::from_secs(3));
    let guest = world
        .guest
        .ok(&format!("ss -Htno state established dport = :{PORT}"));
    assert!(
        guest.contains(REMOTE4),
        "the guest's connection is gone: {guest}"
    );
    assert!(gw.descriptors() > 0);
}

#[test]
fn the_host_going_silent_does_not_stop_the_gateway() {
    served!(world, _gw, &[]);
    let _stuck = world.guest.serve(&format!(
        "clients = []
for i in range(300):
    s = tcp()
    s.setblocking(False)
    s.connect_ex(({BLACK_HOLE4:?}, 1000 + i))
    clients.append(s)
ready()
time.sleep(20)"
    ));
    world
        .guest
        .py(&format!("download({REMOTE4:?}, {PORT}, 5000000)"));
}

#[test]
fn a_guest_that_gives_up_connecting_frees_the_host_socket() {
    let world = World::new();
    let gw = Gw::attach(&world, &[]);
    let before = gw.descriptors();
    let mut client = world.guest.serve(&format!(
        "clients = []
for i in range(50):
    s = tcp()
    s.setblocking(False)
    s.connect_ex(({BLACK_HOLE4:?}, 1000 + i))
    clients.append(s)
ready()
sys.stdin.read()"
    ));
    eventually("the held connects", PATIENCE, || {
        (gw.descriptors() >= before + 50).then_some(())
    });
    // Each of them is repeated by the guest, and is still one connect.
    std::thread::sleep(Duration::from_millis(2500));
    assert!(
        gw.descriptors() <= before + 55,
        "{} descriptors",
        gw.descriptors()
    );
    client.done();
}

#[test]
fn tcp_traceroute_gets_there() {
    require("traceroute");
    served!(world, _gw, &[]);
    let run = world.guest.sh(&format!(
        "traceroute -n -T -p {PORT} -q 1 -w 2 -m 5 {REMOTE4}"
    ));
    run.success().says(REMOTE4);
}

#[test]
fn the_memory_budget_holds_for_all_flows_together() {
    served!(world, gw, &["--memory", "16M"]);
    let before = gw.resident_kib();
    let _stalled = world.guest.serve(&format!(
        "clients = []
for i in range(100):
    s = connect([{REMOTE4:?}, {REMOTE6:?}][i % 2], {PORT})
    s.sendall(b'get {}\\n')
    clients.append(s)
ready()
time.sleep(25)",
        1u64 << 30
    ));
    settle(&world.remote);
    // What the budget does not count: each flow's small change and the heap's
    // own waste.
    let grown = gw.peak_kib().saturating_sub(before);
    assert!(grown < 40 << 10, "grew by {grown} KiB");
    world
        .guest
        .py(&format!("download({REMOTE4:?}, {PORT}, 1000000)"));
}

#[test]
fn a_flood_of_opening_segments_is_bounded() {
    served!(world, gw, &[]);
    let before = gw.resident_kib();
    world.guest.py(&format!(
        "e = Ether()
mac = e.gateway_mac()
me, to = '10.0.2.100', {BLACK_HOLE4:?}
for i in range(30000):
    head = struct.pack('!HHIIBBHHH', 1024 + i, 80 + i % 5, i, 0, 0x50, 2, 65535, 0, 0)
    pseudo = inet_aton(me) + inet_aton(to) + struct.pack('!BBH', 0, 6, len(head))
    total = checksum(pseudo + head)
    e.send(mac, 0x800, ipv4(me, to, 6, head[:16] + struct.pack('!H', total) + head[18:]))"
    ));
    let grown = gw.resident_kib().saturating_sub(before);
    assert!(grown < 64 << 10, "grew by {grown} KiB");
    world
        .guest
        .py(&format!("download({REMOTE6:?}, {PORT}, 1000000)"));
}

#[test]
fn running_out_of_descriptors_is_survived() {
    let world = World::new();
    let _server = tcp_server(&world.remote, PORT);
    let _gw = Launch::netns(&world.outer, &world.guest, &[])
        .prefix(&[
            "sh",
            "-c",
            "ulimit -Sn 600; ulimit -Hn 600; exec \"$@\"",
            "sh",
        ])
        .start();
    world.guest.py(&format!(
        "raise_limits()
clients = []
for i in range(900):
    s = tcp()
    s.setblocking(False)
    s.connect_ex(({REMOTE4:?}, {PORT}))
    clients.append(s)
time.sleep(0.5)
for s in clients: s.close()"
    ));
    eventually("connections to work again", PATIENCE, || {
        let run = world
            .guest
            .python(&format!("download({REMOTE4:?}, {PORT}, 100000, timeout=2)"));
        run.status.success().then_some(())
    });
}
