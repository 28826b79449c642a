//! Faults of connections and names, as programs in the guest see them.

use std::time::Duration;

use serde_json::Value;

use crate::harness::ctl::{SOCKET, controlled, ctl};
use crate::harness::peer::{dns_server, tcp_server};
use crate::harness::{
    ALT4, DNS4, Finished, Gw, HOST4, Netns, REMOTE4, REMOTE6, Running, World, eventually, require,
};

const PORT: u16 = 8000;

/// What the scripted name server answers for `www.*`.
const WWW: &str = ALT4[0];

/// An HTTP server that sends a megabyte to whoever asks.
fn web_server(netns: &Netns) -> Running {
    netns.serve(
        "from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Server(ThreadingHTTPServer):
    address_family = AF_INET6
    request_queue_size = 100
class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_): pass
    def do_GET(self):
        self.send_response(200)
        self.send_header('Content-Length', str(1 << 20))
        self.end_headers()
        self.wfile.write(bytes(1 << 20))
server = Server(('::', 80), Handler)
ready()
server.serve_forever()",
    )
}

/// A world with a web server, and a gateway under these rules.
fn web(rules: &[&str]) -> (World, Running, Gw) {
    require("curl");
    let world = World::new();
    let server = web_server(&world.remote);
    let gw = controlled(&world, rules);
    (world, server, gw)
}

/// How many `gw` has turned away and ended because of rules.
fn faults(world: &World) -> u64 {
    let said = ctl(world, &["stats", "--json"]).success().stdout;
    let stats: Value = serde_json::from_str(said.trim()).expect("JSON");
    stats["dropped"]["fault"].as_u64().unwrap_or(0)
}

/// curl's exit status, the bytes it got and how long its connect took.
fn curl(world: &World, options: &str, host: &str) -> (i32, u64, f64) {
    let run = world.guest.sh(&format!(
        "curl -sS -o /dev/null -w '%{{size_download}} %{{time_connect}}' {options} http://{host}/"
    ));
    let mut said = run.stdout.split_whitespace();
    let mut number = || {
        said.next()
            .and_then(|n| n.parse::<f64>().ok())
            .unwrap_or(-1.0)
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count"
    )]
    let (size, connect) = (number() as u64, number());
    (run.code(), size, connect)
}

/// How a connect to there ends, by the name of its error.
fn connects(netns: &Netns, address: &str, port: u16, seconds: u32) -> String {
    netns.py(&format!(
        "print(outcome(lambda: connect({address:?}, {port}, timeout={seconds}) and 'connected'))"
    ))
}

#[test]
fn connections_are_refused() {
    let (world, _server, _gw) = web(&["to 192.0.2.1 port 80 refuse"]);
    assert_eq!(connects(&world.guest, REMOTE4, 80, 5), "ECONNREFUSED");
    assert_eq!(curl(&world, "", REMOTE4).0, 7);
    assert_eq!(faults(&world), 2);
    // Neither other addresses nor other ports.
    assert_eq!(curl(&world, "", &format!("[{REMOTE6}]")).1, 1 << 20);
    let _server = tcp_server(&world.remote, PORT);
    assert_eq!(connects(&world.guest, REMOTE4, PORT, 5), "connected");
}

#[test]
fn connections_vanish_in_a_black_hole() {
    let (world, _server, _gw) = web(&["to 192.0.2.1 black-hole"]);
    assert_eq!(connects(&world.guest, REMOTE4, 80, 2), "timeout");
    assert_eq!(curl(&world, "--connect-timeout 2", REMOTE4).0, 28);
    assert!(faults(&world) >= 2, "SYNs");
    assert_eq!(curl(&world, "", &format!("[{REMOTE6}]")).0, 0);
}

#[test]
fn connections_are_reset_after_so_many_bytes() {
    let (world, _server, _gw) = web(&["reset-after=10000b"]);
    for host in [REMOTE4.to_owned(), format!("[{REMOTE6}]")] {
        // What the request and the response's head take is counted as well.
        let run = world.guest.python(&format!(
            "s = connect({:?}, 80)
request = b'GET / HTTP/1.0\\r\\n\\r\\n'
s.sendall(request)
got = 0
try:
    while data := s.recv(65536): got += len(data)
    print('end')
except ConnectionResetError:
    print(len(request) + got)",
            host.trim_matches(['[', ']'])
        ));
        assert_eq!(run.success().stdout.trim(), "10000");
        let (code, size, _) = curl(&world, "", &host);
        assert_eq!(code, 56, "failure to receive");
        assert!((9000..10_000).contains(&size), "{size}");
    }
    assert_eq!(faults(&world), 4);
}

#[test]
fn connections_are_reset_after_a_time() {
    let world = World::new();
    let _server = tcp_server(&world.remote, PORT);
    let _gw = controlled(&world, &["reset-after=700ms"]);
    let took: f64 = world
        .guest
        .py(&format!(
            "s = connect({REMOTE4:?}, {PORT})
start = time.monotonic()
s.sendall(b'echo\\n')
assert outcome(lambda: s.recv(1)) == 'ECONNRESET'
print(time.monotonic() - start)"
        ))
        .parse()
        .expect("a number");
    assert!((0.65..1.5).contains(&took), "{took}");
}

