//! The flow log: every line of real runs is what its schema says, and true.

use serde_json::Value;

use crate::harness::ctl::{SOCKET, ctl};
use crate::harness::peer::{dns_server, tcp_server, udp_echo};
use crate::harness::{
    BLACK_HOLE4, DNS4, GATEWAY4, GUEST4, Gw, HOST4, Launch, NO_HOST4, PATIENCE, REMOTE4, REMOTE6,
    Running, World, eventually, gw_binary, require,
};

const LOG: &str = "/run/flows";
/// The lines of a log, each checked against the schema.
#[track_caller]
fn parsed(text: &str) -> Vec<Value> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/docs/schema/flow-log.schema.json"
    );
    let schema = std::fs::read_to_string(path).expect("the schema");
    let schema: Value = serde_json::from_str(&schema).expect("JSON");
    let validator = jsonschema::draft202012::new(&schema).expect("a schema");
    assert!(text.is_empty() || text.ends_with('\n'), "half a line");
    text.lines()
        .map(|line| {
            let value: Value = serde_json::from_str(line).expect("JSON");
            if let Err(error) = validator.validate(&value) {
                panic!("{error} in {line}");
            }
            value
        })
        .collect()
}

fn lines(world: &World) -> Vec<Value> {
    parsed(&world.outer.ok(&format!("cat {LOG}")))
}

/// Flows that were closed. Each has one line of each kind, in order, that agree.
#[track_caller]
fn closed(lines: &[Value]) -> Vec<Value> {
    let mut open = Vec::new();
    let mut closed = Vec::new();
    for line in lines {
        match line["event"].as_str() {
            Some("open") => open.push(line),
            Some("close") => {
                let at = open.iter().position(|o| o["flow"] == line["flow"]);
                let began = open.remove(at.unwrap_or_else(|| panic!("not open: {line}")));
                for member in ["id", "protocol", "direction", "name", "process"] {
                    assert_eq!(began[member], line[member], "{member} of {line}");
                }
                let seconds = |time: &Value| time.as_str().expect("a time")[..17].to_owned();
                assert_eq!(seconds(&began["time"]), seconds(&line["opened"]));
                closed.push(line.clone());
            }
            _ => panic!("{line}"),
        }
    }
    assert!(open.is_empty(), "not closed: {open:#?}");
    closed
}

/// The only flow to `remote`.
#[track_caller]
fn to<'a>(flows: &'a [Value], remote: &str) -> &'a Value {
    let mut found = flows.iter().filter(|flow| flow["remote"] == remote);
    let flow = found.next();
    let flow = flow.unwrap_or_else(|| panic!("no flow to {remote} in {flows:#?}"));
    assert_eq!(found.next(), None, "another to {remote}");
    flow
}

#[track_caller]
fn ended(flow: &Value, verdict: &str, how: &str, by: &str) {
    let said = (&flow["verdict"], &flow["how"], &flow["by"]);
    let (verdict, how, by) = (verdict.into(), how.into(), by.into());
    assert_eq!(said, (&verdict, &how, &by), "{flow:#}");
}

/// Resets its first connection.
fn resetting_server(world: &World, port: u16) -> Running {
    world.remote.serve(&format!(
        "l = listen({port}); ready(); s, _ = l.accept(); s.recv(1); reset(s); time.sleep(60)"
    ))
}

