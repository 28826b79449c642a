//! The control socket, and `gw ctl`.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::ctl::{SOCKET, controlled, ctl};
use crate::harness::peer::tcp_server;
use crate::harness::{
    GATEWAY4, GUEST4, Gw, Launch, PATIENCE, REMOTE4, World, eventually, gw_binary,
};

/// Python for clients that are not `gw ctl`.
const CLIENT: &str = r#"
import json
def control(path="/run/gw.sock"):
    s = socket(AF_UNIX)
    s.settimeout(PATIENCE)
    s.connect(path)
    return s
def ask(s, verb, **members):
    s.sendall(json.dumps({"verb": verb, **members}).encode() + b"\n")
    return json.loads(read_line(s))
def to_end(s):
    data = b""
    try:
        while part := s.recv(65536):
            data += part
    except ConnectionResetError:
        pass
    return [json.loads(line) for line in data.splitlines()]
def code(answers):
    return [a["error"]["code"] if "error" in a else a["reply"] for a in answers]
"#;

fn client(source: &str) -> String {
    format!("{CLIENT}{source}")
}

#[test]
fn the_gateway_says_who_it_is() {
    let world = World::new();
    let gw = controlled(&world, &[]);
    let info = ctl(&world, &["info"]).success().stdout;
    for part in [
        format!("gw {}", env!("CARGO_PKG_VERSION")),
        gw.inner_pid().to_string(),
        "tap0, MTU 1500 bytes".to_owned(),
        "10.0.2.0/24: gateway 10.0.2.2, resolver 10.0.2.3, guest 10.0.2.100".to_owned(),
        "fd00::/64".to_owned(),
    ] {
        assert!(info.contains(&part), "{part} in {info}");
    }
    let json = ctl(&world, &["info", "--json"]).success().stdout;
    assert_eq!(json.lines().count(), 1, "{json}");
    let hello: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(hello["protocol"], 1);
    assert_eq!(hello["pid"], gw.inner_pid());
    // What people do without any client.
    world
        .outer
        .sh(&format!(
            "echo '{{\"verb\":\"hello\"}}' | socat -t 5 - UNIX-CONNECT:{SOCKET}"
        ))
        .success()
        .says("\"reply\":\"hello\"");
}

#[test]
fn the_socket_is_this_users_and_goes_with_the_gateway() {
    let world = World::new();
    let gw = controlled(&world, &[]);
    let stat = || world.outer.ok(&format!("stat -c '%a %u %F' {SOCKET}"));
    assert_eq!(stat(), "600 0 socket\n");
    if world.allow_nobody() {
        let nobody = || {
            Launch::new(&world.outer, &["ctl", SOCKET, "shutdown"])
                .by_nobody()
                .run()
                .failure()
        };
        nobody().says("ask as the user that runs the gateway, or as root");
        // Who opens the file to others does not open the gateway to them.
        world.outer.ok(&format!("chmod 666 {SOCKET}"));
        nobody().says("user 65534 may not control a gateway of user 0");
        world
            .outer
            .sh(&format!(
                "setpriv --reuid=65534 --regid=65534 --clear-groups \
                 socat -t 5 - UNIX-CONNECT:{SOCKET} </dev/null"
            ))
            .says("\"code\":\"not_allowed\"");
        ctl(&world, &["info"]).success();
    }
    gw.terminate();
    world.outer.ok(&format!("test ! -e {SOCKET}"));
}

#[test]
fn a_user_controls_its_own_gateway_and_root_everybodys() {
    let world = World::new();
    if !world.allow_nobody() {
        return;
    }
    world
        .outer
        .ok("mkdir -m 700 /run/nobody && chown 65534 /run/nobody");
    let guest = world.guest_of_nobody();
    let path = "/run/nobody/gw.sock";
    let _gw = Launch::netns(&world.outer, &guest, &["--control", path])
        .by_nobody()
        .start();
    let info = || Launch::new(&world.outer, &["ctl", path, "info"]);
    info().by_nobody().run().success();
    info().run().success();
}

