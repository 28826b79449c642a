//! bubblewrap with a network, by the very script of docs/guides/bubblewrap.md.

use crate::guides::{As, run, save};
use crate::harness::peer::{dns_server, tcp_server};
use crate::harness::{GATEWAY4, GUEST4, PATIENCE, REMOTE4, World, eventually, require};

/// A world in which the page's script is saved, with something to reach.
fn world() -> World {
    require("bwrap");
    let world = World::new();
    save(&world, "bubblewrap.md", "bwrap-net");
    world
}

#[track_caller]
fn nothing_is_left(world: &World) {
    eventually("the end of all processes", PATIENCE, || {
        let alive = world.processes();
        (!alive
            .iter()
            .any(|p| p.contains("bwrap") || p.contains("gw")))
        .then_some(())
    });
    assert_eq!(world.outer.ok("ls /run/guide"), "bin\nbwrap-net\n");
}

/// What a sandbox must have, whoever made it.
fn works(world: &World, who: As) {
    let _server = tcp_server(&world.remote, 7000);
    let _dns = dns_server(&world.remote, REMOTE4, REMOTE4);
    let shown = run(world, who, "./bwrap-net ip address show tap0").success();
    shown.says(&format!("inet {GUEST4}/24"));
    let routes = run(world, who, "./bwrap-net ip route").success();
    routes.says(&format!("default via {GATEWAY4}"));
    // The first packet, and a name.
    for at in [REMOTE4, "www.example"] {
        let line = format!(
            "./bwrap-net python3 -c \"import socket; \
             s = socket.create_connection((\\\"{at}\\\", 7000), 5); \
             s.sendall(b\\\"get 1000\\\\n\\\"); print(len(s.recv(10)))\""
        );
        assert_eq!(run(world, who, &line).success().stdout, "10\n", "{at}");
    }
    let finished = run(world, who, "./bwrap-net sh -c \"exit 7\"");
    assert_eq!(finished.code(), 7, "{finished:#?}");
    assert_eq!(finished.stderr, "");
    nothing_is_left(world);
}

#[test]
fn a_sandbox_has_a_network() {
    works(&world(), As::Root);
}

#[test]
fn a_sandbox_of_a_user_without_privilege_has_one_too() {
    let world = world();
    if world.allow_nobody() {
        works(&world, As::Nobody);
    }
}

#[test]
fn a_resolv_conf_that_is_a_link_is_replaced() {
    let world = world();
    world
        .outer
        .ok("mkdir -p /run/stub && mv /etc/resolv.conf /run/stub/ && \
                    ln -s ../run/stub/resolv.conf /etc/resolv.conf");
    let finished = run(&world, As::Root, "./bwrap-net cat /etc/resolv.conf").success();
    assert_eq!(finished.stdout, "nameserver 10.0.2.3\n");
    assert_eq!(
        world.outer.ok("cat /etc/resolv.conf"),
        "nameserver 192.0.2.1\n"
    );
}

#[test]
fn a_gateway_that_fails_ends_the_sandbox() {
    let world = world();
    world.outer.ok("mount -t tmpfs tmpfs /dev/net");
    let finished = run(&world, As::Root, "./bwrap-net touch /run/guide/ran").failure();
    finished.says("modprobe tun");
    nothing_is_left(&world);
}
