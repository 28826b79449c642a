//! Impairment: delay, loss and the rest of it, as programs in the guest see it.
//!
//! Lower bounds are exact: nothing comes before it is due. Upper ones are those of
//! a busy machine.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::ctl::{SOCKET, controlled, ctl};
use crate::harness::peer::{dns_server, tcp_server, udp_echo};
use crate::harness::{ALT4, GATEWAY4, Gw, Launch, PATIENCE, REMOTE4, REMOTE6, World, eventually};

const PORT: u16 = 7000;

/// Python for the guest: whether a datagram is echoed, and after how long.
const ECHO: &str = r#"
def echo(address="192.0.2.1", port=7000, timeout=1):
    with udp(family(address) == AF_INET6 and "::" or "0.0.0.0", timeout=timeout) as s:
        start = time.monotonic()
        s.sendto(b"x", (address, port))
        try:
            s.recv(10)
        except TimeoutError:
            return None
        return time.monotonic() - start
"#;

fn guest(world: &World, source: &str) -> String {
    world.guest.py(&format!("{ECHO}{source}"))
}

fn json(world: &World, arguments: &[&str]) -> Value {
    let said = ctl(world, &[arguments, &["--json"]].concat()).success();
    serde_json::from_str(said.stdout.trim()).expect("JSON")
}

/// Reasons of [`Gw`]'s drops, and how many.
fn dropped(world: &World) -> Value {
    json(world, &["stats"])["dropped"].clone()
}

/// Round-trip times of some pings to the gateway in milliseconds: the least, the
/// greatest.
fn ping(world: &World) -> (f64, f64) {
    let out = world
        .guest
        .ok(&format!("ping -n -q -c 10 -i 0.05 -W 5 {GATEWAY4}"));
    let times = out.split("mdev = ").nth(1).expect("times");
    let mut times = times.split('/').map(|t| t.parse().expect("a number"));
    let (least, greatest) = (times.next(), times.nth(1));
    (least.expect("the least"), greatest.expect("the greatest"))
}

#[test]
fn packets_are_delayed_as_long_as_asked_for() {
    let world = World::new();
    let _echo = udp_echo(&world.remote, PORT);
    let _gw = controlled(&world, &["delay=60ms"]);
    let (least, greatest) = ping(&world);
    assert!((120.0..140.0).contains(&least), "{least}");
    assert!(greatest < 300.0, "{greatest}");
    for address in [REMOTE4, REMOTE6] {
        guest(
            &world,
            &format!(
                "times = [echo({address:?}) for _ in range(10)]
assert 0.12 <= min(times) < 0.15 and max(times) < 0.4, times"
            ),
        );
    }
    // Each of the three of a handshake, and the request with its answer.
    let _server = tcp_server(&world.remote, 8000);
    guest(
        &world,
        "start = time.monotonic()
download('192.0.2.1', 8000, 10)
took = time.monotonic() - start
assert 0.24 <= took < 0.8, took",
    );
}

#[test]
fn each_direction_has_its_own_rules() {
    let world = World::new();
    for (rule, least) in [
        ("up delay=50ms", 50.0),
        ("down delay=70ms", 70.0),
        ("both delay=20ms jitter=5ms seed=1", 30.0),
    ] {
        let gw = controlled(&world, &[rule]);
        let (got, greatest) = ping(&world);
        assert!((least..least + 25.0).contains(&got), "{rule}: {got}");
        assert!(greatest < 250.0, "{rule}: {greatest}");
        gw.terminate();
    }
}