#[test]
fn a_stale_socket_is_replaced_and_nothing_else() {
    let world = World::new();
    let mut gw = controlled(&world, &[]);
    gw.signal(Signal::SIGKILL);
    gw.wait(PATIENCE);
    drop(gw);
    world.outer.ok(&format!("test -S {SOCKET}"));
    ctl(&world, &["info"])
        .failure()
        .says("nobody listens on '/run/gw.sock': the gateway that made it was killed");

    let gw = controlled(&world, &[]);
    ctl(&world, &["info"]).success();
    let guest = world.another_guest();
    let refused = |path| {
        let launch = Launch::netns(&world.outer, &guest, &["--control", path]);
        match launch.try_start() {
            Ok(_) => panic!("it got ready with {path}"),
            Err(finished) => finished,
        }
    };
    refused(SOCKET).says("somebody listens at '/run/gw.sock' already");
    ctl(&world, &["info"]).success();

    world.outer.ok("echo mine > /run/file; mkdir /run/folder");
    refused("/run/file").says("'/run/file' is there already and no socket");
    assert_eq!(world.outer.ok("cat /run/file"), "mine\n");
    refused("/run/folder").says("'/run/folder' is there already and no socket");
    refused("/run/no/such").says("No such file or directory");
    let long = format!("/run/{}", "x".repeat(120));
    refused(&long).says("too long");

    // Somebody else's by now: left alone.
    world
        .outer
        .ok(&format!("rm {SOCKET}; echo mine > {SOCKET}"));
    gw.terminate();
    assert_eq!(world.outer.ok(&format!("cat {SOCKET}")), "mine\n");
}

#[test]
fn mistakes_have_remedies() {
    let world = World::new();
    let at = |path: &str, arguments: &[&str]| {
        Launch::new(&world.outer, &[&["ctl", path], arguments].concat()).run()
    };
    let missing = at("/run/none", &["info"]);
    assert_eq!(missing.code(), 1);
    missing.says("no gateway was started with --control /run/none");
    world.outer.ok("echo x > /run/file");
    at("/run/file", &["info"]).failure().says("is no socket");
    let _other = world.outer.serve(
        "l = socket(AF_UNIX); l.bind('/run/other'); l.listen(1); ready()
s, _ = l.accept(); read_line(s); s.sendall(b'hello\\n'); sys.stdin.readline()",
    );
    at("/run/other", &["info"])
        .failure()
        .says("does not answer as gw does");
    for arguments in [
        &["wait"][..],
        &[],
        &["forward", "add"],
        &["forward", "add", "80:81:82:83"],
        &["forward", "remove", "x"],
        &["host", "add", "db"],
        &["log", "loud"],
        &["flows", "close", "-"],
    ] {
        assert_eq!(at("/run/none", arguments).code(), 2, "{arguments:?}");
    }
}

