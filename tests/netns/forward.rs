//! Published and exposed ports, with the clients and servers that people use.

use std::time::Duration;

use crate::harness::{
    Finished, GATEWAY4, GATEWAY6, GUEST4, Gw, HOST4, HOST6, Launch, Netns, PATIENCE, REMOTE4,
    REMOTE6, Running, World, eventually, gw_binary, require,
};

/// A server in `netns` that tells each client its address, TCP and UDP.
/// `address` is what it listens on; `::` takes both families.
fn who_server(netns: &Netns, address: &str, port: u16) -> Running {
    netns.serve(&format!(
        "raise_limits()
listener = listen({port}, {address:?})
u = socket(family({address:?}), SOCK_DGRAM)
if {address:?} == '::': u.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 0)
u.bind(({address:?}, {port}))
plain = lambda peer: peer[0].removeprefix('::ffff:').encode()
def datagrams():
    while True:
        data, peer = u.recvfrom(70000)
        u.sendto(plain(peer) + b' ' + data, peer)
threading.Thread(target=datagrams, daemon=True).start()
ready()
while True:
    s, peer = listener.accept()
    s.sendall(plain(peer))
    s.close()"
    ))
}

/// What a TCP client in `netns` reads from there to the end.
#[track_caller]
fn tcp_reads(netns: &Netns, address: &str, port: u16) -> String {
    netns.py(&format!(
        "s = connect({address:?}, {port})
data = b''
while part := s.recv(1000): data += part
print(data.decode())"
    ))
}

/// What a datagram from `netns` to there is answered with.
#[track_caller]
fn udp_reads(netns: &Netns, address: &str, port: u16) -> String {
    netns.py(&format!(
        "s = udp({address:?}, connected={port})
s.send(b'hello')
print(s.recv(1000).decode())"
    ))
}

/// What becomes of a connection to a port whose server is not there.
fn tcp_outcome(netns: &Netns, address: &str, port: u16) -> String {
    netns.py(&format!(
        "def use():
    s = connect({address:?}, {port}, timeout=5)
    return s.recv(1)
print(outcome(use))"
    ))
}

#[test]
fn the_guest_sees_who_its_clients_are() {
    let world = World::new();
    let _server = who_server(&world.guest, "::", 80);
    let _gw = Gw::attach(&world, &["-p", "8080:80", "-p", "8080:80/udp"]);
    for (from, to, seen) in [
        (&world.remote, HOST4, REMOTE4),
        (&world.remote, HOST6, REMOTE6),
        (&world.outer, "127.0.0.1", GATEWAY4),
        (&world.outer, "::1", GATEWAY6),
    ] {
        assert_eq!(tcp_reads(from, to, 8080), seen, "TCP to {to}");
        assert_eq!(
            udp_reads(from, to, 8080),
            format!("{seen} hello"),
            "UDP to {to}"
        );
    }
}

#[test]
fn a_client_reaches_a_server_of_the_other_family() {
    let world = World::new();
    let _v4 = who_server(&world.guest, "0.0.0.0", 80);
    let _v6 = world.guest.serve(
        "s = socket(AF_INET6, SOCK_STREAM)
s.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 1)
s.bind(('::', 81))
s.listen(10)
ready()
while True:
    c, peer = s.accept()
    c.sendall(peer[0].encode())
    c.close()",
    );
    let _gw = Gw::attach(&world, &["-p", "8080-8081:80-81"]);
    assert_eq!(tcp_reads(&world.remote, HOST6, 8080), GATEWAY4);
    assert_eq!(tcp_reads(&world.remote, HOST4, 8081), GATEWAY6);
    assert_eq!(tcp_reads(&world.outer, "::1", 8080), GATEWAY4);
    // Each in its own family as before.
    assert_eq!(tcp_reads(&world.remote, HOST4, 8080), REMOTE4);
    assert_eq!(tcp_reads(&world.remote, HOST6, 8081), REMOTE6);
}