#[test]
fn connections_stall() {
    let (world, _server, _gw) = web(&["stall"]);
    let (code, size, connect) = curl(&world, "--speed-limit 1 --speed-time 2", REMOTE4);
    assert_eq!((code, size), (28, 0), "too slow");
    assert!((0.0..1.0).contains(&connect), "{connect}");
    // The window closes, and the guest's kernel asks for it in vain.
    world.guest.py(&format!(
        "s = connect({REMOTE4:?}, 80)
s.settimeout(1)
sent = 0
try:
    while True: sent += s.send(bytes(65536))
except TimeoutError:
    pass
assert sent >= 65535, sent
import subprocess
said = subprocess.run(['ss', '-Htno', 'state', 'established'], capture_output=True, text=True).stdout
assert 'timer:(persist' in said, said"
    ));
}

/// The peer has lost its power: nothing is acknowledged, and the guest's kernel
/// repeats itself.
#[test]
fn connections_are_half_open() {
    require("ss");
    let (world, _server, _gw) = web(&["half-open"]);
    world.guest.py(&format!(
        "import subprocess
s = connect({REMOTE4:?}, 80)
s.sendall(b'hello')
deadline = time.monotonic() + PATIENCE
while True:
    said = subprocess.run(['ss', '-Htnoi', 'dport', '=', ':80'], capture_output=True, text=True).stdout
    if 'unacked:1' in said and 'backoff:2' in said: break
    assert time.monotonic() < deadline, said
    time.sleep(0.1)
s.settimeout(0.1)
assert outcome(lambda: s.recv(1)) == 'timeout'"
    ));
    assert!(faults(&world) >= 3, "segments");
    // The host does not hold on to anything that the remote would notice.
    eventually("the remote to have closed", Duration::from_secs(10), || {
        let open = world.remote.ok("ss -Htn state established sport = :80");
        open.trim().is_empty().then_some(())
    });
}

#[test]
fn connections_are_slowly_accepted() {
    let (world, _server, _gw) = web(&["slow-accept=800ms"]);
    let (code, size, connect) = curl(&world, "", REMOTE4);
    assert_eq!((code, size), (0, 1 << 20));
    assert!((0.8..1.6).contains(&connect), "{connect}");
}

#[test]
fn clients_of_published_ports_have_faults_of_their_own() {
    let world = World::new();
    let _server = tcp_server(&world.guest, 80);
    let arguments = ["-p", "8080:80", "-p", "8081:81", "--control", SOCKET];
    let _gw = Gw::attach(&world, &arguments);
    let client = |port: u16| {
        world.remote.py(&format!(
            "got = b''
def use():
    global got
    s = connect({HOST4:?}, {port}, timeout=2)
    s.sendall(b'get 100\\n')
    while data := s.recv(1000): got += data
    return 'end'
print(outcome(use), len(got))"
        ))
    };
    assert_eq!(client(8080), "end 100");
    for (rule, outcome) in [
        ("down port 80 refuse", "ECONNRESET 0"),
        ("down black-hole", "timeout 0"),
        ("down reset-after=58b", "ECONNRESET 50"),
        ("stall", "timeout 0"),
        ("half-open", "timeout 0"),
        ("slow-accept=1s", "end 100"),
        // Not for them.
        ("up refuse", "end 100"),
        ("down port 81 refuse", "end 100"),
        ("to 198.51.100.0/24 refuse", "end 100"),
    ] {
        ctl(&world, &["impair", "set", rule]).success();
        assert_eq!(client(8080), outcome, "{rule}");
    }
}

#[test]
fn faults_change_while_it_runs() {
    let (world, _server, _gw) = web(&[]);
    assert_eq!(curl(&world, "", REMOTE4).0, 0);
    ctl(&world, &["impair", "set", "refuse"]).success();
    assert_eq!(curl(&world, "", REMOTE4).0, 7);
    ctl(&world, &["impair", "set", "to 192.0.2.1 pass", "refuse"]).success();
    assert_eq!(curl(&world, "", REMOTE4).0, 0);
    assert_eq!(curl(&world, "", &format!("[{REMOTE6}]")).0, 7);
    ctl(&world, &["impair", "clear"]).success();
    assert_eq!(curl(&world, "", &format!("[{REMOTE6}]")).0, 0);
    // On a schedule, which begins with the rule.
    ctl(&world, &["impair", "add", "for 1s refuse"]).success();
    assert_eq!(curl(&world, "", REMOTE4).0, 7);
    eventually("the rule to run out", Duration::from_secs(10), || {
        (curl(&world, "", REMOTE4).0 == 0).then_some(())
    });
}

