//! The resolver at .3: every record type, errors, fail-over, search, names.

use std::time::Duration;

use crate::harness::peer::{dns_server, tcp_server};
use crate::harness::{
    DNS4, DNS6, Finished, GATEWAY4, GATEWAY6, Gw, PATIENCE, REMOTE4, Running, World, eventually,
    require,
};

/// What the scripted server answers.
const ANSWER: &str = "192.0.2.80";

/// A world with the scripted server as the host's only resolver.
fn scripted(args: &[&str]) -> (World, Running, Gw) {
    require("dig");
    let world = World::new();
    let server = dns_server(&world.remote, REMOTE4, ANSWER);
    let gw = Gw::attach(&world, args);
    (world, server, gw)
}

/// A world with dnsmasq as the host's only resolver.
fn with_dnsmasq() -> (World, Running, Gw) {
    require("dig");
    require("dnsmasq");
    let world = World::new();
    let dnsmasq = world.remote.spawn(
        "dnsmasq --conf-file=/dev/null --no-daemon --user=root --pid-file= --no-resolv --no-hosts \
         --local=/example/ --listen-address=192.0.2.1,2001:db8::1 --bind-interfaces \
         --host-record=both.example,192.0.2.9,2001:db8::9 \
         --cname=alias.example,both.example \
         --txt-record=text.example,'hello world',second \
         --srv-host=_imap._tcp.example,mail.example,993,1,2 \
         --mx-host=example,mail.example,10 \
         --caa-record=example,0,issue,ca.example \
         --ptr-record=9.2.0.192.in-addr.arpa,both.example \
         --dns-rr=secure.example,65,00010000010003026832 \
         --dns-rr=odd.example,65280,c0ffee",
    );
    world.remote.wait_listener('u', "192.0.2.1:53");
    let gw = Gw::attach(&world, &[]);
    (world, dnsmasq, gw)
}

fn dig(world: &World, query: &str) -> Finished {
    world
        .guest
        .sh(&format!("dig +tries=1 +time=8 @{DNS4} {query}"))
        .success()
}

fn short(world: &World, query: &str) -> String {
    dig(world, &format!("+short {query}"))
        .stdout
        .trim()
        .to_owned()
}

#[test]
fn every_record_type_passes() {
    let (world, _dnsmasq, _gw) = with_dnsmasq();
    for (query, answer) in [
        ("both.example A", "192.0.2.9"),
        ("both.example AAAA", "2001:db8::9"),
        ("alias.example A", "both.example.\n192.0.2.9"),
        ("text.example TXT", "\"hello world\" \"second\""),
        ("_imap._tcp.example SRV", "1 2 993 mail.example."),
        ("example MX", "10 mail.example."),
        ("example CAA", "0 issue \"ca.example\""),
        ("-x 192.0.2.9", "both.example."),
        ("odd.example TYPE65280", "\\# 3 C0FFEE"),
    ] {
        assert_eq!(short(&world, query), answer, "{query}");
    }
    let https = short(&world, "secure.example TYPE65");
    assert!(
        https.starts_with("1 . ") || https.contains("00010000010003026832"),
        "{https}"
    );
}

#[test]
fn the_resolver_answers_over_ipv6_and_tcp() {
    let (world, _dnsmasq, _gw) = with_dnsmasq();
    for at in [DNS4, DNS6] {
        for transport in ["+notcp", "+tcp", "+tcp +keepopen"] {
            let run = world.guest.sh(&format!(
                "dig +tries=1 +time=5 @{at} +short {transport} both.example A both.example AAAA"
            ));
            assert_eq!(
                run.success().stdout,
                "192.0.2.9\n2001:db8::9\n",
                "{at} {transport}"
            );
        }
    }
}

#[test]
fn edns_is_spoken() {
    let (world, _dnsmasq, _gw) = with_dnsmasq();
    dig(&world, "+bufsize=1232 both.example A")
        .says("EDNS: version: 0")
        .says("192.0.2.9");
    dig(&world, "+noedns both.example A")
        .lacks("EDNS")
        .says("192.0.2.9");
}