#[test]
fn names_come_and_go() {
    let world = World::new();
    let _gw = controlled(&world, &[]);
    let dig = || {
        world
            .guest
            .ok("dig +short db.example A; dig +short db.example AAAA")
    };
    let both = ["db.example=192.0.2.7", "DB.example=2001:db8::7"];
    ctl(&world, &["host", "add", both[0], both[1]]).success();
    // Again is nothing new.
    ctl(&world, &["host", "add", both[0]]).success();
    assert_eq!(dig(), "192.0.2.7\n2001:db8::7\n");
    let list = ctl(&world, &["host", "list"]).success().stdout;
    assert!(
        list.contains("db.example") && list.contains("2001:db8::7"),
        "{list}"
    );
    let json = ctl(&world, &["--json", "host", "list"]).success().stdout;
    assert!(
        json.contains(r#"{"name":"db.example","addr":"192.0.2.7"}"#),
        "{json}"
    );
    ctl(&world, &["host", "remove", both[0], both[1]]).success();
    let gone = ctl(&world, &["host", "remove", both[0]]);
    assert_eq!(gone.code(), 1);
    gone.says("there is no db.example=192.0.2.7");
    let list = ctl(&world, &["--json", "host", "list"]).success().stdout;
    assert_eq!(list, "{\"reply\":\"hosts\",\"hosts\":[],\"next\":null}\n");
}

#[test]
fn lists_are_told_page_by_page() {
    let world = World::new();
    let _gw = controlled(&world, &[]);
    world.outer.py(&client(
        r#"
s = control()
for i in range(1234):
    assert ask(s, "host_add", name=f"h{i}.example", addr="192.0.2.1") == {"reply": "done"}
seen, after = [], {}
while True:
    page = ask(s, "host_list", limit=100, **after)
    seen += [h["name"] for h in page["hosts"]]
    if page["next"] is None:
        break
    assert len(page["hosts"]) == 100
    after = {"after": page["next"]}
assert len(seen) == 1234 and len(set(seen)) == 1234, len(seen)
assert len(ask(s, "host_list", limit=10**6)["hosts"]) == 500
assert code([ask(s, "host_list", after="nowhere")]) == ["bad_request"]
for i in range(4096 - 1234):
    assert ask(s, "host_add", name=f"i{i}.example", addr="192.0.2.1") == {"reply": "done"}
assert code([ask(s, "host_add", name="more.example", addr="192.0.2.1")]) == ["refused"]
"#,
    ));
    let pages = ctl(&world, &["--json", "host", "list"]).success().stdout;
    assert_eq!(pages.lines().count(), 9);
    let table = ctl(&world, &["host", "list"]).success().stdout;
    assert_eq!(table.matches(".example").count(), 4096);
}

#[test]
fn leases_are_listed() {
    let world = World::new();
    let _gw = Gw::attach(&world, &["--no-configure", "--control", SOCKET]);
    let none = ctl(&world, &["leases", "--json"]).success().stdout;
    assert_eq!(none, "{\"reply\":\"leases\",\"leases\":[]}\n");
    world.guest.ok("ip link set tap0 up && \
         udhcpc -i tap0 -f -q -n -t 5 -T 1 -s /bin/true -x hostname:Box 2>&1");
    let leases = ctl(&world, &["leases"]).success().stdout;
    let mac = world.guest.ok(
        "cat /sys/class/net/tap0/address 2>/dev/null || ip -br link show tap0 | awk '{print $3}'",
    );
    for part in ["10.0.2.15", mac.trim(), "box"] {
        assert!(leases.contains(part), "{part} in {leases}");
    }
}

#[test]
fn the_log_gets_louder_and_quieter() {
    let world = World::new();
    let gw = controlled(&world, &[]);
    let lines = || gw.stderr().matches("DEBUG").count();
    assert_eq!(lines(), 0);
    ctl(&world, &["log", "debug"]).success();
    // A request that is refused is told in detail.
    ctl(&world, &["host", "remove", "a=192.0.2.1"]).failure();
    let loud = lines();
    assert!(loud > 0, "{}", gw.stderr());
    ctl(&world, &["log", "warn"]).success();
    ctl(&world, &["host", "remove", "a=192.0.2.1"]).failure();
    assert_eq!(lines(), loud);
    gw.terminate();
}

#[test]
fn statistics_count() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 7000);
    let _gw = controlled(&world, &[]);
    world
        .guest
        .py(&format!("download({REMOTE4:?}, 7000, 1000000)"));
    world.guest.ok("ping -c 1 -W 0.2 10.0.2.77 || true");
    let stats = ctl(&world, &["stats", "--json"]).success().stdout;
    let stats: serde_json::Value = serde_json::from_str(&stats).expect("JSON");
    let sent = stats["to_guest"]["bytes"].as_u64().expect("a number");
    assert!((1_000_000..2_000_000).contains(&sent), "{stats}");
    assert!(stats["from_guest"]["frames"].as_u64() > Some(3), "{stats}");
    assert_eq!(stats["memory"]["budget"], 256 << 20);
    let shown = ctl(&world, &["stats"]).success().stdout;
    assert!(shown.contains("of 268435456 bytes"), "{shown}");
}