#[test]
fn the_seeds_options() {
    let world = World::new();
    let gw = Gw::attach(&world, &["--latency", "40.5", "--loss", "0"]);
    let (least, _) = ping(&world);
    assert!((81.0..105.0).contains(&least), "{least}");
    assert!(gw.terminate().contains("'delay=40.5ms'"));
    // In front of the other rules, so that a pass does not spare anything.
    let _echo = udp_echo(&world.remote, PORT);
    let gw = Gw::attach(&world, &["--loss", "1", "--impair", "pass"]);
    assert_eq!(guest(&world, "print(echo())"), "None");
    gw.terminate();
    for (arguments, says) in [
        (["--loss", "1.5"], "write a share from 0 to 1"),
        (["--loss", "nan"], "write a share from 0 to 1"),
        (["--loss", "-0.1"], "write a share from 0 to 1"),
        (["--latency", "-1"], "write milliseconds"),
        (["--latency", "80ms"], "write milliseconds"),
        (["--impair", "delay=80"], "500us, 80ms"),
        (
            ["--impair", "lag=80ms"],
            "'lag' is nothing that a rule can say",
        ),
        (["--impair", ""], "a rule says what is to happen"),
    ] {
        let refused = Gw::refused(&world, &arguments);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        assert!(refused.stderr.contains(says), "{refused:?}");
    }
    let many: Vec<&str> = [["--impair", "pass"]; 65].concat();
    let refused = Gw::refused(&world, &many);
    assert!(refused.stderr.contains("64 rules"), "{refused:?}");
}

#[test]
fn rules_are_for_what_they_say() {
    let world = World::new();
    let _echo = udp_echo(&world.remote, PORT);
    let _other = udp_echo(&world.remote, PORT + 1);
    let _gw = controlled(
        &world,
        &[
            "to 198.51.100.2 pass",
            "to 198.51.100.0/24 loss=100%",
            "port 7001 loss=100%",
            "to 2001:db8::/64 proto udp loss=100%",
            "proto icmp loss=100%",
            "name nobody.example loss=100%",
        ],
    );
    guest(
        &world,
        &format!(
            "assert echo()
assert echo({other:?})
assert not echo({lost:?})
assert not echo(port=7001)
assert not echo({REMOTE6:?})",
            other = ALT4[1],
            lost = ALT4[0],
        ),
    );
    assert!(
        !world
            .guest
            .sh(&format!("ping -c 1 -W 1 {GATEWAY4}"))
            .status
            .success()
    );
    let list = json(&world, &["impair", "list"]);
    let packets: Vec<u64> = list["rules"]
        .as_array()
        .expect("rules")
        .iter()
        .map(|rule| rule["up"]["packets"].as_u64().expect("a number"))
        .collect();
    // Nothing is counted where a rule in front has spared or lost it.
    assert_eq!(packets, [0, 1, 1, 1, 1, 0]);
    assert_eq!(dropped(&world)["impaired"], 4);
}

#[test]
fn a_schedule_counts_from_when_the_gateway_was_ready() {
    let world = World::new();
    let _echo = udp_echo(&world.remote, PORT);
    let _gw = controlled(&world, &["at 1s for 1500ms dead"]);
    let out = guest(
        &world,
        "start = time.monotonic()
s = udp(connected=7000, address='192.0.2.1')
s.setblocking(False)
def answered(number):
    s.send(str(number).encode())
    time.sleep(0.02)
    numbers = []
    while select.select([s], [], [], 0)[0]:
        numbers.append(int(s.recv(10)))
    return numbers
got = set()
sent = {}
while time.monotonic() - start < 4:
    sent[len(sent)] = time.monotonic() - start
    got.update(answered(len(sent) - 1))
time.sleep(0.2)
got.update(answered(len(sent)))
lost = [at for n, at in sent.items() if n not in got]
print(lost[0], lost[-1], len(lost), sum(lost[0] <= at <= lost[-1] for at in sent.values()))",
    );
    let numbers: Vec<f64> = out
        .split(' ')
        .map(|n| n.parse().expect("a number"))
        .collect();
    let (first, last) = (numbers[0], numbers[1]);
    // Python takes a moment to start, so that its clock is behind.
    assert!(first < 1.05, "{out}");
    assert!((1.4..1.6).contains(&(last - first)), "{out}");
    assert_eq!(numbers[2], numbers[3], "none passes in between: {out}");
}