#[test]
fn a_name_that_does_not_exist_stays_so() {
    let (world, _server, _gw) = scripted(&[]);
    dig(&world, "nx.example A").says("status: NXDOMAIN");
    dig(&world, "+tcp nx.example AAAA").says("status: NXDOMAIN");
}

#[test]
fn an_empty_answer_is_not_a_missing_name() {
    let (world, _server, _gw) = scripted(&[]);
    dig(&world, "empty.example A")
        .says("status: NOERROR")
        .says("ANSWER: 0");
}

#[test]
fn a_failing_server_stays_so() {
    let (world, _server, _gw) = scripted(&[]);
    dig(&world, "servfail.example A").says("status: SERVFAIL");
}

#[test]
fn a_silent_server_becomes_a_failure_in_time() {
    let (world, _server, _gw) = scripted(&[]);
    let run = world
        .guest
        .sh(&format!("dig +tries=1 +time=20 @{DNS4} silent.example A"));
    run.success().says("status: SERVFAIL");
}

#[test]
fn a_big_answer_is_truncated_and_comes_over_tcp() {
    let (world, mut server, _gw) = scripted(&[]);
    dig(&world, "+ignore +bufsize=512 big.example TXT").says(" tc ");
    let answer = short(&world, "big.example TXT");
    assert!(answer.contains(&"p".repeat(255)), "{answer}");
    let log = server.output();
    assert!(
        log.contains("query big.example 16 tcp"),
        "no retry over TCP: {log}"
    );
}

#[test]
fn the_case_and_the_question_come_back_as_asked() {
    let (world, _server, _gw) = scripted(&[]);
    dig(&world, "WwW.ExAmPlE A")
        .says("WwW.ExAmPlE.")
        .says(ANSWER);
}

#[test]
fn programs_resolve_names() {
    require("curl");
    let world = World::new();
    let _dns = dns_server(&world.remote, REMOTE4, REMOTE4);
    let _web = tcp_server(&world.remote, 80);
    let _gw = Gw::attach(&world, &[]);
    let run = world.guest.sh("getent ahostsv4 www.example");
    run.success().says(REMOTE4);
    // Any answer will do: curl found the address.
    let run = world
        .guest
        .sh("curl -sv --max-time 3 http://www.example/ 2>&1");
    run.says("Connected to www.example");
}

#[test]
fn the_second_server_takes_over() {
    require("dig");
    let world = World::new();
    world.set_resolv_conf("nameserver 203.0.113.3\nnameserver 198.51.100.1\n");
    let _server = dns_server(&world.remote, "198.51.100.1", "192.0.2.81");
    let _gw = Gw::attach(&world, &[]);
    assert_eq!(short(&world, "www.example A"), "192.0.2.81");
}

#[test]
fn the_second_server_takes_over_from_a_refusing_one() {
    require("dig");
    let world = World::new();
    world.set_resolv_conf("nameserver 192.0.2.1\nnameserver 198.51.100.1\n");
    let _server = dns_server(&world.remote, "198.51.100.1", "192.0.2.81");
    let _gw = Gw::attach(&world, &[]);
    assert_eq!(short(&world, "www.example A"), "192.0.2.81");
}

#[test]
fn an_ipv6_server_serves_ipv4_guests() {
    require("dig");
    let world = World::new();
    world.set_resolv_conf("nameserver 2001:db8::1\n");
    let _server = dns_server(&world.remote, "2001:db8::1", ANSWER);
    let _gw = Gw::attach(&world, &["--no-ipv6"]);
    assert_eq!(short(&world, "www.example A"), ANSWER);
}

#[test]
fn an_ipv4_server_serves_ipv6_guests() {
    let (world, _server, _gw) = scripted(&["--no-ipv4"]);
    let run = world.guest.sh(&format!(
        "dig +tries=1 +time=5 +short @{DNS6} www.example A"
    ));
    assert_eq!(run.success().stdout.trim(), ANSWER);
}

