use std::path::Path;
use std::thread;

use super::*;
use crate::net::{MAX_FRAME_LEN, MacAddr, Mtu, PlanV4, PlanV6};
use crate::tap::switch::Switch;

const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const LONG: Duration = Duration::from_secs(10);

/// Sends back every frame, with its first two letters of text turned.
const ECHO: &str = r"
import os
while True:
    frame = os.read(0, 70000)
    if not frame: break
    os.write(1, frame[6:12] + frame[:6] + frame[12:])
";

fn python(script: &str) -> ProcessOptions {
    ProcessOptions::new(ProcessCommand::Program {
        program: "/usr/bin/python3".into(),
        arguments: vec!["-c".into(), script.into()],
    })
}

fn shell(line: &str) -> ProcessOptions {
    ProcessOptions::new(ProcessCommand::Shell(line.into()))
}

fn start(options: &ProcessOptions) -> ProcessLink {
    ProcessLink::start(options).expect("started")
}

fn wait(link: &dyn Link) {
    let mut fds = [PollFd::new(link.readiness(), PollFlags::POLLIN)];
    let patience = PollTimeout::try_from(LONG).expect("time");
    assert_eq!(poll(&mut fds, patience), Ok(1), "nothing came");
}

/// The next frame, or why there will be none.
fn next(link: &mut ProcessLink) -> Result<Vec<u8>, String> {
    let mut buf = vec![0; MAX_FRAME_LEN];
    loop {
        match link.recv(&mut buf) {
            Ok(received) => return Ok(buf[..received.len].to_vec()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => wait(link),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.to_string()),
        }
    }
}

fn send(link: &mut dyn Link, frame: &[u8]) {
    link.send(&Offload::default(), &[IoSlice::new(frame)])
        .expect("room");
}

fn is_alive(pid: &str) -> bool {
    let state = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    // The state stands behind the name, which is in brackets.
    state.is_ok_and(|text| !text.contains(") Z "))
}

fn until_dead(pid: &str) {
    let end = Instant::now() + LONG;
    while is_alive(pid) {
        assert!(Instant::now() < end, "{pid} lives");
        thread::sleep(Duration::from_millis(2));
    }
}

fn text(frame: Vec<u8>) -> String {
    String::from_utf8(frame).expect("text").trim().to_owned()
}

#[test]
fn frames_pass_both_ways_over_either_pair() {
    for pair in [PairType::SeqPacket, PairType::Datagram] {
        let mut link = start(&ProcessOptions {
            pair,
            ..python(ECHO)
        });
        for len in [14, 60, 1514] {
            let frame: Vec<u8> = (0..=255u8).cycle().take(len).collect();
            send(&mut link, &frame);
            let expected = [&frame[6..12], &frame[..6], &frame[12..]].concat();
            assert_eq!(next(&mut link), Ok(expected));
        }
        let pid = link.pid().to_string();
        drop(link);
        assert!(!is_alive(&pid));
    }
}

#[test]
fn the_end_is_seen_with_its_status() {
    for (line, pair, status) in [
        ("exit 3", PairType::SeqPacket, "exit status: 3"),
        ("exit 0", PairType::Datagram, "exit status: 0"),
        ("kill -USR1 $$", PairType::Datagram, "signal: 10 (SIGUSR1)"),
        // It closes its end and sleeps.
        (
            "exec sleep 60 <&- >&-",
            PairType::SeqPacket,
            "signal: 15 (SIGTERM)",
        ),
    ] {
        let mut link = start(&ProcessOptions {
            pair,
            ..shell(line)
        });
        let said = next(&mut link).expect_err("ended");
        assert_eq!(said, format!("the command ended with {status}"), "{line}");
    }
}

#[test]
fn who_does_not_leave_when_asked_is_made_to() {
    let stubborn = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); \
                    os.write(1, b'x'); os.close(0); os.close(1); time.sleep(60)";
    let mut link = start(&python(stubborn));
    assert_eq!(next(&mut link), Ok(b"x".to_vec()));
    let said = next(&mut link).expect_err("ended");
    assert!(said.contains("SIGKILL"), "{said}");

    let stubborn = stubborn.replace("os.close(0); os.close(1); ", "");
    let mut link = start(&python(&stubborn));
    assert_eq!(next(&mut link), Ok(b"x".to_vec()));
    let pid = link.pid().to_string();
    let before = Instant::now();
    drop(link);
    assert!(before.elapsed() < PATIENCE + LONG / 5);
    assert!(!is_alive(&pid));
}