#[test]
fn a_guest_without_ipv6_is_reached_over_ipv6() {
    let world = World::new();
    let _server = who_server(&world.guest, "0.0.0.0", 80);
    let _gw = Gw::attach(&world, &["--no-ipv6", "-p", "8080:80", "-p", "8080:80/udp"]);
    assert_eq!(tcp_reads(&world.remote, HOST6, 8080), GATEWAY4);
    assert_eq!(
        udp_reads(&world.remote, HOST6, 8080),
        format!("{GATEWAY4} hello")
    );
}

#[test]
fn a_guest_that_configures_itself_is_found() {
    require("udhcpc");
    let world = World::new();
    let _gw = Gw::attach(&world, &["--no-configure", "-p", "8080:80"]);
    let guest = &world.guest;
    guest.ok(r#"cat > /run/udhcpc-forward.sh <<'END'
#!/bin/sh
case $1 in
bound) ip addr add "$ip/$mask" dev "$interface" && ip route add default via "$router" ;;
esac
END
chmod +x /run/udhcpc-forward.sh
ip link set tap0 up
udhcpc -i tap0 -f -n -q -t 5 -T 1 -s /run/udhcpc-forward.sh"#);
    let _server = who_server(guest, "::", 80);
    assert_eq!(tcp_reads(&world.remote, HOST4, 8080), REMOTE4);
    // The address that SLAAC gives it is known once it is used.
    assert_eq!(tcp_reads(&world.remote, HOST6, 8080), GATEWAY4);
    eventually("an address and a route", PATIENCE, || {
        let ping = guest.sh(&format!("ping -n -q -c 1 -W 1 {GATEWAY6}"));
        ping.status.success().then_some(())
    });
    assert_eq!(tcp_reads(&world.remote, HOST6, 8080), REMOTE6);
}

#[test]
fn a_closed_port_of_the_guest_is_a_reset() {
    require("curl");
    let world = World::new();
    let _gw = Gw::attach(&world, &["-p", "8080:80"]);
    for (from, to) in [
        (&world.remote, HOST4),
        (&world.remote, HOST6),
        (&world.outer, "127.0.0.1"),
        (&world.outer, "::1"),
    ] {
        assert_eq!(tcp_outcome(from, to, 8080), "ECONNRESET", "{to}");
    }
    // 7: the reset came before curl looked, 56: after; 52 would be an empty answer.
    let finished = world.remote.sh(&format!("curl -sS http://{HOST4}:8080/"));
    assert!(matches!(finished.code(), 7 | 56), "{finished:?}");
}

#[test]
fn data_passes_whole_both_ways_and_ends_pass_too() {
    let world = World::new();
    let _server = crate::harness::peer::tcp_server(&world.guest, 7000);
    let _gw = Gw::attach(&world, &["-p", "7000"]);
    for (from, to) in [
        (&world.remote, HOST4),
        (&world.remote, HOST6),
        (&world.outer, "127.0.0.1"),
    ] {
        from.py(&format!(
            "download({to:?}, 7000, 20_000_000)
upload({to:?}, 7000, 20_000_000)
s = connect({to:?}, 7000)
s.sendall(b'echo\\n' + b'x' * 100_000)
s.shutdown(SHUT_WR)
assert read_all(s)[0] == 100_000"
        ));
    }
}