#[test]
fn neighbours_find_each_other_on_a_dead_link() {
    let world = World::new();
    let _echo = udp_echo(&world.remote, PORT);
    let _gw = controlled(&world, &["dead"]);
    assert_eq!(
        guest(&world, "print(echo(), echo('2001:db8::1'))"),
        "None None"
    );
    let table = world.guest.ok("ip neigh show dev tap0");
    for gateway in [GATEWAY4, "fe80::"] {
        let line = table.lines().find(|line| line.starts_with(gateway));
        let known = line.is_some_and(|line| line.contains("lladdr"));
        assert!(known, "{gateway}: {table}");
    }
    ctl(&world, &["impair", "clear"]).success();
    guest(&world, "assert echo() and echo('2001:db8::1')");
}

#[test]
fn names_are_not_resolved_on_a_dead_link() {
    let world = World::new();
    let _dns = dns_server(&world.remote, REMOTE4, "192.0.2.7");
    let gw = controlled(&world, &["port 53 loss=100%"]);
    let lookup = "getent ahostsv4 www.example.test";
    let in_vain = format!("RES_OPTIONS='timeout:1 attempts:1' timeout 8 {lookup}");
    assert!(!world.guest.sh(&in_vain).status.success());
    gw.terminate();
    let _gw = controlled(&world, &["port 53 delay=100ms"]);
    assert!(world.guest.ok(lookup).contains("192.0.2.7"));
}

#[test]
fn a_rate_is_kept_both_ways() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 8000);
    let _gw = controlled(&world, &["rate=8mbit"]);
    for way in ["download", "upload"] {
        // 2 MB in frames of 1514 bytes, 1460 of them payload.
        let took: f64 = world
            .guest
            .py(&format!(
                "start = time.monotonic()
{way}('192.0.2.1', 8000, 2_000_000)
print(time.monotonic() - start)"
            ))
            .parse()
            .expect("a number");
        assert!((2.05..4.0).contains(&took), "{way}: {took}");
    }
    let list = json(&world, &["impair", "list"]);
    let rule = &list["rules"][0];
    for way in ["up", "down"] {
        let packets = rule[way]["packets"].as_u64().expect("a number");
        let bytes = rule[way]["bytes"].as_u64().expect("a number");
        assert!(packets > 1370 && bytes > 2_000_000, "{rule}");
        assert!(bytes / packets <= 1514, "no super-frames: {rule}");
    }
}