#[test]
fn every_way_to_end() {
    let world = World::new();
    // A connect that nobody answers fails in 3 s, not in 2 minutes.
    // The guest gives up as early, or its next SYN would begin another flow.
    for side in [&world.outer, &world.guest] {
        side.ok("echo 1 > /proc/sys/net/ipv4/tcp_syn_retries");
    }
    let _servers = (
        tcp_server(&world.remote, 7000),
        resetting_server(&world, 7002),
        udp_echo(&world.remote, 7003),
        tcp_server(&world.remote, 7004),
        tcp_server(&world.remote, 7005),
        tcp_server(&world.remote, 7006),
    );
    let guest_server = tcp_server(&world.guest, 80);
    let args = ["--flow-log", LOG, "--control", SOCKET, "-p", "8080:80"];
    let gw = Gw::attach(&world, &args);
    let mut kept = world.guest.spawn_python(&format!(
        r#"
download("{REMOTE4}", 7000, 100_000)
upload("{REMOTE6}", 7000, 50_000)
print(outcome(lambda: connect("{REMOTE4}", 9)), outcome(lambda: connect("{NO_HOST4}", 80)))
print(outcome(lambda: connect("{GATEWAY4}", 1)))
print(outcome(lambda: connect("{BLACK_HOLE4}", 80, timeout=5)))
s = connect("{REMOTE4}", 7004)
s.sendall(b"echo\nhello\n")
assert read_exactly(s, 6) == b"hello\n"
reset(s)
s = connect("{REMOTE4}", 7002)
s.sendall(b"x")
print(outcome(lambda: s.recv(1)))
u = udp("{REMOTE4}", connected=7003)
for _ in range(3):
    u.send(b"12345")
    assert u.recv(100) == b"12345"
v = udp("{REMOTE4}", connected=11)
v.send(b"?")
print(outcome(lambda: v.recv(1)))
killed = connect("{REMOTE4}", 7005)
stays = connect("{REMOTE4}", 7006)
print("all done", flush=True)
time.sleep(60)
"#
    ));
    kept.wait_line("all done");
    world.guest.ok(&format!("ping -c 2 -i 0.2 {REMOTE4}"));
    world
        .remote
        .py(&format!("download('{HOST4}', 8080, 30000)"));
    let id = eventually("the flow to be killed", PATIENCE, || {
        let remote = format!("{REMOTE4}:7005");
        let lines = lines(&world);
        let line = lines.iter().find(|line| line["remote"] == remote.as_str());
        line.and_then(|line| line["id"].as_str().map(str::to_owned))
    });
    ctl(&world, &["flows", "close", &id]).success();
    gw.terminate();
    drop(guest_server);

    let flows = closed(&lines(&world));
    let at = |port: u16| format!("{REMOTE4}:{port}");
    let fetched = to(&flows, &at(7000));
    ended(fetched, "connected", "finished", "host");
    assert_eq!(fetched["protocol"], "tcp");
    assert_eq!(fetched["direction"], "outbound");
    assert_eq!(fetched["to_guest"]["bytes"], 100_000);
    // The MSS of an MTU of 1500.
    let packets = fetched["to_guest"]["packets"].as_u64().expect("a count");
    assert!((69..100).contains(&packets), "{fetched:#}");
    for time in ["rtt_seconds", "connect_seconds", "guest_rtt_seconds"] {
        let time = fetched[time].as_f64().expect("a time");
        assert!((0.0..1.0).contains(&time), "{fetched:#}");
    }
    let sent = to(&flows, &format!("[{REMOTE6}]:7000"));
    ended(sent, "connected", "finished", "guest");
    assert_eq!(sent["half_closed_by"], "guest");
    assert_eq!(sent["from_guest"]["bytes"], 50_004);
    let packets = sent["from_guest"]["packets"].as_u64().expect("a count");
    assert!((36..100).contains(&packets), "{sent:#}");
    for port in [9, 11] {
        ended(to(&flows, &at(port)), "refused", "turned_away", "host");
    }
    let no_host = to(&flows, &format!("{NO_HOST4}:80"));
    ended(no_host, "unreachable", "turned_away", "host");
    let policy = to(&flows, &format!("{GATEWAY4}:1"));
    ended(policy, "unreachable", "turned_away", "gateway");
    assert_eq!(policy["id"], Value::Null);
    let silent = to(&flows, &format!("{BLACK_HOLE4}:80"));
    ended(silent, "no_answer", "turned_away", "host");
    ended(to(&flows, &at(7004)), "connected", "reset", "guest");
    ended(to(&flows, &at(7002)), "connected", "reset", "host");
    ended(to(&flows, &at(7005)), "connected", "killed", "gateway");
    ended(to(&flows, &at(7006)), "connected", "shutdown", "gateway");
    let udp = to(&flows, &at(7003));
    ended(udp, "connected", "shutdown", "gateway");
    assert_eq!(udp["protocol"], "udp");
    for side in ["to_guest", "from_guest"] {
        assert_eq!(udp[side]["bytes"], 15);
        assert_eq!(udp[side]["packets"], 3);
    }
    let inbound = flows.iter().find(|flow| flow["direction"] == "inbound");
    let inbound = inbound.expect("the client of the forward");
    assert_eq!(inbound["guest"], format!("{GUEST4}:80"));
    assert_eq!(inbound["to_guest"]["bytes"], "get 30000\n".len());
    assert_eq!(inbound["from_guest"]["bytes"], 30_000);
    ended(inbound, "connected", "finished", "guest");
    let echo = to(&flows, &format!("{REMOTE4}:0"));
    assert_eq!(
        (&echo["protocol"], &echo["verdict"]),
        (&"echo".into(), &"connected".into())
    );
    assert_eq!(echo["to_guest"]["packets"], 2);
}