#[test]
fn children_of_the_child_end_with_it() {
    let grandchild = "sleep 60 & echo $!";
    for line in [grandchild.to_owned(), format!("{grandchild}; wait")] {
        let mut link = start(&shell(&line));
        let pid = text(next(&mut link).expect("a number"));
        assert!(is_alive(&pid));
        if line.ends_with("wait") {
            drop(link);
        } else {
            let said = next(&mut link).expect_err("ended");
            assert!(said.contains("exit status: 0"), "{said}");
        }
        until_dead(&pid);
    }
}

/// Started by a process of the test's own, which is then killed.
#[test]
fn the_child_dies_with_us_however_that_happens() {
    const VARIABLE: &str = "GW_TEST_PARENT";
    if std::env::var_os(VARIABLE).is_some() {
        let mut link = start(&shell("echo $$; exec sleep 60"));
        println!("pid {}", text(next(&mut link).expect("a number")));
        thread::sleep(LONG);
        return;
    }
    let name = "tap::process::tests::the_child_dies_with_us_however_that_happens";
    let mut parent = Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", name, "--nocapture"])
        .env(VARIABLE, "1")
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let output = io::BufReader::new(parent.stdout.take().expect("piped"));
    let pid = io::BufRead::lines(output)
        .map(|line| line.expect("text"))
        .find_map(|line| Some(line.split_once("pid ")?.1.to_owned()))
        .expect("a number");
    assert!(is_alive(&pid));
    parent.kill().expect("kill");
    parent.wait().expect("wait");
    until_dead(&pid);
}

#[test]
fn the_child_is_told_about_the_network_and_nothing_is_interpreted() {
    let plan = AddressPlan {
        v4: Some(PlanV4::new("10.0.2.0/24".parse().expect("net")).expect("plan")),
        v6: Some(PlanV6::new("fd00::/64".parse().expect("net")).expect("plan")),
        gateway_mac: GATEWAY,
        mtu: Mtu::new(1400).expect("MTU"),
    };
    let mut link = start(&ProcessOptions {
        environment: environment(&plan),
        ..shell("echo $GW_FD $VPNFD $GW_MEDIUM $GW_MTU $GW_GATEWAY_MAC $GW_GATEWAY4 $GW_GUEST6")
    });
    assert_eq!(
        text(next(&mut link).expect("a line")),
        "0 0 ether 1400 02:00:00:00:00:01 10.0.2.2 fd00::100"
    );
    let mut link = start(&ProcessOptions::new(ProcessCommand::Program {
        program: "echo".into(),
        arguments: vec!["$HOME; *".into(), "two words".into()],
    }));
    assert_eq!(text(next(&mut link).expect("a line")), "$HOME; * two words");
}

#[test]
fn what_cannot_be_started_is_named() {
    let options = ProcessOptions::new(ProcessCommand::Program {
        program: "gw-no-such-program".into(),
        arguments: Vec::new(),
    });
    let said = ProcessSource::start(options).expect_err("nothing there");
    assert!(
        said.to_string()
            .starts_with("cannot start 'gw-no-such-program': No such file"),
        "{said}"
    );
}

/// Runs the switch until it has seen `count` frames.
fn frames(switch: &mut Switch, count: usize) -> Vec<Instant> {
    let mut seen = Vec::new();
    let mut buf = vec![0; MAX_FRAME_LEN];
    while seen.len() < count {
        match switch.recv(&mut buf) {
            Ok(_) => seen.push(Instant::now()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => wait(switch),
            Err(e) => assert_eq!(e.kind(), io::ErrorKind::Interrupted),
        }
    }
    seen
}

#[test]
fn a_child_is_followed_by_another_after_growing_pauses() {
    let hello = "import os; os.write(1, b'\\xff' * 6 + b'\\x02' * 8)";
    let mut switch = Switch::new(GATEWAY).expect("switch");
    let source = ProcessSource::start(ProcessOptions {
        restart: Restart::Always,
        ..python(hello)
    });
    switch
        .add_source(Box::new(source.expect("started")))
        .expect("room");
    let seen = frames(&mut switch, 4);
    let pauses: Vec<_> = seen.windows(2).map(|w| w[1] - w[0]).collect();
    for (pause, least) in pauses.iter().zip([100, 200, 400]) {
        assert!(*pause >= Duration::from_millis(least), "{pauses:?}");
    }
}

#[test]
fn a_child_that_ends_leaves_the_switch() {
    let hello = "import os; os.write(1, b'\\xff' * 6 + b'\\x02' * 8)";
    let mut switch = Switch::new(GATEWAY).expect("switch");
    let source = ProcessSource::start(python(hello)).expect("started");
    switch.add_source(Box::new(source)).expect("room");
    frames(&mut switch, 1);
    let mut buf = vec![0; MAX_FRAME_LEN];
    while switch.ports().count() > 0 {
        wait(&switch);
        let _ = switch.recv(&mut buf);
    }
    let mut fds = [PollFd::new(switch.readiness(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::from(200u8)), Ok(0), "quiet");
}