#[test]
fn a_changed_resolv_conf_is_followed() {
    let (world, _server, _gw) = scripted(&[]);
    assert_eq!(short(&world, "first.example A"), ANSWER);
    let _other = dns_server(&world.remote, "198.51.100.2", "192.0.2.82");
    world.set_resolv_conf("nameserver 198.51.100.2\n");
    let mut number = 0;
    eventually("the new server to be asked", PATIENCE, || {
        number += 1;
        (short(&world, &format!("later{number}.example A")) == "192.0.2.82").then_some(())
    });
}

#[test]
fn a_given_server_replaces_the_hosts() {
    require("dig");
    let world = World::new();
    world.set_resolv_conf("nameserver 203.0.113.3\n");
    let _server = dns_server(&world.remote, "198.51.100.1", "192.0.2.83");
    let _gw = Gw::attach(&world, &["--dns", "198.51.100.1"]);
    assert_eq!(short(&world, "www.example A"), "192.0.2.83");
}

#[test]
fn a_given_server_may_have_a_port() {
    require("dig");
    let world = World::new();
    let _server = world
        .remote
        .serve("serve_dns('198.51.100.1', '192.0.2.84', port=5353)");
    let _gw = Gw::attach(&world, &["--dns", "198.51.100.1:5353"]);
    assert_eq!(short(&world, "www.example A"), "192.0.2.84");
}

#[test]
fn a_server_on_the_hosts_loopback_is_reached_by_the_resolver_only() {
    // As with systemd-resolved at 127.0.0.53.
    require("dig");
    let world = World::new();
    world.set_resolv_conf("nameserver 127.0.0.53\n");
    let _server = dns_server(&world.outer, "127.0.0.53", "192.0.2.85");
    let _gw = Gw::attach(&world, &[]);
    assert_eq!(short(&world, "www.example A"), "192.0.2.85");
}

#[test]
fn search_domains_apply_to_names_without_a_dot() {
    let (world, mut server, _gw) =
        scripted(&["--search", "first.example", "--search", "corp.example"]);
    assert_eq!(
        short(&world, "only-corp-example A").lines().last(),
        Some(ANSWER)
    );
    let log = server.output();
    let first = log
        .find("only-corp-example.first.example")
        .expect("the first domain is tried");
    let second = log
        .find("only-corp-example.corp.example")
        .expect("the second domain is tried");
    assert!(first < second, "{log}");
}

#[test]
fn search_domains_come_from_the_hosts_resolv_conf() {
    require("dig");
    let world = World::new();
    world.set_resolv_conf("search first.example corp.example\nnameserver 192.0.2.1\n");
    let _server = dns_server(&world.remote, REMOTE4, ANSWER);
    let _gw = Gw::attach(&world, &[]);
    assert_eq!(
        short(&world, "only-corp-example A").lines().last(),
        Some(ANSWER)
    );
}

#[test]
fn names_with_dots_are_tried_as_given_first() {
    let (world, mut server, _gw) = scripted(&["--search", "corp.example"]);
    assert_eq!(short(&world, "www.other A"), ANSWER);
    assert!(
        !server.output().contains("www.other.corp.example"),
        "{}",
        server.output()
    );
}

#[test]
fn ndots_moves_the_line() {
    let (world, mut server, _gw) = scripted(&["--search", "corp.example", "--ndots", "2"]);
    let _ = short(&world, "www.other A");
    let log = server.output();
    let searched = log
        .find("query www.other.corp.example")
        .expect("the domain is tried");
    let bare = log.find("query www.other ").unwrap_or(usize::MAX);
    assert!(searched < bare, "{log}");
}