#[test]
fn a_closed_udp_port_is_refused() {
    let world = World::new();
    let gw = Gw::attach(&world, &["--flow-log", LOG]);
    let said = world.guest.py(&format!(
        "u = udp('{REMOTE4}', connected=9); u.send(b'?'); print(outcome(lambda: u.recv(1)))"
    ));
    assert_eq!(said, "ECONNREFUSED");
    gw.terminate();
    let flows = closed(&lines(&world));
    let flow = to(&flows, &format!("{REMOTE4}:9"));
    ended(flow, "refused", "turned_away", "host");
}

/// Answers one request of HTTP after the other.
fn web_server(world: &World) -> Running {
    world.remote.serve(
        r#"
l = listen(80)
ready()
while True:
    s, _ = l.accept()
    s.recv(4096)
    # As long as a client's process is to be seen on a busy machine.
    time.sleep(0.05)
    s.sendall(b"HTTP/1.0 200 OK\r\n\r\nhi")
    s.close()
"#,
    )
}

#[test]
fn names_and_processes() {
    require("curl");
    let world = World::new();
    let _dns = dns_server(&world.remote, REMOTE4, REMOTE4);
    let _servers = (
        web_server(&world),
        tcp_server(&world.remote, 7000),
        udp_echo(&world.remote, 7001),
    );
    let gw = Gw::attach(&world, &["--flow-log", LOG, "--control", SOCKET]);
    world.guest.ok("curl -s http://www.example/");
    let mut python = world.guest.spawn_python(&format!(
        "s = connect('{REMOTE4}', 7000)\nu = udp(port=7777)\nu.sendto(b'x', ('{REMOTE4}', 7001))\n\
         print('there', os.getpid(), flush=True)\ntime.sleep(60)"
    ));
    let said = python.wait_line("there");
    let pid: u64 = said
        .rsplit(' ')
        .next()
        .and_then(|pid| pid.parse().ok())
        .expect("a number");
    let listed = Launch::new(
        &world.outer,
        &["ctl", SOCKET, "--json", "flows", "--processes"],
    );
    let listed: Value = serde_json::from_str(&listed.run().success().stdout).expect("JSON");
    let listed = listed["flows"].as_array().expect("flows");
    let tcp = listed.iter().find(|flow| flow["protocol"] == "tcp");
    let tcp = tcp.expect("the connection");
    assert_eq!(tcp["name"], "www.example", "the address has that name");
    assert_eq!(tcp["process"]["pid"], pid);
    ctl(&world, &["flows", "--processes"])
        .success()
        .says(&format!("python3 ({pid})"));
    gw.terminate();

    let flows = closed(&lines(&world));
    let fetched = to(&flows, &format!("{REMOTE4}:80"));
    assert_eq!(fetched["name"], "www.example");
    assert_eq!(fetched["process"]["name"], "curl", "{fetched:#}");
    assert_eq!(fetched["process"]["exe"], "/usr/bin/curl");
    for port in [7000, 7001] {
        let flow = to(&flows, &format!("{REMOTE4}:{port}"));
        let process = &flow["process"];
        assert_eq!(process["pid"], pid, "{flow:#}");
        assert_eq!(process["name"], "python3");
        let exe = process["exe"].as_str().expect("a path");
        assert!(exe.contains("python3"), "{exe}");
    }
}