#[test]
fn datagrams_are_refused_or_vanish() {
    let world = World::new();
    let _echo = crate::harness::peer::udp_echo(&world.remote, PORT);
    let _gw = controlled(&world, &[]);
    let ask = || {
        world.guest.py(&format!(
            "s = socket(AF_INET, SOCK_DGRAM)
s.settimeout(1)
s.connect(({REMOTE4:?}, {PORT}))
s.send(b'hello')
print(outcome(lambda: s.recv(10).decode()))"
        ))
    };
    for (rule, outcome) in [
        ("proto udp refuse", "ECONNREFUSED"),
        ("proto udp black-hole", "timeout"),
        ("refuse", "hello"),
        ("proto tcp refuse", "hello"),
    ] {
        ctl(&world, &["impair", "set", rule]).success();
        assert_eq!(ask(), outcome, "{rule}");
    }
}

/// A world whose name server knows `www.*` as [`WWW`].
fn named(rules: &[&str]) -> (World, Running, Gw) {
    require("dig");
    let world = World::new();
    let server = dns_server(&world.remote, REMOTE4, WWW);
    let gw = controlled(&world, rules);
    (world, server, gw)
}

fn dig(world: &World, query: &str) -> Finished {
    world
        .guest
        .sh(&format!("dig +tries=1 +time=3 @{DNS4} {query}"))
}

fn short(world: &World, query: &str) -> String {
    let run = dig(world, &format!("+short {query}"));
    run.success().stdout.trim().to_owned()
}

#[test]
fn names_are_denied_or_fail() {
    let (world, _server, _gw) = named(&[
        "name *.gone.example dns=nxdomain",
        "name *.bad.example dns=servfail",
        "name *.lost.example dns=drop",
    ]);
    dig(&world, "www.gone.example A")
        .success()
        .says("status: NXDOMAIN");
    dig(&world, "+tcp www.gone.example AAAA")
        .success()
        .says("status: NXDOMAIN");
    dig(&world, "www.bad.example A")
        .success()
        .says("status: SERVFAIL");
    for transport in ["+notcp", "+tcp"] {
        let run = dig(&world, &format!("{transport} www.lost.example A"));
        assert_eq!(run.failure().code(), 9, "no answer");
    }
    for other in ["www.example", "gone.example.www.other.example"] {
        dig(&world, &format!("{other} A"))
            .success()
            .lacks("status: SERVFAIL");
    }
    assert_eq!(short(&world, "www.example A"), WWW);
    // The guest's own resolver sees it as programs do.
    let got = world.guest.sh("getent ahostsv4 www.gone.example");
    assert_eq!(got.code(), 2);
}

#[test]
fn answers_are_cut_short_and_come_by_tcp() {
    let (world, _server, _gw) = named(&["name www.example dns=truncate"]);
    dig(&world, "+ignore www.example A")
        .success()
        .says(" tc ")
        .says("ANSWER: 0");
    dig(&world, "www.example A")
        .success()
        .says("Truncated, retrying in TCP mode")
        .says(WWW);
}

#[test]
fn answers_come_late() {
    let (world, _server, _gw) = named(&["name www.example dns-delay=900ms"]);
    let run = dig(&world, "+short www.example A").success();
    assert_eq!(run.stdout.trim(), WWW);
    assert!(run.elapsed >= Duration::from_millis(900), "{run:?}");
    let run = dig(&world, "+short www.other.example A").success();
    assert!(run.elapsed < Duration::from_millis(900), "{run:?}");
}

#[test]
fn answers_are_wrong() {
    let (world, _server, _gw) = named(&[
        "name www.example dns=192.0.2.77,2001:db8::77",
        "name v4.example dns=192.0.2.78",
    ]);
    assert_eq!(short(&world, "www.example A"), "192.0.2.77");
    assert_eq!(short(&world, "www.example AAAA"), "2001:db8::77");
    assert_eq!(short(&world, "v4.example A"), "192.0.2.78");
    dig(&world, "v4.example AAAA")
        .success()
        .says("status: NOERROR")
        .says("ANSWER: 0");
    dig(&world, "+noall +answer www.example A")
        .success()
        .says("\t0\tIN\tA");
    assert_eq!(short(&world, "www.other.example A"), WWW);
}

/// A rule for a name is for the addresses that the guest has resolved it to.
#[test]
fn flows_are_hit_by_name() {
    require("curl");
    let world = World::new();
    let _dns = dns_server(&world.remote, REMOTE4, WWW);
    let _web = web_server(&world.remote);
    let _gw = controlled(&world, &["name *.example refuse"]);
    // Nobody has asked for the name yet.
    assert_eq!(curl(&world, "", WWW).0, 0);
    assert_eq!(curl(&world, "-4", "www.example").0, 7);
    // From then on, by whatever means the guest has the address.
    assert_eq!(curl(&world, "", WWW).0, 7);
    assert_eq!(curl(&world, "", REMOTE4).0, 0);
    // Wrong answers lead to flows of that name as well.
    ctl(
        &world,
        &[
            "impair",
            "set",
            "name x.test dns=192.0.2.1",
            "name x.test refuse",
        ],
    )
    .success();
    assert_eq!(curl(&world, "", WWW).0, 0);
    assert_eq!(curl(&world, "-4", "x.test").0, 7);
    assert_eq!(curl(&world, "", REMOTE4).0, 7);
}