#[test]
fn addresses_and_interfaces_bound_who_gets_in() {
    let world = World::new();
    let _server = who_server(&world.guest, "::", 80);
    let _gw = Gw::attach(
        &world,
        &[
            "-p",
            "127.0.0.1:8080:80",
            "-p",
            &format!("{HOST4}:8081:80"),
            "-p",
            "[::]:8082:80",
            "-p",
            "%veth0:8083:80",
            "-p",
            &format!("8084:{GUEST4}:80"),
        ],
    );
    let refused = "ECONNREFUSED";
    assert_eq!(tcp_reads(&world.outer, "127.0.0.1", 8080), GATEWAY4);
    assert_eq!(tcp_outcome(&world.remote, HOST4, 8080), refused);
    assert_eq!(tcp_reads(&world.remote, HOST4, 8081), REMOTE4);
    assert_eq!(tcp_outcome(&world.outer, "127.0.0.1", 8081), refused);
    assert_eq!(tcp_reads(&world.remote, HOST6, 8082), REMOTE6);
    assert_eq!(tcp_outcome(&world.remote, HOST4, 8082), refused);
    assert_eq!(tcp_reads(&world.remote, HOST4, 8083), REMOTE4);
    assert_eq!(tcp_outcome(&world.outer, "127.0.0.1", 8083), refused);
    assert_eq!(tcp_reads(&world.remote, HOST6, 8084), GATEWAY4);
}

#[test]
fn a_thousand_ports_cost_their_sockets_and_go_at_the_end() {
    let world = World::new();
    let plain = Gw::attach(&world, &[]);
    let (files, memory) = (plain.descriptors(), plain.resident_kib());
    plain.terminate();
    let gw = Gw::attach(&world, &["-p", "20000-20999:30000-30999"]);
    assert_eq!(gw.descriptors(), files + 1000);
    let more = gw.resident_kib().saturating_sub(memory);
    assert!(more < 2048, "{more} KiB more");
    let _server = world.guest.serve(
        "listeners = [listen(port) for port in (30000, 30500, 30999)]
ready()
for s in listeners:
    c, _ = s.accept()
    c.sendall(str(s.getsockname()[1]).encode())
    c.close()
time.sleep(20)",
    );
    for port in [20000, 20500, 20999] {
        let to = (port + 10000).to_string();
        assert_eq!(tcp_reads(&world.remote, HOST4, port), to);
    }
    assert_eq!(tcp_outcome(&world.remote, HOST4, 21000), "ECONNREFUSED");
    gw.terminate();
    assert_eq!(world.outer.ok("ss -Htln"), "");
}

#[test]
fn unix_sockets_lead_to_the_guest() {
    require("curl");
    let world = World::new();
    let _web = world
        .guest
        .spawn("python3 -m http.server --directory /usr/share/common-licenses 80");
    world.guest.wait_listener('t', ":80");
    let _who = who_server(&world.guest, "::", 81);
    // What a program that was killed has left behind.
    world.outer.py("socket(AF_UNIX).bind('/run/web.sock')");
    let gw = Gw::attach(
        &world,
        &["-p", "unix:/run/web.sock:80", "-p", "unix:/run/who.sock:81"],
    );
    assert_eq!(world.outer.ok("stat -c %a /run/web.sock"), "600\n");
    let page = world
        .outer
        .ok("curl -sSf --unix-socket /run/web.sock http://guest/BSD");
    assert_eq!(page, world.outer.ok("cat /usr/share/common-licenses/BSD"));
    let seen = world
        .outer
        .ok("curl -sS --http0.9 --unix-socket /run/who.sock http://guest/ || true");
    assert!(seen.starts_with(GATEWAY4), "{seen}");
    gw.terminate();
    world
        .outer
        .ok("test ! -e /run/web.sock -a ! -e /run/who.sock");
}

