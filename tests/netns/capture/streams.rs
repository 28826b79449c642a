//! Captures that are read while they are made: FIFOs and standard output.

use super::*;
use crate::harness::gw_binary;

#[test]
fn wireshark_reads_a_fifo_live_and_may_leave() {
    require("tshark");
    let world = World::new();
    let _echo = udp_echo(&world.remote, 7);
    world.outer.ok("mkfifo /run/fifo");
    // Nobody reads it yet, which keeps nobody waiting.
    let args = ["--control", SOCKET, "--pcap", "/run/fifo,filter=udp port 7"];
    let gw = Gw::attach(&world, &args);
    let list = || {
        Launch::new(&world.outer, &["ctl", SOCKET, "capture", "list"])
            .run()
            .success()
    };
    list().says("waiting for a reader");
    exchange_datagrams(&world, 7);
    let mut tshark = world
        .outer
        .spawn("tshark -n -l -i /run/fifo -T fields -e udp.length -e frame.interface_name");
    tshark.wait_line("1480");
    list().says("running");
    world.guest.py(&format!(
        "s = udp('{REMOTE4}', connected=7); s.send(b'x' * 233); s.recv(999)"
    ));
    tshark.wait_line("241");
    tshark.signal(Signal::SIGINT);
    tshark.finish(PATIENCE);
    // It is noticed with the next packet.
    exchange_datagrams(&world, 7);
    eventually("a message", PATIENCE, || {
        let said = gw.stderr();
        said.contains("the capture to '/run/fifo' has ended: its reader has left")
            .then_some(())
    });
    list().lacks("fifo");
    exchange_datagrams(&world, 7);
    gw.terminate();
}

#[test]
fn standard_output_can_be_piped_on() {
    require("tshark");
    let world = World::new();
    let _echo = udp_echo(&world.remote, 7);
    let pid = world.guest.inner_pid();
    let gw = gw_binary();
    let mut pipeline = world.outer.spawn(&format!(
        "sh -c '{} --netns {pid} --control {SOCKET} --pcap \"-,filter=udp port 7\" 2>/run/said | \
         tshark -n -l -r - -T fields -e udp.length -e frame.interface_name'",
        gw.display()
    ));
    eventually("the gateway", PATIENCE, || {
        let asked = Launch::new(&world.outer, &["ctl", SOCKET, "info"]).run();
        asked.status.success().then_some(())
    });
    exchange_datagrams(&world, 7);
    pipeline.wait_line("1480\ttap0");
    Launch::new(&world.outer, &["ctl", SOCKET, "shutdown"])
        .run()
        .success();
    let seen = pipeline.done();
    assert_eq!(seen.lines().count(), 2 * SIZES.len(), "{seen}");
}

#[test]
fn standard_output_is_not_for_two() {
    let world = World::new();
    for (args, part) in [
        (
            &["run", "--pcap", "-", "--", "true"][..],
            "the command of 'gw run' writes to standard output",
        ),
        (
            &["--netns", "1", "--pcap", "-", "--pcap", "-"],
            "would both be written to standard output",
        ),
        (
            &["serve", "--link", "fd:0,1", "--pcap", "-"],
            "standard output",
        ),
    ] {
        Launch::new(&world.outer, args).run().failure().says(part);
    }
    require("script");
    let pid = world.guest.inner_pid();
    let gw = gw_binary();
    world
        .outer
        .sh(&format!(
            "script -qec '{} --netns {pid} --pcap -' /dev/null </dev/null",
            gw.display()
        ))
        .failure()
        .says("it is a terminal");
}

#[test]
fn a_command_of_gw_run_is_captured() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 80);
    let fetch = format!("printf 'get 1000\\n' | nc -N {REMOTE4} 80 | wc -c");
    let args = ["run", "--pcap", "/run/a.pcapng", "--", "sh", "-c", &fetch];
    Launch::new(&world.outer, &args)
        .run()
        .success()
        .says("1000");
    let fields = ["tcp.srcport", "tcp.len", "frame.interface_name"];
    let packets = packets(&world.outer, "/run/a.pcapng", &fields, "-Y tcp.port==80");
    let sum: u32 = packets
        .iter()
        .filter(|packet| packet[0] == "80")
        .map(|packet| packet[1].parse::<u32>().expect("a number"))
        .sum();
    assert_eq!(sum, 1000);
    assert_eq!(packets[0][2], "tap0");
    // What a shell makes of >(...) is a pipe that it has opened.
    require("tshark");
    let gw = gw_binary();
    world.outer.ok(&format!(
        "bash -c \"{} run --pcap >(cat > /run/b.pcapng) -- sh -c \\\"{fetch}\\\"\"",
        gw.display()
    ));
    let again = eventually("the reader's end", PATIENCE, || {
        let found = world.outer.sh("capinfos -Mc /run/b.pcapng");
        found.status.success().then_some(found.stdout)
    });
    assert!(again.contains("Number of packets"), "{again}");
}

#[test]
fn a_slow_reader_loses_packets_which_are_counted() {
    require("tshark");
    let world = World::new();
    let _server = tcp_server(&world.remote, 80);
    world.outer.ok("mkfifo /run/fifo");
    let gw = Gw::attach(&world, &["--pcap", "/run/fifo", "--control", SOCKET]);
    // Opens and does not read until it is told.
    let mut reader = world.outer.serve(
        "f = open('/run/fifo', 'rb')
ready()
sys.stdin.readline()
out = open('/run/copy.pcapng', 'wb')
while data := f.read(1 << 16): out.write(data)
out.close()
print('end', flush=True)",
    );
    world
        .guest
        .py(&format!("download('{REMOTE4}', 80, 60_000_000)"));
    let list = Launch::new(&world.outer, &["ctl", SOCKET, "--json", "capture", "list"]).run();
    let list: serde_json::Value = serde_json::from_str(&list.success().stdout).expect("JSON");
    let lost = list["captures"][0]["lost"].as_u64().expect("a number");
    assert!(lost > 10_000, "{list}");
    reader.write(b"\n");
    // The rest of the queue goes through; what comes then says what was lost.
    eventually("room in the queue", PATIENCE, || {
        let before = Launch::new(&world.outer, &["ctl", SOCKET, "--json", "capture", "list"]).run();
        let before: serde_json::Value = serde_json::from_str(&before.stdout).expect("JSON");
        (before["captures"][0]["packets"].as_u64() > Some(5000)).then_some(())
    });
    world.guest.ok(&format!("ping -n -c 1 -W 5 {DNS4}"));
    let said = gw.terminate();
    reader.wait_line("end");
    assert!(said.contains("loses packets"), "{said}");
    assert!(said.contains("lacks packets"), "{said}");
    let dropped = packets(
        &world.outer,
        "/run/copy.pcapng",
        &["frame.drop_count"],
        "-Y frame.drop_count",
    );
    let dropped: u64 = dropped
        .iter()
        .map(|packet| packet[0].parse::<u64>().expect("a number"))
        .sum();
    assert!(dropped >= lost, "{dropped} {lost}");
}
