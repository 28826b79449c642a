//! Captures that are started and stopped while the gateway runs, and those of
//! several guests.

use super::*;
use crate::guides::{As, PAGE_SERVER, run, save};
use crate::harness::ctl::ctl;
use crate::harness::{Finished, gw_binary};

fn capture(world: &World, arguments: &[&str]) -> Finished {
    ctl(world, &[&["capture"], arguments].concat())
}

fn list(world: &World) -> Vec<serde_json::Value> {
    let said = capture(world, &["--json", "list"]).success().stdout;
    let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    said["captures"].as_array().expect("a list").clone()
}

#[test]
fn captures_are_started_rotated_and_stopped_at_run_time() {
    let world = World::new();
    let _echo = udp_echo(&world.remote, 7);
    let gw = Gw::attach(&world, &["--control", SOCKET]);
    assert!(list(&world).is_empty());
    capture(&world, &["stop"]).failure().says("0 are running");
    exchange_datagrams(&world, 7);
    // A path from where the client is.
    let started = world.outer.ok(&format!(
        "mkdir /run/here && cd /run/here && {} ctl {SOCKET} capture start 'a.pcapng,filter=udp port 7'",
        gw_binary().display()
    ));
    assert_eq!(started, "1\n");
    exchange_datagrams(&world, 7);
    let listed = list(&world);
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["capture"], "/run/here/a.pcapng,filter=udp port 7");
    assert_eq!(listed[0]["file"], "/run/here/a.pcapng");
    assert_eq!(listed[0]["state"], "running");
    capture(&world, &["rotate"]).success();
    exchange_datagrams(&world, 7);
    exchange_datagrams(&world, 7);
    capture(&world, &["stop", "1"]).success();
    exchange_datagrams(&world, 7);
    assert!(list(&world).is_empty());
    // All of it is there when it has stopped.
    let files = files(&world.outer, "/run/here/");
    assert_eq!(files.len(), 2, "{files:?}");
    for (file, rounds) in files.iter().zip([1, 2]) {
        let packets = packets(&world.outer, file, &["frame.interface_name"], "");
        assert_eq!(packets.len(), rounds * 2 * SIZES.len(), "{file}");
        assert!(packets.iter().all(|packet| packet[0] == "tap0"));
    }
    capture(&world, &["stop", "1"])
        .failure()
        .says("there is no capture 1");
    assert_eq!(
        capture(&world, &["start", "/run/b.pcap"]).success().stdout,
        "2\n"
    );
    gw.terminate();
    packets(&world.outer, "/run/b.pcap", &["frame.len"], "");
}

#[test]
fn what_cannot_be_captured_is_refused_with_a_reason() {
    let world = World::new();
    world.outer.ok("mkfifo /run/fifo");
    let gw = Gw::attach(&world, &["--control", SOCKET, "--pcap", "/run/there"]);
    for (arguments, part) in [
        (&["start", "-"][..], "the gateway's standard output"),
        (&["start", "/run/no/a.pcapng"], "make its directory first"),
        (&["start", "/run"], "it is a directory"),
        (&["start", "/run/there"], "another capture"),
        (&["start", "/run/fifo,size=1M"], "is a pipe"),
        (
            &["start", "/run/a,filter=prot 80"],
            "at 'prot', character 1",
        ),
        (&["start", "/run/a,files=x"], "no number of files"),
        (&["rotate", "7"], "there is no capture 7"),
    ] {
        capture(&world, arguments).failure().says(part);
    }
    // Without gw ctl, a path must be absolute.
    world
        .outer
        .sh(&format!(
            "echo '{{\"verb\":\"capture_start\",\"capture\":\"a.pcapng\"}}' | \
             socat -t 5 - UNIX-CONNECT:{SOCKET}"
        ))
        .says("give an absolute path");
    // One that waits for its reader can be stopped.
    let id = capture(&world, &["start", "/run/fifo"]).success().stdout;
    capture(&world, &["stop", id.trim()]).success();
    drop(gw);
    Gw::refused(&world, &["--pcap", "/run/no/a.pcapng"]).says("make its directory first");
    // Another gateway's file is left alone.
    let gw = Gw::attach(&world, &["--pcap", "/run/there"]);
    let guest = world.another_guest();
    let refused = Launch::netns(&world.outer, &guest, &["--pcap", "/run/there"]).try_start();
    let Err(refused) = refused else {
        panic!("both write to one file");
    };
    refused.says("another capture is being written there");
    drop(gw);
}

