//! ICMP: echo to anywhere, identifier and payload kept, time exceeded.

use crate::harness::{
    ALT4, DNS4, DNS6, GATEWAY4, GATEWAY6, Gw, Launch, REMOTE4, REMOTE6, World, require,
};

/// A world with a gateway and ping at hand.
fn pinging(args: &[&str]) -> (World, Gw) {
    require("ping");
    let world = World::new();
    let gw = Gw::attach(&world, args);
    (world, gw)
}

#[test]
fn ping_a_remote() {
    let (world, _gw) = pinging(&[]);
    for address in [REMOTE4, ALT4[0], REMOTE6] {
        world
            .guest
            .sh(&format!("ping -n -c 3 -i 0.1 -W 2 {address}"))
            .success()
            .says(" 0% packet loss");
    }
}

#[test]
fn ping_the_gateway_and_the_resolver() {
    let (world, _gw) = pinging(&[]);
    for address in [GATEWAY4, GATEWAY6, DNS4, DNS6] {
        world
            .guest
            .sh(&format!("ping -n -c 2 -i 0.1 -W 2 {address}"))
            .success()
            .says(" 0% packet loss");
    }
}

#[test]
fn sizes_and_contents_are_kept() {
    let (world, _gw) = pinging(&[]);
    for address in [REMOTE4, REMOTE6, GATEWAY4] {
        // ping itself compares what comes back and says "wrong data byte".
        for options in [
            "-s 0",
            "-s 56 -p ff00a55a",
            "-s 1400",
            "-s 1472",
            "-s 8000",
            "-s 20000",
        ] {
            world
                .guest
                .sh(&format!("ping -n -c 2 -i 0.1 -W 2 {options} {address}"))
                .success()
                .says(" 0% packet loss")
                .lacks("wrong data");
        }
    }
}

#[test]
fn the_largest_ping_survives() {
    let (world, _gw) = pinging(&["--mtu", "65520"]);
    world
        .guest
        .sh(&format!("ping -n -c 1 -W 3 -s 65507 {REMOTE4}"))
        .success()
        .says(" 0% packet loss")
        .lacks("wrong data");
}

#[test]
fn identifiers_are_kept() {
    let (world, _gw) = pinging(&[]);
    // Raw sockets choose the identifier themselves; two use different ones at once.
    world.guest.py(&format!(
        "def echo(ident, seq, data):
    head = struct.pack('!BBHHH', 8, 0, 0, ident, seq)
    total = checksum(head + data)
    return struct.pack('!BBHHH', 8, 0, total, ident, seq) + data
s = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP)
s.settimeout(3)
wanted = set()
for ident in (1, 0xabcd, 0xffff):
    for seq in (0, 7):
        s.sendto(echo(ident, seq, b'payload'), ({REMOTE4:?}, 0))
        wanted.add((ident, seq))
while wanted:
    packet = s.recv(2000)
    kind, _, _, ident, seq = struct.unpack('!BBHHH', packet[20:28])
    if kind == 0:
        assert packet[28:] == b'payload'
        wanted.discard((ident, seq))"
    ));
}

#[test]
fn many_pings_at_once() {
    let (world, _gw) = pinging(&[]);
    world
        .guest
        .sh(&format!(
            "for i in $(seq 20); do ping -n -q -c 5 -i 0.05 -W 2 {REMOTE4} > /dev/null & \
             pids=\"$pids $!\"; done; for pid in $pids; do wait $pid || exit 1; done"
        ))
        .success();
}

#[test]
fn an_unanswered_ping_is_not_answered_by_us() {
    let (world, _gw) = pinging(&[]);
    world
        .guest
        .sh("ping -n -c 1 -W 1 203.0.113.3")
        .failure()
        .says("100% packet loss");
}

#[test]
fn an_unreachable_target_is_told() {
    let (world, _gw) = pinging(&[]);
    world
        .guest
        .sh("ping -n -c 1 -W 3 203.0.113.2")
        .failure()
        .says("nreachable");
    world
        .guest
        .sh("ping -n -c 1 -W 3 2001:db8:f::2")
        .failure()
        .says("nreachable");
}

#[test]
fn time_to_live_of_one_is_exceeded_at_the_gateway() {
    let (world, _gw) = pinging(&[]);
    for (address, gateway) in [(REMOTE4, GATEWAY4), (REMOTE6, GATEWAY6)] {
        let run = world
            .guest
            .sh(&format!("ping -n -c 1 -W 2 -t 1 {address}"))
            .failure();
        run.says(&format!("From {gateway}")).says("ime");
    }
}

#[test]
fn traceroute_with_echo_gets_there() {
    require("traceroute");
    let (world, _gw) = pinging(&[]);
    for (address, gateway) in [(REMOTE4, GATEWAY4), (REMOTE6, GATEWAY6)] {
        world
            .guest
            .sh(&format!("traceroute -n -I -q 1 -w 2 -m 5 {address}"))
            .success()
            .says(&format!(" 1  {gateway}"))
            .says(&format!("  {address}  "));
    }
}

#[test]
fn no_icmp_answers_for_the_gateway_only() {
    let (world, _gw) = pinging(&["--no-icmp"]);
    world
        .guest
        .sh(&format!("ping -n -c 1 -W 1 {REMOTE4}"))
        .failure();
    world
        .guest
        .sh(&format!("ping -n -c 1 -W 2 {GATEWAY4}"))
        .success();
}

#[test]
fn a_closed_ping_group_range_is_told_and_does_not_stop_the_rest() {
    require("ping");
    let world = World::new();
    if !world.allow_nobody() {
        return;
    }
    world
        .outer
        .ok("echo 1 0 > /proc/sys/net/ipv4/ping_group_range");
    let ping = ["run", "--", "ping", "-n", "-c", "1", "-W", "1"];
    Launch::new(&world.outer, &[&ping[..], &[REMOTE4]].concat())
        .by_nobody()
        .run()
        .failure()
        .says("ping_group_range");
    // The gateway itself still answers.
    Launch::new(&world.outer, &[&ping[..], &[GATEWAY4]].concat())
        .by_nobody()
        .run()
        .success();
}