#[test]
fn flows_are_listed_and_closed() {
    let world = World::new();
    let _remote = tcp_server(&world.remote, 7000);
    let _inside = tcp_server(&world.guest, 7100);
    let _gw = controlled(&world, &[]);
    ctl(&world, &["forward", "add", "8080:7100"]).success();
    let hold = |at: &str, port: u16| {
        format!(
            "s = connect('{at}', {port}); s.sendall(b'echo\\nx'); s.recv(1); ready()
print(outcome(lambda: s.recv(1)))"
        )
    };
    let mut out = world.guest.serve(&hold(REMOTE4, 7000));
    let mut inbound = world.outer.serve(&hold("127.0.0.1", 8080));
    let list = |options: &[&str]| -> Vec<serde_json::Value> {
        let arguments = [&["--json", "flows"], options].concat();
        let json = ctl(&world, &arguments).success().stdout;
        let pages = json.lines().map(|page| {
            let page: serde_json::Value = serde_json::from_str(page).expect("JSON");
            page["flows"].as_array().expect("a list").clone()
        });
        pages.flatten().collect()
    };
    let all = list(&["--protocol", "tcp"]);
    assert_eq!(all.len(), 2, "{all:?}");
    let mine = list(&[
        "--direction",
        "outbound",
        "--addr",
        REMOTE4,
        "--port",
        "7000",
    ]);
    assert_eq!(mine.len(), 1, "{mine:?}");
    assert_eq!(mine[0]["remote"], format!("{REMOTE4}:7000"));
    assert_eq!(
        (&mine[0]["to_guest"], &mine[0]["from_guest"]),
        (&1.into(), &6.into())
    );
    let clients = list(&["--direction", "inbound"]);
    assert_eq!(clients.len(), 1, "{clients:?}");
    assert_eq!(clients[0]["guest"], format!("{GUEST4}:7100"));
    assert!(list(&["--port", "7001"]).is_empty());
    assert_eq!(list(&["--limit", "1"]).len(), 1);
    let table = ctl(&world, &["flows"]).success().stdout;
    assert!(table.contains(&format!("{REMOTE4}:7000")), "{table}");

    let ids: Vec<&str> = all
        .iter()
        .map(|f| f["id"].as_str().expect("an id"))
        .collect();
    ctl(&world, &["flows", "close", ids[0], ids[1]]).success();
    out.wait_line("ECONNRESET");
    inbound.wait_line("ECONNRESET");
    ctl(&world, &["flows", "close", ids[0]])
        .failure()
        .says("there is no flow");
}

#[test]
fn many_flows_are_told_page_by_page() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 7000);
    let _gw = controlled(&world, &[]);
    let mut crowd = world.guest.serve(&format!(
        "raise_limits(); held = [connect({REMOTE4:?}, 7000) for i in range(2100)]; ready()
sys.stdin.readline()"
    ));
    world.outer.py(&client(
        r#"
s = control()
def pages(**options):
    after = {}
    while True:
        page = ask(s, "flow_list", **after, **options)
        yield page["flows"]
        if page["next"] is None:
            return
        after = {"after": page["next"]}
tcp = [f["guest"] for p in pages(filter={"protocol": "tcp"}) for f in p]
assert len(tcp) == len(set(tcp)) == 2100, len(tcp)
small = [f for p in pages(limit=50) for f in p]
assert len(small) >= 2100
last = tcp[-1].split(":")[1]
found = [p for p in pages(filter={"port": int(last)})]
assert [f["guest"] for p in found for f in p] == [tcp[-1]], found
assert code([ask(s, "flow_list", after="?")]) == ["bad_request"]
assert code([ask(s, "flow_close", id="ffffffffffffffff")]) == ["not_found"]
"#,
    ));
    crowd.write(b"\n");
    crowd.done();
}

#[test]
fn forwards_come_and_go() {
    let world = World::new();
    let _inside = tcp_server(&world.guest, 7000);
    let _outside = world.outer.serve("serve_tcp(7500)");
    let _gw = controlled(&world, &[]);
    let fetch = |port: u16| {
        let source = format!("print(outcome(lambda: download('127.0.0.1', {port}, 100000)))");
        world.outer.py(&source)
    };
    assert_eq!(fetch(8080), "ECONNREFUSED");
    let added = ctl(
        &world,
        &["forward", "add", "8080:7000", "8000-8001:7000-7001"],
    );
    assert_eq!(added.success().stdout, "1\n2\n");
    assert_eq!(fetch(8080), "None");
    assert_eq!(fetch(8000), "None");
    // Again: the same one.
    let again = ctl(&world, &["--json", "forward", "add", "8080:7000/tcp"]);
    assert_eq!(again.success().stdout, "{\"reply\":\"forward\",\"id\":1}\n");
    ctl(&world, &["forward", "add", "8080:7001"])
        .failure()
        .says("wants a port that forward");
    let exposed = ctl(&world, &["forward", "add", "--expose-host", "7500:7600"]);
    let id = exposed.success().stdout;
    world
        .guest
        .py(&format!("download({GATEWAY4:?}, 7600, 100000)"));
    let list = ctl(&world, &["forward", "list"]).success().stdout;
    for part in [
        "8080:7000/tcp",
        "8000-8001:7000-7001/tcp",
        "7500:7600/tcp",
        "guest to host",
    ] {
        assert!(list.contains(part), "{part} in {list}");
    }
    // What is open stays so.
    let mut open = world.outer.serve(
        "s = connect('127.0.0.1', 8080); s.sendall(b'echo\\nx'); assert s.recv(1) == b'x'; ready()
sys.stdin.readline(); s.sendall(b'y'); assert s.recv(1) == b'y'",
    );
    ctl(&world, &["forward", "remove", "8080:7000", "2"]).success();
    ctl(&world, &["forward", "remove", id.trim()]).success();
    assert_eq!(fetch(8080), "ECONNREFUSED");
    assert_eq!(fetch(8000), "ECONNREFUSED");
    open.write(b"\n");
    open.done();
    ctl(&world, &["forward", "remove", "1"])
        .failure()
        .says("there is no forward 1");
    let json = ctl(&world, &["forward", "list", "--json"]).success().stdout;
    assert_eq!(
        json,
        "{\"reply\":\"forwards\",\"forwards\":[],\"next\":null}\n"
    );
    let next = ctl(&world, &["forward", "add", "8080:7000"])
        .success()
        .stdout;
    assert!(next.trim() > id.trim(), "ids are not used again");
}