#[test]
fn guests_on_a_switch_are_interfaces_of_one_file() {
    require("vde_plug");
    let world = World::new();
    let other = world.another_guest();
    let args = [
        "serve",
        "--control",
        SOCKET,
        "--link",
        "vdeswitch:/run/vde",
        "--pcap",
        "/run/a.pcapng",
    ];
    let gw = Launch::new(&world.outer, &args).start();
    let mut cables = Vec::new();
    for (guest, address) in [(&world.guest, "10.0.2.15"), (&other, "10.0.2.16")] {
        cables.push(guest.spawn("vde_plug vde:///run/vde tap://tap0"));
        eventually("the guest's TAP", PATIENCE, || {
            guest
                .interfaces()
                .contains(&"tap0".to_owned())
                .then_some(())
        });
        guest.ok(&format!(
            "ip link set tap0 up; ip addr add {address}/24 dev tap0"
        ));
    }
    world.guest.ok("ping -n -c 3 -i 0.2 -W 5 10.0.2.16");
    world.guest.ok("ping -n -c 2 -i 0.2 -W 5 10.0.2.2");
    let said = Launch::new(&world.outer, &["ctl", SOCKET, "--json", "ports"]).run();
    let ports: serde_json::Value = serde_json::from_str(&said.success().stdout).expect("JSON");
    let name = |at: usize| {
        ports["ports"][at]["name"]
            .as_str()
            .expect("a name")
            .to_owned()
    };
    let (one, two) = (name(0), name(1));
    gw.terminate();
    let fields = [
        "frame.interface_name",
        "frame.packet_flags_direction",
        "ip.src",
        "ip.dst",
        "icmp.type",
    ];
    let seen = packets(&world.outer, "/run/a.pcapng", &fields, "-Y icmp");
    let count = |name: &str, out: bool, from: &str, to: &str, kind: &str| {
        let direction = if out { "2" } else { "1" };
        seen.iter()
            .filter(|packet| {
                packet[0] == name
                    && packet[1].ends_with(direction)
                    && packet[2..] == [from, to, kind]
            })
            .count()
    };
    let (a, b, gateway) = ("10.0.2.15", "10.0.2.16", "10.0.2.2");
    // At both ports, in the view of who is there.
    assert_eq!(count(&one, true, a, b, "8"), 3, "{seen:?}");
    assert_eq!(count(&two, false, a, b, "8"), 3, "{seen:?}");
    assert_eq!(count(&two, true, b, a, "0"), 3, "{seen:?}");
    assert_eq!(count(&one, false, b, a, "0"), 3, "{seen:?}");
    assert_eq!(count(&one, true, a, gateway, "8"), 2, "{seen:?}");
    assert_eq!(count(&one, false, gateway, a, "0"), 2, "{seen:?}");
    assert_eq!(seen.len(), 16, "{seen:?}");
}

#[test]
fn the_guides_scripts_work() {
    require("curl");
    let world = World::new();
    let _names = dns_server(&world.remote, REMOTE4, REMOTE4);
    let _page = world.remote.serve(PAGE_SERVER);
    save(&world, "capture.md", "run");
    save(&world, "capture.md", "ctl");
    run(&world, As::Root, "./run")
        .success()
        .says("example")
        .says("GET / HTTP/1.1");
    let _gw = Gw::attach(&world, &["--control", SOCKET]);
    let said = run(&world, As::Root, &format!("SOCKET={SOCKET} ./ctl")).success();
    assert!(
        said.stdout.contains("/run/guide/trace.pcapng,snaplen=128"),
        "{said:?}"
    );
    assert_eq!(files(&world.outer, "/run/guide/trace").len(), 2);
}