#[test]
fn static_names_are_answered_without_the_server() {
    let (world, mut server, _gw) = scripted(&[
        "--host",
        "db.internal=192.0.2.200",
        "--host",
        "db.internal=2001:db8::200",
        "--host",
        "four.internal=192.0.2.201",
    ]);
    assert_eq!(short(&world, "db.internal A"), "192.0.2.200");
    assert_eq!(short(&world, "DB.Internal AAAA"), "2001:db8::200");
    // The name exists, so the other family is empty and not NXDOMAIN.
    dig(&world, "four.internal AAAA")
        .says("status: NOERROR")
        .says("ANSWER: 0");
    assert!(!server.output().contains("internal"), "{}", server.output());
}

#[test]
fn the_gateway_has_names() {
    let (world, _server, _gw) = scripted(&[]);
    for name in [
        "host.gw.internal",
        "host.containers.internal",
        "gateway.gw.internal",
    ] {
        assert_eq!(short(&world, &format!("{name} A")), GATEWAY4, "{name}");
        assert_eq!(short(&world, &format!("{name} AAAA")), GATEWAY6, "{name}");
    }
}

#[test]
fn no_dns_means_none() {
    require("dig");
    let world = World::new();
    let _server = dns_server(&world.remote, REMOTE4, ANSWER);
    let _gw = Gw::attach(&world, &["--no-dns"]);
    world
        .guest
        .sh(&format!("dig +tries=1 +time=1 @{DNS4} www.example A"))
        .failure();
    // A server of the guest's own choice is a destination like any other.
    let run = world.guest.sh(&format!(
        "dig +tries=1 +time=2 +short @{REMOTE4} www.example A"
    ));
    assert_eq!(run.success().stdout.trim(), ANSWER);
}

#[test]
fn nonsense_is_survived() {
    let (world, _server, _gw) = scripted(&[]);
    world.guest.py(&format!(
        "s = udp({DNS4:?}, connected=53, timeout=0.05)
random.seed(7)
for i in range(300):
    s.send(random.randbytes(random.randrange(0, 600)))
t = connect({DNS4:?}, 53)
t.sendall(b'\\xff\\xff' + random.randbytes(1000))
t.close()
t = connect({DNS4:?}, 53)
t.sendall(b'\\0\\0\\0\\1x')
t.close()"
    ));
    assert_eq!(short(&world, "www.example A"), ANSWER);
}

#[test]
fn many_queries_at_once() {
    let (world, _server, _gw) = scripted(&[]);
    world.guest.py(&format!(
        "def query(i):
    return struct.pack('!HHHHHH', i, 0x100, 1, 0, 0, 0) + dns_name(f'www{{i}}.example') + b'\\0\\1\\0\\1'
s = udp({DNS4:?}, connected=53, timeout=3)
left = set(range(200))
for attempt in range(3):
    for i in list(left): s.send(query(i))
    try:
        while left:
            answer = s.recv(2000)
            assert answer[3] & 15 == 0 and answer.endswith(inet_aton({ANSWER:?}))
            left.discard(struct.unpack('!H', answer[:2])[0])
    except timeout: pass
assert not left, left"
    ));
}

#[test]
fn queries_without_an_answer_are_bounded() {
    let (world, _server, gw) = scripted(&[]);
    let (memory, descriptors) = (gw.resident_kib(), gw.descriptors());
    world.guest.py(&format!(
        "s = udp({DNS4:?}, connected=53)
for i in range(5000):
    name = dns_name(f'silent.n{{i}}.example')
    s.send(struct.pack('!HHHHHH', i, 0x100, 1, 0, 0, 0) + name + b'\\0\\1\\0\\1')"
    ));
    let grown = gw.resident_kib().saturating_sub(memory);
    assert!(grown < 64 << 10, "grew by {grown} KiB");
    let opened = gw.descriptors().saturating_sub(descriptors);
    assert!(opened < 2100, "opened {opened} descriptors");
    eventually("answers again", Duration::from_secs(20), || {
        let query = format!("dig +tries=1 +time=2 +short @{DNS4} www.example A");
        (world.guest.sh(&query).stdout.trim() == ANSWER).then_some(())
    });
}