#[test]
fn exposed_ports_lead_to_the_host() {
    require("curl");
    let world = World::new();
    let _host = world.outer.serve(
        "def serve(address):
    listener = listen(5432, address)
    u = udp(address, 5432, timeout=None)
    def datagrams():
        while True:
            data, peer = u.recvfrom(1000)
            u.sendto(data[::-1], peer)
    def connections():
        while True:
            s, _ = listener.accept()
            s.sendall(address.encode())
            s.close()
    for job in datagrams, connections:
        threading.Thread(target=job, daemon=True).start()
serve('127.0.0.1')
serve('::1')
ready()
time.sleep(60)",
    );
    let _web = world.outer.serve(
        "import http.server, socketserver
class Server(socketserver.UnixStreamServer):
    def get_request(self): return super().get_request()[0], ('unix', 0)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'from the host')
    def log_message(self, *_): pass
server = Server('/run/host.sock', Handler)
ready()
server.serve_forever()",
    );
    let _gw = Gw::attach(
        &world,
        &[
            "--expose-host",
            "5432:15432",
            "--expose-host",
            "5432:15432/udp",
            "--expose-host",
            "unix:/run/host.sock:8080",
            "--expose-host",
            "unix:/run/nobody.sock:8081",
        ],
    );
    for (gateway, loopback) in [(GATEWAY4, "127.0.0.1"), (GATEWAY6, "::1")] {
        assert_eq!(tcp_reads(&world.guest, gateway, 15432), loopback);
        assert_eq!(udp_reads(&world.guest, gateway, 15432), "olleh");
    }
    for url in ["http://10.0.2.2:8080/", "http://[fd00::2]:8080/"] {
        let page = world.guest.ok(&format!("curl -sSf {url}"));
        assert_eq!(page, "from the host");
    }
    assert_eq!(tcp_outcome(&world.guest, GATEWAY4, 8081), "ECONNREFUSED");
    // Nothing else of the host's loopback.
    assert_ne!(tcp_outcome(&world.guest, GATEWAY4, 5432), "b'1'");
}

#[test]
fn sockets_of_a_service_manager_are_listeners() {
    require("systemd-socket-activate");
    let world = World::new();
    let _server = who_server(&world.guest, "::", 80);
    let guest = world.guest.inner_pid();
    let gw = gw_binary();
    for (listen, forward, client) in [
        ("-l 8080", "systemd:80", "connect('192.0.2.2', 8080)"),
        (
            "-l 8080 --fdname=web",
            "systemd:web:80",
            "connect('192.0.2.2', 8080)",
        ),
    ] {
        // It starts the program when the first client is there, who waits.
        let activator = world.outer.spawn(&format!(
            "systemd-socket-activate {listen} {} --netns {guest} -p {forward}",
            gw.display()
        ));
        world.outer.wait_listener('t', ":8080");
        let seen = world.remote.py(&format!(
            "s = {client}
print(s.recv(100).decode())"
        ));
        assert_eq!(seen, REMOTE4, "{forward}");
        assert_eq!(tcp_reads(&world.remote, HOST4, 8080), REMOTE4);
        drop(activator);
        eventually("the end of gw", PATIENCE, || {
            world.outer.ok("ss -Htln").is_empty().then_some(())
        });
    }
}

/// Starts `gw` with sockets passed as a service manager does: one listens on
/// 127.0.0.1:8080, `web`, one has UDP port 8053, `dns`.
fn activated<'a>(world: &'a World, args: &[&str]) -> Launch<'a> {
    let script = "\
import os, socket, sys
tcp = socket.create_server(('127.0.0.1', 8080))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(('127.0.0.1', 8053))
# The harness has the ready and exit pipes where the sockets go.
for old, new in (3, 20), (4, 21): os.dup2(old, new)
os.dup2(tcp.fileno(), 30)
os.dup2(udp.fileno(), 31)
os.dup2(30, 3)
os.dup2(31, 4)
for fd in 30, 31, tcp.fileno(), udp.fileno():
    if fd > 4: os.close(fd)
os.environ.update(LISTEN_FDS='2', LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES='web:dns')
args = sys.argv[1:]
args[args.index('--ready-fd') + 1] = '20'
args[args.index('--exit-fd') + 1] = '21'
os.execv(args[0], args)";
    Launch::netns(&world.outer, &world.guest, args).prefix(&["python3", "-c", script])
}

