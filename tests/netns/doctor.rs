//! `gw doctor`: what it finds on hosts that lack this or that.

use crate::harness::{Finished, Launch, World, gw_binary, require};

fn doctor(world: &World, args: &[&str]) -> Finished {
    Launch::new(&world.outer, &[&["doctor"], args].concat()).run()
}

fn by_nobody(world: &World) -> Finished {
    Launch::new(&world.outer, &["doctor"]).by_nobody().run()
}

/// The report's line about `name`.
#[track_caller]
fn line<'a>(finished: &'a Finished, name: &str) -> &'a str {
    let found = finished.stdout.lines().find(|line| {
        line.split_once(' ')
            .is_some_and(|(_, rest)| rest.trim_start().starts_with(name))
    });
    found.unwrap_or_else(|| panic!("no {name} in {finished:#?}"))
}

#[test]
fn a_host_where_all_is_well_is_left_as_it_was() {
    let world = World::new();
    let before = world.host_state();
    let finished = doctor(&world, &[]).success();
    for name in [
        "/dev/net/tun",
        "user namespaces",
        "TAP interface",
        "kernel offloads",
        "open files",
        "name servers",
    ] {
        assert!(line(&finished, name).starts_with("pass "), "{finished:#?}");
    }
    assert!(line(&finished, "name servers").ends_with("192.0.2.1"));
    assert!(!finished.stdout.contains('\x1b'), "colour in a pipe");
    assert!(finished.stdout.ends_with("gw works here.\n") || finished.stdout.contains("warning"));
    assert_eq!(finished.stderr, "");
    assert_eq!(world.host_state(), before);
}

#[test]
fn json_has_every_line() {
    require("python3");
    let world = World::new();
    let lines = doctor(&world, &[]).success().stdout;
    let gw = gw_binary();
    let names = world.outer.ok(&format!(
        "{} doctor --json | python3 -c '
import json, sys
report = json.load(sys.stdin)
assert report[\"ok\"] is True, report
for check in report[\"checks\"]:
    assert check[\"status\"] in (\"pass\", \"warning\"), check
    assert (check[\"remedy\"] is None) == (check[\"status\"] == \"pass\"), check
    assert check[\"detail\"], check
    print(check[\"name\"])'",
        gw.display()
    ));
    assert_eq!(names.lines().count(), lines.lines().count() - 1, "{lines}");
    for name in names.lines() {
        assert!(lines.contains(name), "{name}");
    }
}

#[test]
fn a_device_that_is_missing_or_closed_is_a_failure() {
    let world = World::new();
    if world.allow_nobody() {
        let finished = by_nobody(&world).success();
        assert!(line(&finished, "TAP").starts_with("pass "), "{finished:#?}");
        assert!(line(&finished, "pings").starts_with("pass "));
        world.outer.ok("chmod 600 /run/.etc/tun");
        let finished = by_nobody(&world);
        assert_eq!(finished.code(), 1, "{finished:#?}");
        let found = line(&finished, "/dev/net/tun");
        assert!(found.starts_with("failure "), "{found}");
        assert!(found.contains("chmod 666 /dev/net/tun"), "{found}");
        assert!(!finished.stdout.contains("TAP"), "one cause, one failure");
    }
    world.outer.ok("mount -t tmpfs tmpfs /dev/net");
    let finished = doctor(&world, &[]);
    assert_eq!(finished.code(), 1, "{finished:#?}");
    assert!(line(&finished, "/dev/net/tun").contains("modprobe tun"));
    finished.says("does not work here");
}

#[test]
fn pings_that_are_not_allowed_are_a_warning() {
    let world = World::new();
    if !world.allow_nobody() {
        return;
    }
    world
        .outer
        .ok("echo 1 0 > /proc/sys/net/ipv4/ping_group_range");
    let finished = by_nobody(&world).success();
    let found = line(&finished, "pings");
    assert!(found.starts_with("warning "), "{found}");
    assert!(found.contains("net.ipv4.ping_group_range="), "{found}");
    let found = line(&finished, "low ports");
    assert!(found.starts_with("warning "), "{found}");
    assert!(found.contains("below 1024"), "{found}");
    world
        .outer
        .ok("echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start");
    let finished = by_nobody(&world).success();
    assert!(line(&finished, "low ports").starts_with("pass "));
}

/// The setting is one per user namespace: the guest's is not the machine's.
#[test]
fn user_namespaces_that_are_switched_off_are_named() {
    let world = World::new();
    world
        .guest
        .ok("echo 0 > /proc/sys/user/max_user_namespaces");
    let gw = gw_binary();
    let finished = world.guest.sh(&format!(
        "setpriv --inh-caps=-all --bounding-set=-all {} doctor",
        gw.display()
    ));
    assert_eq!(finished.code(), 1, "{finished:#?}");
    let found = line(&finished, "user namespaces");
    assert!(found.starts_with("failure "), "{found}");
    assert!(
        found.contains("sysctl -w user.max_user_namespaces=15000"),
        "{found}"
    );
    assert!(!finished.stdout.contains("TAP"), "one cause, one failure");
    // Its root can do without.
    let finished = world
        .guest
        .sh(&format!("{} doctor", gw.display()))
        .success();
    assert!(line(&finished, "user namespaces").starts_with("warning "));
    assert!(line(&finished, "TAP").starts_with("pass "));
}

#[test]
fn name_servers_that_cannot_be_asked_are_a_warning() {
    let world = World::new();
    for (text, wanted) in [
        (
            "nameserver 127.0.0.53\n",
            "127.0.0.53, which gw asks from the host",
        ),
        ("# none\n", "names none"),
        ("nameserver 2001:db8:99::1\n", "no route to 2001:db8:99::1"),
    ] {
        world.set_resolv_conf(text);
        world.outer.sh("ip -6 route del default");
        let finished = doctor(&world, &[]).success();
        let found = line(&finished, "name servers");
        assert!(found.contains(wanted), "{found}");
        assert_eq!(found.starts_with("pass "), wanted.contains("asks from"));
    }
    world.outer.ok("rm /etc/resolv.conf");
    let finished = doctor(&world, &[]).success();
    assert!(line(&finished, "name servers").contains("cannot be read"));
}