/// Clients of every bad kind, while the guest transfers.
#[test]
fn bad_clients_harm_nobody() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 7000);
    let gw = controlled(&world, &[]);
    world
        .guest
        .py(&format!("download({REMOTE4:?}, 7000, 100000)"));
    let before = gw.descriptors();
    let mut transfer = world.guest.spawn_python(&format!(
        "print('started', flush=True)
for i in range(3): download({REMOTE4:?}, 7000, 100_000_000); upload({REMOTE4:?}, 7000, 50_000_000)"
    ));
    transfer.wait_line("started");
    world.outer.py(&client(
        r#"
# Malformed: told so each time, and the connection goes on.
s = control()
for line in [b"", b"\xff\xfe", b"hello", b"[]", b"{}", b'{"verb":"?"}', b"[" * 60000, b'{"x":' * 10000,
             b'{"verb":"forward_add","forward":7}', b'{"verb":"leases"', b"\0" * 100, b"7" * 60000]:
    s.sendall(line + b"\n")
    if line:
        assert "error" in json.loads(read_line(s)), line
assert ask(s, "hello")["reply"] == "hello"
# Oversized, with and without an end.
for ending in b"", b"\n":
    s = control()
    try:
        s.sendall(b"x" * 1_000_000 + ending)
    except OSError:
        pass
    assert code(to_end(s)) == ["too_long"]
# Abandoned at every stage.
for part in b"", b"{", b'{"verb":"hello"}\n', b'{"verb":"hello"}\n' * 1000, b'{"verb":"hello"}\n{"ve':
    s = control()
    s.sendall(part)
    s.close()
    s = control()
    s.sendall(part)
    s.shutdown(SHUT_WR)
    s.close()
# Slow: half a line and silence, byte by byte, an answer that is never read.
silent = control()
silent.sendall(b'{"verb":"he')
deaf = control()
deaf.setblocking(False)
try:
    while True:
        deaf.send(b'{"verb":"hello"}\n' * 100)
except BlockingIOError:
    pass
start = time.monotonic()
assert code(to_end(silent)) == ["too_slow"]
assert 4 < time.monotonic() - start < 9
# Too many at once: each is answered or told why not.
time.sleep(0.2)
clients = []
for i in range(200):
    s = control()
    try:
        s.sendall(b'{"verb":"hello"}\n')
    except OSError:
        pass
    clients.append(s)
said = []
for s in clients:
    said += code([json.loads(read_line(s))])
assert set(said) == {"hello", "too_many_clients"}, said
assert 25 < said.count("hello") <= 32, said.count("hello")
for s in clients:
    s.close()
"#,
    ));
    transfer.done();
    eventually("the clients' descriptors to be closed", PATIENCE, || {
        (gw.descriptors() <= before + 1).then_some(())
    });
    ctl(&world, &["info"]).success();
}

/// How long to add and remove: `GW_SOAK_SECONDS`, else a few seconds.
fn soak_seconds() -> u64 {
    let given = std::env::var("GW_SOAK_SECONDS").ok();
    given.map_or(3, |text| {
        text.parse()
            .expect("GW_SOAK_SECONDS is a number of seconds")
    })
}