#[test]
fn passed_sockets_have_names_and_kinds() {
    let world = World::new();
    let _server = who_server(&world.guest, "::", 80);
    let gw = activated(&world, &["-p", "systemd:dns:80/udp", "-p", "systemd:80"]).start();
    assert_eq!(tcp_reads(&world.outer, "127.0.0.1", 8080), GATEWAY4);
    assert_eq!(
        udp_reads(&world.outer, "127.0.0.1", 8053),
        format!("{GATEWAY4} hello")
    );
    gw.terminate();

    let gw = activated(&world, &["-p", "systemd:web:80"]).start();
    assert!(
        gw.stderr().contains("the passed socket 'dns' is not used"),
        "{}",
        gw.stderr()
    );
    gw.terminate();

    let refused = |args: &[&str]| match activated(&world, args).try_start() {
        Ok(_) => panic!("started with {args:?}"),
        Err(finished) => finished,
    };
    refused(&["-p", "systemd:mail:25"]).says("there are 'web', 'dns'");
    refused(&["-p", "systemd:dns:80"]).says("the passed socket 'dns' is a UDP socket");
    Gw::refused(&world, &["-p", "systemd:80"]).says("no TCP or unix socket was passed");
}

#[test]
fn who_holds_a_port_is_said() {
    let world = World::new();
    let holder = world
        .outer
        .serve("s = listen(8080)\nready()\ntime.sleep(60)");
    let pids = world.outer.ok("pgrep -x python3 || pgrep python3");
    let holders: Vec<&str> = pids.lines().collect();
    let finished = Gw::refused(&world, &["-p", "8080:80"]);
    assert!(
        holders
            .iter()
            .any(|pid| finished.stderr.contains(&format!("(process {pid})"))),
        "{holders:?} {finished:?}"
    );
    finished
        .says("cannot publish 8080:80/tcp: port 8080 is in use by python3")
        .says("choose another host port, like 8081:80");
    // A range is refused as a whole, and what it bound is free again.
    Gw::refused(&world, &["-p", "8070-8090"]).says("port 8080 is in use");
    assert_eq!(world.outer.ok("ss -Htln | wc -l"), "1\n");
    drop(holder);
}

#[test]
fn low_ports_and_ports_of_others_are_explained_to_who_has_no_privilege() {
    let world = World::new();
    if !world.allow_nobody() {
        return;
    }
    world
        .outer
        .ok("echo 1024 > /proc/sys/net/ipv4/ip_unprivileged_port_start");
    let guest = world.guest_of_nobody();
    let refused = |args: &[&str]| -> Finished {
        let launch = Launch::netns(&world.outer, &guest, args).by_nobody();
        match launch.try_start() {
            Ok(_) => panic!("started with {args:?}"),
            Err(finished) => finished,
        }
    };
    refused(&["-p", "80"])
        .says("this user may not listen on port 80, which is below 1024")
        .says("sysctl net.ipv4.ip_unprivileged_port_start=80")
        .says("setcap cap_net_bind_service=+ep")
        .says("8080:80");
    let _holder = world
        .outer
        .serve("s = listen(8080)\nready()\ntime.sleep(60)");
    refused(&["-p", "8080:80"]).says("port 8080 is in use by a program of user root");

    // The remedy works, and so does binding to an interface.
    world
        .outer
        .ok("echo 80 > /proc/sys/net/ipv4/ip_unprivileged_port_start");
    let _server = guest.serve(
        "s = listen(80)\nready()\nfor _ in range(2): s.accept()[0].send(b'x')\ntime.sleep(60)",
    );
    let args = ["-p", "80", "-p", "%veth0:8081:80"];
    let _gw = Launch::netns(&world.outer, &guest, &args)
        .by_nobody()
        .start();
    for port in [80, 8081] {
        let got = world
            .remote
            .py(&format!("print(connect('{HOST4}', {port}).recv(1))"));
        assert_eq!(got, "b'x'");
    }
}