#[test]
fn short_flows_have_processes_too() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 7000);
    let gw = Gw::attach(&world, &["--flow-log", LOG]);
    for _ in 0..10 {
        // So long as to be seen on a busy machine.
        world.guest.ok(&format!(
            "(printf 'echo\\nhi\\n'; sleep 0.05) | nc -N {REMOTE4} 7000"
        ));
        // Gone as soon as it is connected: too short for anybody to look, perhaps.
        world.guest.ok(&format!("nc -z {REMOTE4} 7000"));
    }
    gw.terminate();
    let flows = closed(&lines(&world));
    assert_eq!(flows.len(), 20);
    for flow in &flows {
        let name = &flow["process"]["name"];
        let too_short = flow["to_guest"]["bytes"] == 0;
        assert!(*name == "nc" || (too_short && name.is_null()), "{flow:#}");
    }
}

#[test]
fn a_command_and_a_descriptor() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 7000);
    let gw = gw_binary();
    let gw = gw.display();
    // The command's own output stays apart, and it has no such descriptor.
    let out = world.outer.ok(&format!(
        "{gw} run --flow-log fd:5 -- \
         sh -c '(echo echo; sleep 0.05) | nc -N {REMOTE4} 7000; ls /proc/self/fd' 5>{LOG}"
    ));
    assert!(!out.lines().any(|fd| fd == "5"), "{out}");
    let flows = closed(&lines(&world));
    assert_eq!(flows.len(), 1, "{flows:#?}");
    assert_eq!(flows[0]["process"]["name"], "nc");
    let text = world
        .outer
        .ok(&format!("{gw} run --flow-log - -- nc -z {REMOTE4} 7000"));
    assert_eq!(closed(&parsed(&text)).len(), 1);
    // Files are appended to.
    world.outer.ok(&format!(
        "{gw} run --flow-log {LOG} -- nc -z {REMOTE4} 7000"
    ));
    assert_eq!(lines(&world).len(), 4);
}

#[test]
fn what_cannot_be_written_is_said_at_the_start() {
    let world = World::new();
    let refused = |args: &[&str]| Gw::refused(&world, args);
    refused(&["--flow-log", "/no/such/x"]).says("'/no/such/x'");
    refused(&["--flow-log", "fd:9"]).says("--flow-log fd 9 is not open");
    refused(&["--flow-log", "fd:3"]).says("3");
    refused(&["--flow-log", "fd:4"]).says("4");
    refused(&["--flow-log", "fd:x"]).says("fd:3");
    world.outer.ok("mkfifo /run/pipe");
    refused(&["--flow-log", "/run/pipe"]).says("nobody reads the pipe '/run/pipe'");
}

fn connect_often(world: &World, times: u32) {
    world.guest.py(&format!(
        "for _ in range({times}): download('{REMOTE4}', 7000, 10)"
    ));
}

#[test]
fn a_full_disk_ends_the_log_and_nothing_else() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 7000);
    world
        .outer
        .ok("mkdir /run/small && mount -t tmpfs -o size=16k tmpfs /run/small");
    let gw = Gw::attach(&world, &["--flow-log", "/run/small/flows"]);
    connect_often(&world, 100);
    connect_often(&world, 5);
    let said = gw.terminate();
    let why = "the flow log to '/run/small/flows' ends here: No space left on device";
    assert_eq!(said.matches(why).count(), 1, "{said}");
    let lines = parsed(&world.outer.ok("cat /run/small/flows"));
    assert!((10..200).contains(&lines.len()));
}