#[test]
fn adding_and_removing_for_long_leaks_nothing() {
    let world = World::new();
    let _inside = tcp_server(&world.guest, 7000);
    let gw = controlled(&world, &[]);
    let source = client(
        r#"
def turn(s, n):
    ids = [ask(s, "forward_add", forward=f)["id"] for f in (
        {"publish": "8080:7000"}, {"publish": "127.0.0.1:8081:7000/udp"}, {"publish": "[::1]:8082:7000"},
        {"publish": "9000-9015:9000-9015"}, {"publish": "unix:/run/forward.sock:7000"},
        {"expose_host": "7500"})]
    assert ids == sorted(set(ids)), ids
    assert code([ask(s, "forward_add", forward={"publish": "8080:7001"})]) == ["refused"]
    assert len(ask(s, "forward_list")["forwards"]) == len(ids)
    if n % 20 == 0:
        download("127.0.0.1", 8080, 1000)
    assert ask(s, "host_add", name=f"h{n}.example", addr="192.0.2.1") == {"reply": "done"}
    assert ask(s, "host_remove", name=f"h{n}.example", addr="192.0.2.1") == {"reply": "done"}
    for i in ids:
        assert ask(s, "forward_remove", forward={"id": i}) == {"reply": "done"}
    assert code([ask(s, "forward_remove", forward={"id": ids[0]})]) == ["not_found"]
def soak(seconds):
    end = time.monotonic() + seconds
    n = 0
    while time.monotonic() < end:
        # A connection for some, a new one for others.
        if n % 10 == 0:
            s = control()
        turn(s, n)
        n += 1
    print(n)
"#,
    );
    let run = |seconds: u64| {
        let soak = format!("{source}\nsoak({seconds})");
        let mut run = world.outer.spawn_python(&soak);
        let (status, printed) = run.finish(Duration::from_secs(seconds + 20));
        assert!(status.success(), "{printed}");
        printed.trim().parse::<u64>().expect("a number of turns")
    };
    run(1);
    let settled = || {
        // UDP flows and closing connections outlive their forwards a while.
        ctl(&world, &["stats"]).success();
        (gw.descriptors(), gw.resident_kib())
    };
    let (descriptors, memory) = settled();
    let turns = run(soak_seconds());
    assert!(turns > 20, "{turns} turns");
    eventually("all descriptors to be closed", PATIENCE, || {
        (gw.descriptors() <= descriptors).then_some(())
    });
    let grown = gw.resident_kib().saturating_sub(memory);
    assert!(grown < 1024, "{turns} turns left {grown} KiB");
    world.outer.ok("test ! -e /run/forward.sock");
    assert_eq!(
        world
            .outer
            .ok("ss -Hltu 'sport >= :8080 and sport <= :9015'"),
        ""
    );
}

#[test]
fn a_client_may_end_the_gateway() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 7000);
    let mut gw = controlled(&world, &[]);
    let mut open = world.guest.serve(&format!(
        "s = connect({REMOTE4:?}, 7000); s.sendall(b'echo\\nx'); s.recv(1); ready()
print(outcome(lambda: s.recv(1)))"
    ));
    ctl(&world, &["shutdown"]).success();
    // The answer came when all was over.
    world.outer.ok(&format!("test ! -e {SOCKET}"));
    assert!(gw.wait(Duration::from_secs(2)).success());
    open.wait_line("ECONNRESET");
}

#[test]
fn a_command_can_ask_its_own_gateway() {
    let world = World::new();
    let gw = gw_binary().display().to_string();
    let run = Launch::new(
        &world.outer,
        &["run", "--control", SOCKET, "--", &gw, "ctl", SOCKET, "info"],
    );
    run.run().success().says("tap0, MTU 1500 bytes");
    let run = Launch::new(
        &world.outer,
        &[
            "run",
            "--control",
            SOCKET,
            "--",
            "sh",
            "-c",
            &format!("{gw} ctl {SOCKET} shutdown; exec sleep 20"),
        ],
    );
    // As when --exit-fd ends it: the command is ended by SIGTERM.
    let ended = run.run();
    assert_eq!(ended.code(), 143);
    ended.within(Duration::from_secs(5));
    world.outer.ok(&format!("test ! -e {SOCKET}"));
}