#[test]
fn a_queue_bounds_what_waits() {
    let world = World::new();
    let _gw = controlled(&world, &["up rate=1mbit queue=10k"]);
    world.guest.py("s = udp()
for i in range(100):
    s.sendto(bytes(1000), ('192.0.2.1', 9))");
    // Ten fit; while they were sent perhaps another.
    let drops = dropped(&world)["impair_queue"].as_u64().expect("some");
    assert!((80..=91).contains(&drops), "{drops}");
}

#[test]
fn copies_arrive_and_corruption_is_noticed() {
    let world = World::new();
    let mut server = world.remote.serve(
        "s = udp('192.0.2.1', 7000, timeout=3)
ready()
got = []
try:
    while True:
        got.append(s.recv(10).decode())
except TimeoutError:
    print('got', *sorted(got), flush=True)",
    );
    let gw = controlled(&world, &["up dup=100%"]);
    world.guest.py("s = udp()
for n in range(5):
    s.sendto(b'%d' % n, ('192.0.2.1', 7000))");
    assert_eq!(server.wait_line("got"), "got 0 0 1 1 2 2 3 3 4 4");
    gw.terminate();
    // No single bit gets by the checksums: IPv4's header has a sum of its own.
    let _echo = udp_echo(&world.remote, PORT + 1);
    let gw = controlled(&world, &["up corrupt=100%"]);
    assert_eq!(
        guest(
            &world,
            "print(*{echo(port=7001, timeout=0.02) for _ in range(40)})"
        ),
        "None"
    );
    let drops = dropped(&world);
    let noticed = ["checksum", "malformed"].map(|why| drops[why].as_u64().unwrap_or(0));
    assert_eq!(noticed.iter().sum::<u64>(), 40, "{drops}");
    gw.terminate();
    let _gw = controlled(&world, &["down corrupt=100%"]);
    assert_eq!(
        guest(
            &world,
            "print(*{echo(port=7001, timeout=0.02) for _ in range(40)})"
        ),
        "None"
    );
}

#[test]
fn streams_arrive_whole_through_all_of_it() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 8000);
    let _gw = controlled(
        &world,
        &["delay=3ms jitter=2ms loss=1% dup=1% reorder=1% corrupt=1% seed=11"],
    );
    world.guest.py("for address in '192.0.2.1', '2001:db8::1':
    download(address, 8000, 1_000_000)
    upload(address, 8000, 1_000_000)");
    let list = json(&world, &["impair", "list"]);
    for way in ["up", "down"] {
        for count in ["lost", "duplicated", "reordered", "corrupted", "delayed"] {
            let counted = list["rules"][0][way][count].as_u64().expect("a number");
            assert!(counted > 0, "{way} {count}: {list}");
        }
    }
}

/// Numbers of 1000 datagrams each way that arrive with this rule.
fn fates(world: &World, rule: &str) -> (String, String) {
    let mut server = world.remote.serve(
        "s = udp('192.0.2.1', 7000, timeout=10)
ready()
got = []
while True:
    data, peer = s.recvfrom(10)
    if data == b'end':
        break
    got.append(int(data))
print('up', *got, flush=True)
for n in range(1000):
    s.sendto(b'%d' % n, peer)
    time.sleep(0.0005)
s.sendto(b'end', peer)",
    );
    let gw = controlled(world, &["to 192.0.2.2 pass", rule]);
    let down = world.guest.py("s = udp(timeout=10)
s.bind(('', 5000))
for n in range(1000):
    s.sendto(b'%d' % n, ('192.0.2.1', 7000))
    time.sleep(0.0005)
time.sleep(0.2)
got = []
for _ in range(20):
    s.sendto(b'end', ('192.0.2.1', 7000))
s.settimeout(2)
try:
    while (data := s.recv(10)) != b'end':
        got.append(int(data))
except TimeoutError:
    pass
print(*got)");
    let up = server.wait_line("up");
    gw.terminate();
    (up, down)
}

#[test]
fn the_same_seed_gives_the_same_fates() {
    let world = World::new();
    let rule = "proto udp port 7000 loss=20% dup=5%";
    let first = fates(&world, &format!("{rule} seed=7"));
    let again = fates(&world, &format!("{rule} seed=7"));
    let other = fates(&world, &format!("{rule} seed=8"));
    assert_eq!(first, again);
    assert_ne!(first.0, other.0);
    assert_ne!(first.1, other.1);
    for way in [&first.0, &first.1] {
        // 840 ± 80: 20 % of 1050 are lost.
        let arrived = way.split(' ').count();
        assert!((760..920).contains(&arrived), "{arrived}");
    }
}

#[test]
fn a_seed_that_was_chosen_is_told() {
    let world = World::new();
    let gw = Gw::attach(&world, &["--impair", "loss=50%", "--impair", "delay=1ms"]);
    let said = gw.terminate();
    assert!(said.contains("'delay=1ms'"), "{said}");
    let seed = said.split("'loss=50% seed=").nth(1).expect("a seed");
    let seed: u32 = seed
        .split('\'')
        .next()
        .and_then(|s| s.parse().ok())
        .expect("a number");
    let _gw = controlled(&world, &[&format!("loss=50% seed={seed}")]);
    let list = json(&world, &["impair", "list"]);
    assert_eq!(list["rules"][0]["seed"], seed);
    let run = ["run", "--impair", "loss=1%", "--", "true"];
    let run = Launch::new(&world.outer, &run).run().success();
    assert!(run.stderr.contains("'loss=1% seed="), "{run:?}");
}

#[test]
fn rules_change_while_traffic_flows() {
    let world = World::new();
    let _echo = udp_echo(&world.remote, PORT);
    // Not a word of it at the start.
    let _gw = controlled(&world, &[]);
    let impair = |arguments: &[&str]| ctl(&world, &[&["impair"], arguments].concat());
    guest(&world, "assert echo() < 0.2");
    assert!(impair(&["list"]).success().stdout.lines().count() <= 2);
    let table = impair(&["set", "delay=150ms", "port 9 loss=100% seed=3"]).success();
    for word in ["delay=150ms", "port 9 loss=100% seed=3", "on", "up", "down"] {
        assert!(table.stdout.contains(word), "{table:?}");
    }
    guest(&world, "assert 0.3 <= echo() < 0.6");
    // A bad one changes nothing, neither here nor by hand.
    let refused = impair(&["set", "pass", "loss=2"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(refused.stderr.contains("'2' is no share"), "{refused:?}");
    world.outer.py(&format!(
        "import json
s = socket(AF_UNIX)
s.connect({SOCKET:?})
s.sendall(b'{{\"verb\":\"impair_set\",\"rules\":[\"pass\",\"loss=2\"]}}\\n')
answer = json.loads(read_line(s))
assert answer['error']['code'] == 'bad_request', answer
assert 'in percent' in answer['error']['message'], answer"
    ));
    guest(&world, "assert 0.3 <= echo() < 0.6");
    let added = impair(&["add", "port 7000 loss=100%"]).success().stdout;
    assert_eq!(added.trim(), "3");
    assert_eq!(guest(&world, "print(echo())"), "None");
    impair(&["remove", "3"]).success();
    let again = impair(&["remove", "3"]);
    assert!(again.stderr.contains("there is no rule 3"), "{again:?}");
    guest(&world, "assert 0.3 <= echo() < 0.6");
    // What is under way comes when it was to come.
    let mut running = world.guest.spawn_python(&format!(
        "{ECHO}
impairs = time.monotonic()
print('sent', flush=True)
print('took', echo(timeout=5), flush=True)"
    ));
    impair(&["set", "up delay=2s"]).success();
    running.wait_line("sent");
    eventually("the datagram to be under way", PATIENCE, || {
        let list = json(&world, &["impair", "list"]);
        (list["rules"][0]["up"]["packets"] == 1).then_some(())
    });
    impair(&["clear"]).success();
    guest(&world, "assert echo() < 0.3");
    let took = running.wait_line("took");
    let took: f64 = took[5..].parse().expect("a time");
    assert!((2.0..2.4).contains(&took), "{took}");
    let list = json(&world, &["impair", "list"]);
    assert_eq!(list["rules"], Value::Array(Vec::new()));
}

#[test]
fn what_is_held_is_bounded() {
    let world = World::new();
    let mut gw = controlled(&world, &["up delay=5m"]);
    // More than the 64 MiB that are held at most, and not faster than they are taken
    // from the TAP: what that drops is not held.
    let deadline = Instant::now() + Duration::from_secs(60);
    while dropped(&world)["impair_queue"].as_u64().unwrap_or(0) <= 1000 {
        assert!(Instant::now() < deadline, "it holds whatever comes");
        world.guest.py("s = udp()
payload = bytes(1400)
for n in range(10_000):
    s.sendto(payload, ('192.0.2.1', 9))
    if n % 200 == 0: time.sleep(0.01)");
    }
    assert!(gw.alive());
    assert!(gw.peak_kib() < 200 << 10, "{} KiB", gw.peak_kib());
}