#[test]
fn a_reader_that_leaves_ends_the_log_and_nothing_else() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 7000);
    world.outer.ok("mkfifo /run/pipe");
    let mut reader = world.outer.spawn("head -n 2 /run/pipe");
    let gw = eventually("the reader", PATIENCE, || {
        let args = ["--flow-log", "/run/pipe"];
        Launch::netns(&world.outer, &world.guest, &args)
            .try_start()
            .ok()
    });
    connect_often(&world, 20);
    let read = reader.done();
    assert_eq!(parsed(&format!("{}\n", read.trim_end())).len(), 2);
    connect_often(&world, 20);
    let said = gw.terminate();
    let why = "the flow log to '/run/pipe' ends here: Broken pipe";
    assert_eq!(said.matches(why).count(), 1, "{said}");
}

#[test]
fn a_reader_that_does_not_read_holds_nothing_up() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 7000);
    world.outer.ok("mkfifo /run/pipe");
    let _reader = world
        .outer
        .spawn("sh -c 'exec 3</run/pipe; exec sleep 100'");
    let gw = eventually("the reader", PATIENCE, || {
        let args = ["--flow-log", "/run/pipe"];
        Launch::netns(&world.outer, &world.guest, &args)
            .try_start()
            .ok()
    });
    connect_often(&world, 300);
    let said = gw.terminate();
    assert!(
        said.contains("lines of the flow log are lost: nobody reads them"),
        "{said}"
    );
}

#[test]
fn the_resolver_itself_is_no_flow_but_over_tcp() {
    require("dig");
    let world = World::new();
    let _dns = dns_server(&world.remote, REMOTE4, REMOTE4);
    let gw = Gw::attach(&world, &["--flow-log", LOG]);
    world.guest.ok(&format!("dig +short @{DNS4} www.example"));
    world
        .guest
        .ok(&format!("dig +tcp +short @{DNS4} www.example"));
    gw.terminate();
    let flows = closed(&lines(&world));
    assert_eq!(flows.len(), 1, "{flows:#?}");
    assert_eq!(flows[0]["remote"], format!("{DNS4}:53"));
    assert_eq!(
        (&flows[0]["verdict"], &flows[0]["peer"]),
        (&"dns".into(), &Value::Null)
    );
    assert_eq!(flows[0]["process"]["exe"], "/usr/bin/dig");
}

#[test]
fn impaired_flows_are_marked() {
    let world = World::new();
    let _servers = (
        tcp_server(&world.remote, 7000),
        udp_echo(&world.remote, 7001),
    );
    let rule = "proto tcp port 7000 delay=20ms";
    let gw = Gw::attach(&world, &["--flow-log", LOG, "--impair", rule]);
    connect_often(&world, 1);
    world.guest.py(&format!(
        "u = udp('{REMOTE4}', connected=7001); u.send(b'x'); u.recv(9)"
    ));
    gw.terminate();
    let flows = closed(&lines(&world));
    let delayed = to(&flows, &format!("{REMOTE4}:7000"));
    assert_eq!(delayed["impaired"], true, "{delayed:#}");
    assert!(delayed["guest_rtt_seconds"].as_f64() >= Some(0.039));
    assert_eq!(to(&flows, &format!("{REMOTE4}:7001"))["impaired"], false);
}

#[test]
fn captures_say_what_became_of_flows() {
    require("tshark");
    let world = World::new();
    let _server = tcp_server(&world.remote, 7000);
    let gw = Gw::attach(&world, &["--pcap", "/run/a.pcapng"]);
    connect_often(&world, 1);
    gw.terminate();
    let comments = world
        .outer
        .ok("tshark -n -r /run/a.pcapng -T fields -e frame.comment");
    let said = comments.lines().filter(|line| *line == "connected");
    assert_eq!(said.count(), 1, "{comments}");
}