#[test]
fn the_port_that_the_system_chose_is_told() {
    let world = World::new();
    let _server = who_server(&world.guest, "::", 80);
    let gw = Gw::attach(&world, &["-p", "127.0.0.1::80"]);
    let said = gw.stderr();
    let port = said
        .split_once("published 127.0.0.1:")
        .and_then(|(_, rest)| rest.split_once(" -> 80/tcp"))
        .unwrap_or_else(|| panic!("no port in: {said}"))
        .0;
    let port = port.parse().expect("a port");
    assert_eq!(tcp_reads(&world.outer, "127.0.0.1", port), GATEWAY4);
}

#[test]
fn run_publishes_ports_before_the_command_starts() {
    let world = World::new();
    let holder = world
        .outer
        .serve("s = listen(8080)\nready()\ntime.sleep(60)");
    let run = |args: &[&str]| Launch::new(&world.outer, &[&["run"], args].concat()).run();
    let finished = run(&["-p", "8080:80", "--", "touch", "/run/started"]);
    assert_eq!(finished.code(), 1, "{finished:?}");
    finished.says("port 8080 is in use by python3");
    world.outer.ok("test ! -e /run/started");
    drop(holder);

    // The port is there when the command starts, so that a client may be first.
    let mut command = world.outer.spawn(&format!(
        "{} run -p 8080:80 -- python3 -c 'import socket
s = socket.create_server((\"0.0.0.0\", 80))
print(\"up\", flush=True)
c, peer = s.accept()
c.send(b\"hello\")
c.close()
print(\"peer\", peer[0])'",
        gw_binary().display()
    ));
    command.wait_line("up");
    assert_eq!(tcp_reads(&world.remote, HOST4, 8080), "hello");
    assert!(command.done().ends_with(&format!("peer {REMOTE4}")));
}

#[test]
fn ten_thousand_connections_leave_nothing_behind() {
    let world = World::new();
    let _server = world.guest.serve(
        "listener = listen(80)
ready()
while True:
    s, _ = listener.accept()
    s.sendall(s.recv(10))
    s.close()",
    );
    let gw = Gw::attach(&world, &["-p", "8080:80"]);
    let files = gw.descriptors();
    let clients = |count: u32| {
        world.remote.py(&format!(
            "def client():
    for _ in range({count} // 4):
        s = connect('{HOST4}', 8080)
        s.sendall(b'hello')
        assert s.recv(10) == b'hello'
        assert s.recv(10) == b''
        s.close()
threads = [threading.Thread(target=client) for _ in range(4)]
for t in threads: t.start()
for t in threads: t.join()"
        ));
        eventually("sockets to be closed", PATIENCE, || {
            (gw.descriptors() == files).then_some(())
        });
    };
    clients(10_000);
    // Tables have grown to their size by now.
    let before = gw.resident_kib();
    clients(10_000);
    let more = gw.resident_kib().saturating_sub(before);
    assert!(more < 1024, "{more} KiB more");
}

#[test]
fn spellings_that_make_no_sense_show_the_forms() {
    let world = World::new();
    for (args, why) in [
        (["-p", "80/sctp"], "SCTP is not carried"),
        (["-p", "::1:8080:80"], "put it in brackets"),
        (["-p", "8000-8010:80"], "give both sides as many"),
        (["--expose-host", "1:2:3"], "there are too many parts"),
    ] {
        let finished = Gw::refused(&world, &args);
        assert_eq!(finished.code(), 2, "{finished:?}");
        finished.says(why).says("the forms are");
    }
    Gw::refused(&world, &["-p", "auto", "-p", "auto"]).says("can be given once");
    Gw::refused(&world, &["-p", "8080:10.9.9.9:80"]).says("choose one in 10.0.2.0/24");
}

/// Waits in `netns` until a TCP connection to `address` succeeds (`True`) or is
/// refused (`False`); prints the moment.
fn when(netns: &Netns, address: &str, port: u16, open: &str) -> Running {
    let running = netns.spawn_python(&format!(
        "def is_open():
    s = tcp({address:?}, timeout=5)
    result = s.connect_ex(({address:?}, {port}))
    s.close()
    # A reset is the guest's answer, through a port that is open.
    return result != errno.ECONNREFUSED
print('watching', flush=True)
while is_open() != {open}: time.sleep(0.002)
print('at', time.monotonic(), flush=True)"
    ));
    let mut running = running;
    running.wait_line("watching");
    running
}

fn moment(line: &str) -> f64 {
    let number = line.split_whitespace().last().expect("a moment");
    number.parse().expect("a number")
}

/// How fast a port must follow.
const SOON: f64 = 0.2;

#[test]
fn auto_follows_what_the_guest_listens_on() {
    let world = World::new();
    let gw = Gw::attach(&world, &["-p", "auto"]);
    let mut appear4 = when(&world.outer, "127.0.0.1", 8080, "True");
    let mut appear6 = when(&world.outer, "::1", 8080, "True");
    let mut server = world.guest.spawn_python(
        "s = listen(8080)
print('listens', time.monotonic(), flush=True)
sys.stdin.readline()
s.close()
print('closed', time.monotonic(), flush=True)",
    );
    let since = moment(&server.wait_line("listens"));
    for appear in [&mut appear4, &mut appear6] {
        let took = moment(&appear.wait_line("at")) - since;
        assert!(took < SOON, "{took} s");
    }
    // Not beyond loopback.
    assert_eq!(tcp_outcome(&world.remote, HOST4, 8080), "ECONNREFUSED");
    let mut vanish = when(&world.outer, "127.0.0.1", 8080, "False");
    server.write(b"\n");
    let since = moment(&server.wait_line("closed"));
    let took = moment(&vanish.wait_line("at")) - since;
    assert!(took < SOON, "{took} s");
    assert_eq!(world.outer.ok("ss -Htuln"), "");
    gw.terminate();
}

#[test]
fn auto_knows_what_it_cannot_or_should_not_publish() {
    let world = World::new();
    let holder = world
        .outer
        .serve("s = listen(8003)\nready()\ntime.sleep(60)");
    let _server = world.guest.serve(
        "s = [listen(8001), listen(8002, '127.0.0.1'), listen(8003), listen(8004), listen(8005)]
u = [udp(port=8001), udp(port=40000)]
c = udp('127.0.0.1', port=8006, connected=9)
ready()
time.sleep(60)",
    );
    let gw = Gw::attach(&world, &["-p", "auto,except=8005-8010", "-p", "8004:80"]);
    let listening = |what: &str| {
        world
            .outer
            .ok(&format!("ss -H{what}ln | awk '{{print $4}}' | sort"))
    };
    eventually("the ports", PATIENCE, || {
        (listening("t") == "*:8003\n*:8004\n127.0.0.1:8001\n[::1]:8001\n"
            && listening("u") == "127.0.0.1:8001\n[::1]:8001\n")
            .then_some(())
    });
    eventually("the warning", PATIENCE, || {
        gw.stderr().contains("port 8003 is in use").then_some(())
    });
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(
        gw.stderr().matches("port 8003").count(),
        1,
        "{}",
        gw.stderr()
    );
    // It is had once it is free.
    drop(holder);
    eventually("port 8003", PATIENCE, || {
        listening("t").contains("127.0.0.1:8003").then_some(())
    });
}

#[test]
fn auto_works_for_a_command_and_carries_data() {
    require("curl");
    let world = World::new();
    let _command = world.outer.spawn(&format!(
        "{} run -p auto -- python3 -m http.server --directory /usr/share/common-licenses 8080",
        gw_binary().display()
    ));
    let page = eventually("the page", PATIENCE, || {
        let got = world.outer.sh("curl -sSf http://localhost:8080/BSD");
        got.status.success().then_some(got.stdout)
    });
    assert_eq!(page, world.outer.ok("cat /usr/share/common-licenses/BSD"));
}
